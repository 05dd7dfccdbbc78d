import { StorError, chunkBytes, regionBytes } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import { bitmapOfRuns, runsOfBitmap } from '../core/replication/bitmap-runs.ts';
import type { ReplicaStore } from '../replica-store.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';

/** Before the text of a bitmap that is given as runs (`peerOpen.runs`). */
const runsMark = '~';

/** A bitmap as it goes over the wire; `runs`: the other side knows that form too. */
export function textOf(bitmap: Bitmap, runs: boolean): string {
  const short = runs ? runsOfBitmap(bitmap) : null;
  if (short) return runsMark + Buffer.from(short).toString('base64');
  return Buffer.from(bitmap.toBytes()).toString('base64');
}

/** As many bits of it as there is room for. Throws PROTOCOL. */
export function bitmapOfText(text: string, size: number): Bitmap {
  if (!text.startsWith(runsMark)) return new Bitmap(size, Buffer.from(text, 'base64'));
  const bitmap = bitmapOfRuns(Buffer.from(text.slice(runsMark.length), 'base64'), size);
  if (!bitmap) throw new StorError('PROTOCOL', `a set of ${size} came as runs that are none of it`);
  return bitmap;
}

export function chunksOfPeer(text: string, sizeBytes: number): Bitmap {
  return bitmapOfText(text, Math.ceil(sizeBytes / chunkBytes));
}

/** Chunks of a replica that take space, as a bitmap. */
export function allocatedBitmap(store: ReplicaStore): Bitmap {
  return allocatedWhere(store, () => true);
}

/** Chunks of a replica that a write needs no new room for. */
export function ownedBitmap(store: ReplicaStore): Bitmap {
  const snapshots = snapshotsOf(store);
  return snapshots
    ? allocatedWhere(store, (chunk) => snapshots.ownsChunk(chunk))
    : allocatedBitmap(store);
}

function allocatedWhere(store: ReplicaStore, has: (chunk: number) => boolean): Bitmap {
  const bitmap = new Bitmap(Math.ceil(store.sizeBytes / chunkBytes));
  for (let chunk = store.nextAllocated(0); chunk >= 0; chunk = store.nextAllocated(chunk + 1)) {
    if (has(chunk)) bitmap.add(chunk);
  }
  return bitmap;
}

export function regionBitmap(store: ReplicaStore, regions: readonly number[]): Bitmap {
  const bitmap = new Bitmap(Math.ceil(store.sizeBytes / regionBytes));
  for (const region of regions) bitmap.add(region);
  return bitmap;
}

/** What a replica says of its room and its size just now; `credits` are kept for who asks. */
export function peerSpaceOf(
  store: ReplicaStore,
  credits: number,
  runs: boolean,
): {
  allocated: string;
  owned: string;
  sizeBytes: number;
  freeChunks: number;
} {
  return {
    allocated: textOf(allocatedBitmap(store), runs),
    owned: textOf(ownedBitmap(store), runs),
    sizeBytes: store.sizeBytes,
    freeChunks: credits,
  };
}
