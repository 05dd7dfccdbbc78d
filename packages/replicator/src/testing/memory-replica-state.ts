import { blockBytes, chunkBytes, type StorError } from '@stor/protocol';
import { crc32, type Random } from '@stor/runtime';

import {
  noGeneration,
  type Generation,
  type ReplicaIdentity,
  type SetView,
} from '../replica-store.ts';
import { MemorySnapshots } from './memory-snapshots.ts';

export const zeroSum = crc32(new Uint8Array(blockBytes));

/** What lies on the disk and in the page cache: it outlives the process. */
export class MemoryReplicaState {
  readonly identity: ReplicaIdentity;
  blocks: number;
  bytes: Buffer;
  sums: Uint32Array;
  readonly snapshots = new MemorySnapshots(this);
  /** what a power cut leaves of blocks that were written and not flushed */
  readonly unflushed = new Map<number, { bytes: Buffer; sum: number }>();
  readonly allocated = new Set<number>();
  /** marked region -> number of its last use */
  readonly marks = new Map<number, number>();
  readonly stamps = new Map<number, Generation>();
  /** regions whose mark went though a block of them was not flushed: no checkpoint may do that */
  readonly retiredEarly = new Set<number>();
  generation: Generation = noGeneration;
  historyAfter: Generation = noGeneration;
  setView: SetView | null = null;
  highestEpoch = 0;
  keptMemory = true;
  clean = true;
  /** recorded outside the disk, so it outlives the process (I7) */
  failure: StorError | null = null;

  constructor(identity: ReplicaIdentity) {
    this.identity = identity;
    this.blocks = Math.ceil(identity.sizeBytes / blockBytes);
    this.bytes = Buffer.alloc(this.blocks * blockBytes);
    this.sums = new Uint32Array(this.blocks).fill(zeroSum);
  }

  put(block: number, bytes: Uint8Array, start: number, sum: number): void {
    const at = block * blockBytes;
    if (!this.unflushed.has(block)) {
      const before = Buffer.from(this.bytes.subarray(at, at + blockBytes));
      this.unflushed.set(block, { bytes: before, sum: this.sums[block] ?? 0 });
    }
    this.bytes.set(bytes.subarray(start, start + blockBytes), at);
    this.sums[block] = sum;
    this.snapshots.own(Math.floor(at / chunkBytes));
  }

  grow(sizeBytes: number): void {
    this.identity.sizeBytes = sizeBytes;
    this.blocks = Math.ceil(sizeBytes / blockBytes);
    this.bytes = Buffer.concat([this.bytes], this.blocks * blockBytes);
    const sums = new Uint32Array(this.blocks).fill(zeroSum);
    sums.set(this.sums);
    this.sums = sums;
  }

  isValid(block: number): boolean {
    const at = block * blockBytes;
    return crc32(this.bytes.subarray(at, at + blockBytes)) === this.sums[block];
  }

  /** The host loses power: of what was not flushed, any part is lost. */
  losePower(random: Random): void {
    for (const [block, before] of this.unflushed) {
      const chance = random.next();
      if (chance < 0.3) continue;
      before.bytes.copy(this.bytes, block * blockBytes);
      // sometimes data and checksum are lost apart
      if (chance < 0.9) this.sums[block] = before.sum;
    }
    this.unflushed.clear();
    this.snapshots.losePower(random);
    if (!this.clean) this.keptMemory = false;
  }
}
