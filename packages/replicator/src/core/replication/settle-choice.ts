/** One member's view of a chunk: what each block's bytes hash to, and whether they match its record. */
export interface ChunkSums {
  /** 128 bits for each block, one after another */
  hashes: Uint8Array;
  /**
   * per block: 1 when its bytes match the checksum that is stored beside it, 2 when the disk cannot
   * read it, else 0
   */
  valid: Uint8Array;
}

/** Bytes of a block's hash. */
export const hashBytes = 16;

export const nobody = 255;

export interface SettleChoice {
  /** per block: index of the member whose bytes stand; `nobody` when no disk can read it */
  source: Uint8Array;
  /** first and last block that some member must be given; first > last when none */
  firstBlock: number;
  lastBlock: number;
}

/** True when the bytes of a block are the same at both, whether they verify or not. */
export function sameHash(a: ChunkSums, b: ChunkSums, block: number): boolean {
  const end = (block + 1) * hashBytes;
  for (let at = block * hashBytes; at < end; at++) if (a.hashes[at] !== b.hashes[at]) return false;
  return true;
}

/** True when both hold the same bytes there and both verify. */
export function blocksEqual(a: ChunkSums, b: ChunkSums, block: number): boolean {
  return a.valid[block] === 1 && b.valid[block] === 1 && sameHash(a, b, block);
}

/**
 * Decides a chunk of a marked region after an unclean stop. Member 0 is the truth. A block of it
 * that does not verify is no verdict there: another member's verifying block is taken, and if none
 * verifies the truth's bytes stand and are summed again. What no disk can read has no bytes: it is
 * left as it is, an error to read, until somebody writes it.
 */
export function chooseBlocks(members: readonly ChunkSums[]): SettleChoice {
  const truth = members[0];
  const blocks = truth ? truth.valid.length : 0;
  const choice: SettleChoice = {
    source: new Uint8Array(blocks),
    firstBlock: blocks,
    lastBlock: -1,
  };
  for (let block = 0; block < blocks; block++) {
    let source = members.findIndex((member) => member.valid[block] === 1);
    if (source < 0) source = members.findIndex((member) => member.valid[block] === 0);
    choice.source[block] = source < 0 ? nobody : source;
    const chosen = members[source];
    if (!chosen || members.every((member) => blocksEqual(member, chosen, block))) continue;
    choice.firstBlock = Math.min(choice.firstBlock, block);
    choice.lastBlock = block;
  }
  return choice;
}

/** What a block of zeros hashes to. */
const zeroBlockHash = Uint8Array.of(
  0xad,
  0x7f,
  0xac,
  0xb2,
  0x58,
  0x6f,
  0xc6,
  0xe9,
  0x66,
  0xc0,
  0x04,
  0xd7,
  0xd1,
  0xd1,
  0x6b,
  0x02,
);

/** True when every block verifies and is zeros. */
export function isZeros({ hashes, valid }: ChunkSums): boolean {
  return (
    valid.every((one) => one === 1) &&
    hashes.every((byte, at) => byte === zeroBlockHash[at % hashBytes])
  );
}
