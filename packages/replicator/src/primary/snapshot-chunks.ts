import type { SnapshotId } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import type { Member } from './member.ts';
import { gather } from './settler.ts';

export interface ReadySnapshot {
  readonly snapshotId: SnapshotId;
  readonly sizeBytes: number;
}

/** Members on which the snapshot is ready: those must be equal. */
export function readyMembers(members: readonly Member[], snapshotId: SnapshotId): Member[] {
  return members.filter(({ snapshots }) =>
    snapshots.some((each) => each.snapshotId === snapshotId && each.state === 'ready'),
  );
}

/** Snapshots that are ready at any of the members, in the order in which they were taken. */
export function readySnapshots(members: readonly Member[]): ReadySnapshot[] {
  const sizes = new Map<SnapshotId, number>();
  for (const { snapshots } of members) {
    for (const { snapshotId, sizeBytes, state } of snapshots) {
      if (state === 'ready') sizes.set(snapshotId, sizeBytes);
    }
  }
  return [...sizes].map(([snapshotId, sizeBytes]) => ({ snapshotId, sizeBytes }));
}

/**
 * Chunks of a snapshot that lie in places of their own at any member where it is ready: those that
 * differ from its parent's and from the live image's; the others are read there. Empty when it is
 * gone meanwhile.
 */
export function ownChunks(
  members: readonly Member[],
  snapshotId: SnapshotId,
  done: (chunks: Bitmap) => void,
): void {
  let union: Bitmap | null = null;
  gather(readyMembers(members, snapshotId), (member, _index, next) => {
    const known = member.snapshots.find((each) => each.snapshotId === snapshotId);
    member.changedChunks(known?.parent ?? null, snapshotId, (_failed, fromParent) => {
      member.changedChunks(snapshotId, null, (_alsoFailed, toLive) => {
        if (fromParent && toLive) {
          union ??= new Bitmap(fromParent.size);
          const own = fromParent.copy();
          own.retainAll(toLive);
          union.addAll(own);
        }
        next(null);
      });
    });
  })(() => {
    done(union ?? new Bitmap(0));
  });
}
