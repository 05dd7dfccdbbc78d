import { membersNeeded, type VolumePolicy } from '@stor/protocol';

/** What of the members decides whether writes may be acknowledged. */
export interface MembersView {
  /** members of the committed set that are not away */
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
  /** what every member has applied is acknowledged; false: too few members have it */
  acknowledges: boolean;
}

const start: WriteRule = { writes: 'start', refusesReads: false, acknowledges: true };
const wait: WriteRule = { writes: 'wait', refusesReads: false, acknowledges: true };
const park: WriteRule = { writes: 'park', refusesReads: false, acknowledges: false };
const refuse: WriteRule = { writes: 'refuse', refusesReads: false, acknowledges: false };
const refuseAll: WriteRule = { writes: 'refuse', refusesReads: true, acknowledges: true };

/**
 * The failure mode's rule (DESIGN "Failure modes"). The set states facts and shrinks whenever a
 * member is lost; how many of it an acknowledgement needs is this rule alone. While the set is being
 * changed nobody knows how many there will be, so writes wait in any case. What *every* member that
 * must have it has applied is acknowledged even then: members that are away are among them.
 */
export function decideWrites(
  view: MembersView,
  policy: Pick<VolumePolicy, 'failureMode' | 'onLoss'>,
  replicas: number,
): WriteRule {
  const isError = policy.onLoss === 'error';
  if (view.allAway) return isError ? refuseAll : wait;
  if (view.changing) return wait;
  if (view.inSync >= membersNeeded(policy.failureMode, replicas)) return start;
  return isError ? refuse : park;
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
  if (rule.acknowledges) return '';
  const needed = membersNeeded(policy.failureMode, replicas);
  const verb = view.inSync === 1 ? 'is' : 'are';
  return (
    `${view.inSync} of ${replicas} replicas ${verb} in sync and failure mode ${policy.failureMode} ` +
    `needs ${needed}${who}: writes ${fate} until enough are in sync again, reads go on`
  );
}
