import { ackLogKinds, type AckLogRecord } from './ack-log.ts';
import { sectorBytes } from './stamp.ts';
import { WriteModel } from './write-model.ts';

/** What a log amounts to: the model, and the counts that a test asks for. */
export interface AckHistory {
  seed: number;
  /** the range of the volume that the writer uses (bytes) */
  offset: number;
  length: number;
  model: WriteModel;
  lastSequence: number;
  acknowledged: number;
  /** writes acknowledged after the last FLUSH that was answered had been sent */
  acknowledgedSinceFlush: number;
}

/** Replays a log. Throws when it has no begin record. */
export function replayAckLog(records: readonly AckLogRecord[]): AckHistory {
  const begin = records[0];
  if (begin?.kind !== ackLogKinds.begin) throw new Error('the log has no begin record');
  const history: AckHistory = {
    seed: begin.sequence,
    offset: begin.offset,
    length: begin.length,
    model: new WriteModel(begin.length / sectorBytes),
    lastSequence: 0,
    acknowledged: 0,
    acknowledgedSinceFlush: 0,
  };
  const ids = new Map<number, number>();
  let acknowledgedAtFlushSent = 0;
  let acknowledgedAtFlush = 0;
  for (const record of records) {
    const { kind, sequence } = record;
    if (kind === ackLogKinds.write || kind === ackLogKinds.zero) {
      const id = kind === ackLogKinds.zero ? -sequence : sequence;
      ids.set(sequence, id);
      const first = (record.offset - history.offset) / sectorBytes;
      history.model.issue(id, first, record.length / sectorBytes);
      history.lastSequence = Math.max(history.lastSequence, sequence);
    } else if (kind === ackLogKinds.acknowledged) {
      history.model.acknowledge(takeId(ids, sequence));
      history.acknowledged += 1;
    } else if (kind === ackLogKinds.givenUp) {
      history.model.giveUp(takeId(ids, sequence));
    } else if (kind === ackLogKinds.flushSent) {
      acknowledgedAtFlushSent = history.acknowledged;
    } else if (kind === ackLogKinds.flushed) {
      acknowledgedAtFlush = acknowledgedAtFlushSent;
    }
  }
  history.acknowledgedSinceFlush = history.acknowledged - acknowledgedAtFlush;
  // Whoever reads a log after its writer has gone knows that nothing is in flight any more.
  for (const id of history.model.inFlight()) history.model.giveUp(id);
  return history;
}

function takeId(ids: Map<number, number>, sequence: number): number {
  const id = ids.get(sequence);
  if (id === undefined) throw new Error(`the log answers write ${sequence}, which it never sent`);
  ids.delete(sequence);
  return id;
}

/** Writes whose answer came in [fromMs, toMs), and all; for the share of a time window. */
export function countAcknowledged(
  records: readonly AckLogRecord[],
  fromMs = 0,
  toMs = Infinity,
): number {
  let count = 0;
  for (const { kind, timeMs } of records) {
    if (kind === ackLogKinds.acknowledged && timeMs >= fromMs && timeMs < toMs) count += 1;
  }
  return count;
}
