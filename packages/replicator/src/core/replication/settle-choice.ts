/** One member's view of a chunk: CRC-32 of each block's bytes, and whether they match its record. */
export interface ChunkSums {
  sums: Uint32Array;
  valid: Uint8Array;
}

export interface SettleChoice {
  /** per block: index of the member whose bytes stand */
  source: Uint8Array;
  /** first and last block that some member must be given; first > last when none */
  firstBlock: number;
  lastBlock: number;
}

/**
 * Decides a chunk of a marked region after an unclean stop. Member 0 is the truth. A block of it
 * that does not verify is no verdict there: another member's verifying block is taken, and if none
 * verifies the truth's bytes stand and are summed again.
 */
export function chooseBlocks(members: readonly ChunkSums[]): SettleChoice {
  const truth = members[0];
  const blocks = truth ? truth.sums.length : 0;
  const choice: SettleChoice = {
    source: new Uint8Array(blocks),
    firstBlock: blocks,
    lastBlock: -1,
  };
  for (let block = 0; block < blocks; block++) {
    let source = members.findIndex((member) => member.valid[block] === 1);
    if (source < 0) source = 0;
    choice.source[block] = source;
    const sum = members[source]?.sums[block];
    const equal = members.every(
      (member) => member.valid[block] === 1 && member.sums[block] === sum,
    );
    if (equal) continue;
    choice.firstBlock = Math.min(choice.firstBlock, block);
    choice.lastBlock = block;
  }
  return choice;
}

/** True when two replicas hold the same verified bytes. */
export function chunksEqual(a: ChunkSums, b: ChunkSums): boolean {
  for (let block = 0; block < a.sums.length; block++) {
    if (a.valid[block] !== 1 || b.valid[block] !== 1 || a.sums[block] !== b.sums[block]) {
      return false;
    }
  }
  return true;
}

/** CRC-32 of 4096 zero bytes. */
const zeroBlockSum = 0xc71c0011;

/** True when every block verifies and its sum is that of zeros. */
export function isZeros({ sums, valid }: ChunkSums): boolean {
  return sums.every((sum, block) => valid[block] === 1 && sum === zeroBlockSum);
}
