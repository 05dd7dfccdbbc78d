import type { LockOwner } from '../core/replication/range-lock.ts';

/** The engine alone in a range: a settle or a resync copy. */
export class ChunkLock implements LockOwner {
  readonly lockStart: number;
  readonly lockEnd: number;
  readonly lockExclusive = true;
  lockSlot = -1;
  readonly lockGranted: () => void;

  constructor(offset: number, length: number, granted: () => void) {
    this.lockStart = offset;
    this.lockEnd = offset + length;
    this.lockGranted = granted;
  }
}
