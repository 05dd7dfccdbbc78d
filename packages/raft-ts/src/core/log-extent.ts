import { invariant } from '../errors.ts';
import type { LogPosition } from './types.ts';
import type { SaveBatch } from './storage.ts';

/**
 * Which indexes a store holds, and what a batch does to them. Every store asks this one, so all
 * refuse the same batches and delete the same entries.
 */
export interface ExtentChange {
  start: LogPosition;
  last: number;
  /** first and last index to delete, before entries are put; empty when first > last */
  deletions: { first: number; last: number }[];
}

export function applyToExtent(start: LogPosition, last: number, batch: SaveBatch): ExtentChange {
  const deletions: { first: number; last: number }[] = [];
  let begin = start;
  let end = last;
  if (batch.log.type === 'compact') {
    const { position } = batch.log;
    invariant(position.index <= last, `the log ends at ${last}, before ${position.index}`);
    invariant(batch.snapshot !== null, 'a log is compacted only with the snapshot that covers it');
    invariant(position.index <= batch.snapshot.index, 'the snapshot does not cover the compaction');
    if (position.index > start.index) {
      deletions.push({ first: start.index + 1, last: position.index });
      begin = position;
    }
  } else if (batch.log.type === 'reset') {
    deletions.push({ first: start.index + 1, last });
    begin = batch.log.position;
    end = begin.index;
  }
  const first = batch.entries[0];
  if (first) {
    invariant(
      first.index > begin.index && first.index <= end + 1,
      `entry ${first.index} leaves a gap`,
    );
    batch.entries.forEach((entry, i) => {
      invariant(entry.index === first.index + i, `entry ${entry.index} is out of order`);
    });
    const newLast = first.index + batch.entries.length - 1;
    deletions.push({ first: newLast + 1, last: end });
    end = newLast;
  }
  return { start: begin, last: end, deletions: deletions.filter((d) => d.first <= d.last) };
}
