import type { Membership } from './membership.ts';
import type { PeerId } from './types.ts';

/** Arithmetic of majorities, of one set of voters and of the two of a joint membership. */

export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * The highest index that a majority has acknowledged; `acknowledged` answers 0 for who has said
 * nothing. No voters: 0, as nobody could have acknowledged anything.
 */
export function committedIndex(
  voters: Iterable<PeerId>,
  acknowledged: (voter: PeerId) => number,
): number {
  const indexes = [...voters].map(acknowledged).sort((a, b) => b - a);
  return indexes[majority(indexes.length) - 1] ?? 0;
}

/** What both majorities of a joint membership have, or the one majority of a simple one. */
export function jointCommittedIndex(
  { voters, outgoing }: Membership,
  acknowledged: (voter: PeerId) => number,
): number {
  const index = committedIndex(voters, acknowledged);
  return outgoing.length === 0 ? index : Math.min(index, committedIndex(outgoing, acknowledged));
}

export type VoteResult = 'won' | 'lost' | 'pending';

/** Won: a majority said yes. Lost: so many said no that no majority can say yes any more. */
export function voteResult(
  voters: Iterable<PeerId>,
  votes: ReadonlyMap<PeerId, boolean>,
): VoteResult {
  let count = 0;
  let yes = 0;
  let no = 0;
  for (const voter of voters) {
    const vote = votes.get(voter);
    count++;
    if (vote === true) yes++;
    if (vote === false) no++;
  }
  const needed = majority(count);
  if (count > 0 && yes >= needed) return 'won';
  return count - no < needed ? 'lost' : 'pending';
}

/** A joint membership is won in both halves, and lost in either. */
export function jointVoteResult(
  { voters, outgoing }: Membership,
  votes: ReadonlyMap<PeerId, boolean>,
): VoteResult {
  const result = voteResult(voters, votes);
  if (outgoing.length === 0) return result;
  const other = voteResult(outgoing, votes);
  if (result === other) return result;
  return result === 'lost' || other === 'lost' ? 'lost' : 'pending';
}
