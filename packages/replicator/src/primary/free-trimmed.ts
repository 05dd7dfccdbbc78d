import { blockBytes, chunkBytes } from '@stor/protocol';

import { ChunkLock } from './chunk-lock.ts';
import type { Segment } from './segment.ts';

/**
 * A chunk that clients have trimmed in parts gives its space back: zeros for all of it are sent to all
 * members, under its lock. `zero` sends nothing if it was written first.
 */
export function freeTrimmed(
  { lock, sizeBytes }: Segment,
  chunk: number,
  zero: (offset: number, length: number, done: () => void) => void,
): void {
  const offset = chunk * chunkBytes;
  const end = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  const length = Math.min(chunkBytes, end - offset);
  const owner = new ChunkLock(offset, length, () => {
    zero(offset, length, () => {
      lock.release(owner);
    });
  });
  if (lock.acquire(owner)) owner.lockGranted();
}
