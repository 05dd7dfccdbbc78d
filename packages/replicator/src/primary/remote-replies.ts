import { StorError, blockBytes } from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import { hashBytes, type ChunkSums } from '../core/replication/settle-choice.ts';

/** Block sums, then blocks: checks and copies them; CHECKSUM_MISMATCH when they were damaged. */
export function takeVerified(
  bytes: Buffer,
  body: number,
  length: number,
  target: Uint8Array,
  start: number,
): StorError | null {
  const blocks = length / blockBytes;
  const data = body + blocks * 4;
  for (let block = 0; block < blocks; block++) {
    const at = data + block * blockBytes;
    if (crc32(bytes.subarray(at, at + blockBytes)) !== bytes.readUInt32BE(body + block * 4)) {
      return new StorError('CHECKSUM_MISMATCH', 'a block was damaged between two nodes');
    }
  }
  target.set(bytes.subarray(data, data + length), start);
  return null;
}

/** One byte per block that says whether it verifies, then blocks. */
export function takeUnverified(
  bytes: Buffer,
  body: number,
  length: number,
  target: Uint8Array,
  start: number,
  valid: Uint8Array,
): void {
  const blocks = length / blockBytes;
  valid.set(bytes.subarray(body, body + blocks));
  target.set(bytes.subarray(body + blocks, body + blocks + length), start);
}

/** A hash per block, then a byte per block that says whether it verifies. */
export function takeSums(bytes: Buffer, body: number, length: number): ChunkSums {
  const blocks = length / blockBytes;
  const front = blocks * hashBytes;
  return {
    hashes: new Uint8Array(bytes.subarray(body, body + front)),
    valid: new Uint8Array(bytes.subarray(body + front, body + front + blocks)),
  };
}

export function misfit(): StorError {
  return new StorError('PROTOCOL', 'the answer is not to what was asked');
}
