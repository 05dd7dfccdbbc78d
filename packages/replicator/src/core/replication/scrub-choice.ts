import { sameHash, type ChunkSums } from './settle-choice.ts';

/** A block of a member that is to be given the bytes of another one. */
export interface ScrubRewrite {
  block: number;
  /** indexes of members */
  member: number;
  source: number;
}

/** What is wrong with a chunk, by indexes of members and numbers of blocks in it. */
export interface ScrubChoice {
  /** blocks that do not verify, or that the disk cannot read */
  bad: { block: number; member: number }[];
  /** those of them that no member has */
  kept: { block: number; member: number }[];
  rewrites: ScrubRewrite[];
  /** blocks that verify wherever they are kept and differ, and nobody can say who is right */
  diverged: number[];
}

/** So many members must be asked before most of them outvote the others. */
const membersForMajority = 3;

/**
 * Judges a chunk of members that ought to be equal: its marks are settled, nothing is being written
 * to it. A block that does not verify is given the bytes of those that do, when they agree. Where
 * verifying blocks differ, more than half of all members outvote the rest, if there are three or
 * more; else the block is left as it is: whoever guessed could destroy the right one.
 */
export function judgeChunk(members: readonly ChunkSums[]): ScrubChoice {
  const choice: ScrubChoice = { bad: [], kept: [], rewrites: [], diverged: [] };
  const blocks = members[0]?.valid.length ?? 0;
  for (let block = 0; block < blocks; block++) judgeBlock(members, block, choice);
  return choice;
}

function judgeBlock(members: readonly ChunkSums[], block: number, choice: ScrubChoice): void {
  const bad: number[] = [];
  /** verifying members by what they hold; the first of each group speaks for it */
  const groups: number[][] = [];
  members.forEach((member, index) => {
    if (member.valid[block] !== 1) {
      bad.push(index);
      return;
    }
    const group = groups.find(([first]) => {
      const other = members[first ?? -1];
      return other !== undefined && sameHash(other, member, block);
    });
    if (group) group.push(index);
    else groups.push([index]);
  });
  if (bad.length === 0 && groups.length <= 1) return;
  for (const member of bad) choice.bad.push({ block, member });
  const truth = groups.length === 1 ? groups[0] : majority(groups, members.length);
  const source = truth?.[0];
  if (truth && source !== undefined) {
    members.forEach((_, member) => {
      if (!truth.includes(member)) choice.rewrites.push({ block, member, source });
    });
  } else if (groups.length === 0) {
    for (const member of bad) choice.kept.push({ block, member });
  } else choice.diverged.push(block);
}

function majority(groups: readonly number[][], members: number): number[] | undefined {
  if (members < membersForMajority) return undefined;
  return groups.find((group) => group.length * 2 > members);
}
