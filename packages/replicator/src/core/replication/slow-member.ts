/** What is known of a member that has not answered something for a while. */
export interface SlowMember {
  /** age of the oldest request that it has not answered, over the limit for its kind (ms each) */
  oldestMs: number;
  limitMs: number;
  /** above this nothing goes on with it: it leaves even when then too few are left */
  longLimitMs: number;
  isInSync: boolean;
  isLocal: boolean;
  /** in-sync members besides it that are open */
  others: number;
  /** how many an acknowledgement needs (failure mode) */
  needed: number;
}

/**
 * Whether a slow member is given up. A slow acknowledgement is better than none: while the failure
 * mode needs the member, it stays, unless nothing at all has been acknowledged for the long limit.
 * The last member's local disk is never given up: there is nothing that could come back faster.
 */
export function isGivenUp(member: SlowMember): boolean {
  const { oldestMs, limitMs, longLimitMs, isInSync, isLocal, others, needed } = member;
  if (oldestMs <= limitMs) return false;
  if (!isInSync || others >= Math.max(1, needed)) return true;
  if (isLocal && others === 0) return false;
  return oldestMs > longLimitMs;
}
