import { StorError, type SnapshotId } from '@stor/protocol';

import { findSnapshot, snapshotBytes } from '../core/replication/snapshot-list.ts';
import type { StoreDone } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';

/**
 * A snapshot of the member is equal to the source's: it becomes durable, and ready if the source's is.
 * While it is being made it is confirmed together with the others.
 */
export function confirmImage(
  segment: Segment,
  member: Member,
  image: SnapshotId,
  isCurrent: () => boolean,
  over: StoreDone,
): void {
  member.flush((error) => {
    if (error || !isCurrent()) {
      over(error);
      return;
    }
    const source = segment.sources()[0];
    const isReady = source && findSnapshot(source.snapshots, image)?.state === 'ready';
    const sizeBytes = snapshotBytes([...segment.sources(), member], image);
    if (isReady) member.confirmSnapshot(image, over, sizeBytes);
    else over(null);
  });
}

/** All that the member has becomes durable; then it knows what the source knows of changes. */
export function adoptGeneration(
  segment: Segment,
  member: Member,
  isCurrent: () => boolean,
  over: StoreDone,
): void {
  const lost = new StorError('UNAVAILABLE', 'the resync source was lost');
  member.flush((error) => {
    const source = segment.sources()[0];
    if (error || !isCurrent() || !source) {
      over(error ?? lost);
      return;
    }
    const { generation } = source;
    source.history((failed, history) => {
      if (failed || !isCurrent()) {
        over(failed ?? lost);
        return;
      }
      member.adopt(generation, history, (refused) => {
        if (!refused) member.generation = generation;
        over(refused);
      });
    });
  });
}
