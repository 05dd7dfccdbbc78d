import type { PeerId } from './types.ts';

/** Arithmetic of majorities. Membership change will add joint majorities beside these. */

export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * The highest index that a majority has acknowledged; `acknowledged` answers 0 for who has said
 * nothing. No voters: 0, as nobody could have acknowledged anything.
 */
export function committedIndex(
  voters: ReadonlySet<PeerId>,
  acknowledged: (voter: PeerId) => number,
): number {
  if (voters.size === 0) return 0;
  const indexes = [...voters].map(acknowledged).sort((a, b) => b - a);
  return indexes[majority(voters.size) - 1] ?? 0;
}

export type VoteResult = 'won' | 'lost' | 'pending';

/** Won: a majority said yes. Lost: so many said no that no majority can say yes any more. */
export function voteResult(
  voters: ReadonlySet<PeerId>,
  votes: ReadonlyMap<PeerId, boolean>,
): VoteResult {
  let yes = 0;
  let no = 0;
  for (const voter of voters) {
    const vote = votes.get(voter);
    if (vote === true) yes++;
    if (vote === false) no++;
  }
  const needed = majority(voters.size);
  if (voters.size > 0 && yes >= needed) return 'won';
  return voters.size - no < needed ? 'lost' : 'pending';
}
