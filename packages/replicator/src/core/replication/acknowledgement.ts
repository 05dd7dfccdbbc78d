import { membersNeeded, type VolumePolicy } from '@stor/protocol';

/** What of the members decides whether writes may be acknowledged. */
export interface MembersView {
  /** members of the committed set */
  committed: number;
  /** of these, those that are not away */
  inSync: number;
  /** a member's fate is open, or nobody keeps the set yet (I4) */
  changing: boolean;
  /** every member is away (I7) */
  allAway: boolean;
}

/** What happens to writes of clients now. */
export interface WriteRule {
  /**
   * - `start`: they go to the members.
   * - `wait`: they keep their turn; the set is being changed, or a member is awaited.
   * - `park`: they are set aside, so that reads, settle and resync of the same ranges go on.
   * - `refuse`: they are answered with an error.
   */
  writes: 'start' | 'wait' | 'park' | 'refuse';
  /** reads are answered with an error: nobody is left who could answer them */
  refusesReads: boolean;
  /** what every member has applied is acknowledged; false: too few can have it */
  acknowledges: boolean;
}

/**
 * The failure mode's rule (DESIGN "Failure modes"). The set states facts and shrinks whenever a
 * member is lost; how many of it an acknowledgement needs is this rule alone. While the set is being
 * changed nobody knows how many there will be, so writes wait in any case.
 */
export function decideWrites(
  view: MembersView,
  policy: Pick<VolumePolicy, 'failureMode' | 'onLoss'>,
  replicas: number,
): WriteRule {
  const needed = membersNeeded(policy.failureMode, replicas);
  const isError = policy.onLoss === 'error';
  // a member that is away may have applied a write before it went
  const acknowledges = view.committed >= needed;
  if (view.allAway) {
    return { writes: isError ? 'refuse' : 'wait', refusesReads: isError, acknowledges };
  }
  if (view.changing) return { writes: 'wait', refusesReads: false, acknowledges };
  if (view.inSync >= needed) return { writes: 'start', refusesReads: false, acknowledges: true };
  return { writes: isError ? 'refuse' : 'park', refusesReads: false, acknowledges: false };
}

/** Why writes do not go on, for the person who runs the database. */
export function explainRule(
  rule: WriteRule,
  view: MembersView,
  policy: Pick<VolumePolicy, 'failureMode' | 'onLoss'>,
  replicas: number,
  missing: readonly string[],
): string {
  const who = missing.length > 0 ? ` (missing: ${missing.join(', ')})` : '';
  const fate = rule.writes === 'refuse' ? 'get errors' : 'wait';
  if (view.allAway) return `no in-sync replica can be reached${who}: reads and writes ${fate}`;
  if (view.changing) return `the in-sync set is being changed${who}: writes wait for that`;
  if (rule.writes === 'start') return '';
  const needed = membersNeeded(policy.failureMode, replicas);
  const verb = view.inSync === 1 ? 'is' : 'are';
  return (
    `${view.inSync} of ${replicas} replicas ${verb} in sync and failure mode ${policy.failureMode} ` +
    `needs ${needed}${who}: writes ${fate} until enough are in sync again, reads go on`
  );
}
