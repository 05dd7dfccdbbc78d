import { StorError, blockBytes, hasCode, type SnapshotId } from '@stor/protocol';

import type { Member } from './member.ts';

/**
 * Reads a range of a snapshot from the first member that can give it, and block by block when none
 * can give all of it. `unreadable` has where blocks begin that none can give, in bytes from
 * `offset`; their place in the target means nothing.
 */
export function readSnapshotBlocks(
  sources: readonly Member[],
  snapshotId: SnapshotId,
  offset: number,
  length: number,
  target: Buffer,
  done: (error: StorError | null, unreadable: number[]) => void,
): void {
  const unreadable: number[] = [];
  const next = (at: number): void => {
    if (at === length) {
      done(null, unreadable);
      return;
    }
    readFirst(sources, snapshotId, offset + at, blockBytes, target, at, (error) => {
      if (error && !isBlockError(error)) {
        done(error, unreadable);
        return;
      }
      if (error) unreadable.push(at);
      next(at + blockBytes);
    });
  };
  readFirst(sources, snapshotId, offset, length, target, 0, (error) => {
    if (error && isBlockError(error)) next(0);
    else done(error, unreadable);
  });
}

function readFirst(
  sources: readonly Member[],
  snapshotId: SnapshotId,
  offset: number,
  length: number,
  target: Buffer,
  start: number,
  done: (error: StorError | null) => void,
): void {
  const [source, ...others] = sources;
  if (!source) {
    done(new StorError('UNAVAILABLE', 'no replica can be read'));
    return;
  }
  source.view(snapshotId).read(offset, length, target, start, (error) => {
    if (error && others.length > 0) {
      readFirst(others, snapshotId, offset, length, target, start, (next) => {
        // one that cannot be asked now may have it: that is no verdict on the block
        done(next && isBlockError(next) ? error : next);
      });
    } else done(error);
  });
}

/** The member cannot give this block; others may. */
function isBlockError(error: StorError): boolean {
  return hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED');
}
