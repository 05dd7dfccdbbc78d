import { chunkBytes } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import type { ReplicaStore } from '../replica-store.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';

/** A bitmap as it goes over the wire. */
export function base64Of(bitmap: Bitmap): string {
  return Buffer.from(bitmap.bytes).toString('base64');
}

/** As many bits of it as there are chunks. */
export function chunksOfPeer(base64: string, sizeBytes: number): Bitmap {
  return new Bitmap(Math.ceil(sizeBytes / chunkBytes), Buffer.from(base64, 'base64'));
}

/** Chunks of a replica that take space, as a bitmap. */
export function allocatedBitmap(store: ReplicaStore): Bitmap {
  return bitmapOf(store, (chunk) => store.isAllocated(chunk));
}

/** Chunks of a replica that a write needs no new room for. */
export function ownedBitmap(store: ReplicaStore): Bitmap {
  const snapshots = snapshotsOf(store);
  return snapshots
    ? bitmapOf(store, (chunk) => snapshots.ownsChunk(chunk))
    : allocatedBitmap(store);
}

function bitmapOf(store: ReplicaStore, has: (chunk: number) => boolean): Bitmap {
  const bitmap = new Bitmap(Math.ceil(store.sizeBytes / chunkBytes));
  for (let chunk = 0; chunk < bitmap.size; chunk++) if (has(chunk)) bitmap.add(chunk);
  return bitmap;
}

/** What a replica says of its room and its size just now; `credits` are kept for who asks. */
export function peerSpaceOf(
  store: ReplicaStore,
  credits: number,
): {
  allocated: string;
  owned: string;
  sizeBytes: number;
  freeChunks: number;
} {
  return {
    allocated: base64Of(allocatedBitmap(store)),
    owned: base64Of(ownedBitmap(store)),
    sizeBytes: store.sizeBytes,
    freeChunks: credits,
  };
}
