import { checksum, isUnit, unitBytes, u64 } from './bytes.ts';

const frameHeaderBytes = 40;
const recordHeaderBytes = 16;
const maxFrameBytes = 256 * 1024;

/** Record types that this reader looks into; it steps over the others that it knows. */
export const recordTypes = { delete: 2, create: 11, slots: 12, layers: 13, resize: 14 } as const;
const highestRecordType = 14;

export interface JournalRecord {
  lsn: number;
  type: number;
  /** number of the replica on this disk; of slots and layers, of the lineage */
  owner: number;
  body: Buffer;
}

interface Frame {
  generation: number;
  firstLsn: number;
  frameBytes: number;
  records: JournalRecord[];
}

export interface Journal {
  /** records after the image's applied LSN, in order */
  records: JournalRecord[];
  problems: string[];
}

interface JournalFile {
  index: number;
  bytes: Buffer;
  generation: number;
  firstLsn: number;
}

/** Reads both journal files and puts their records in order. */
export function readJournal(files: readonly Buffer[], appliedLsn: number): Journal {
  const journal: Journal = { records: [], problems: [] };
  const valid: JournalFile[] = [];
  files.forEach((bytes, index) => {
    const header = bytes.subarray(0, unitBytes);
    if (header.readUInt32LE(12) === 1) return;
    if (isUnit(header, 'StorJrnl')) {
      valid.push({ index, bytes, generation: u64(header, 16), firstLsn: u64(header, 24) });
    } else if (framesFrom(bytes, unitBytes).some((frame) => lastLsn(frame) > appliedLsn)) {
      journal.problems.push(
        `the header of journal.${index} is damaged, and its records are needed`,
      );
    }
  });
  valid.sort((a, b) => a.generation - b.generation);
  let expected: number | null = null;
  valid.forEach((file, position) => {
    const following = valid[position + 1];
    if (following && following.firstLsn <= appliedLsn + 1) return;
    const gap = expected === null ? file.firstLsn > appliedLsn + 1 : file.firstLsn !== expected;
    if (gap) {
      journal.problems.push(
        `journal.${file.index} begins at record ${file.firstLsn}: some before it are missing`,
      );
    }
    expected = readFile(file, appliedLsn, journal);
  });
  if (valid.length === 0) journal.problems.push('no journal file has a valid header');
  return journal;
}

/** Reads frames until the end and returns the number that the next record would have. */
function readFile(file: JournalFile, appliedLsn: number, journal: Journal): number {
  let expected = file.firstLsn;
  let at = unitBytes;
  for (;;) {
    const frame = frameAt(file.bytes, at);
    if (frame?.generation !== file.generation || frame.firstLsn !== expected) break;
    journal.records.push(...frame.records.filter((record) => record.lsn > appliedLsn));
    expected += frame.records.length;
    at += frame.frameBytes;
  }
  // A frame is written when the one before is durable: a later one proves damage, not an end.
  const later = framesFrom(file.bytes, at).some(
    (frame) => frame.generation === file.generation && frame.firstLsn >= expected,
  );
  if (later) journal.problems.push(`journal.${file.index} is damaged at byte ${at}`);
  return expected;
}

function lastLsn(frame: Frame): number {
  return frame.firstLsn + frame.records.length - 1;
}

/** Every valid frame behind a place, looked for at each unit. */
function framesFrom(bytes: Buffer, from: number): Frame[] {
  const frames: Frame[] = [];
  for (let at = from; at < bytes.length; at += unitBytes) {
    const frame = frameAt(bytes, at);
    if (frame) frames.push(frame);
  }
  return frames;
}

function frameAt(bytes: Buffer, at: number): Frame | null {
  if (at + unitBytes > bytes.length) return null;
  if (bytes.toString('latin1', at, at + 8) !== 'StorFram') return null;
  const frameBytes = bytes.readUInt32LE(at + 36);
  const fits = frameBytes >= unitBytes && frameBytes <= maxFrameBytes;
  if (!fits || frameBytes % unitBytes !== 0 || at + frameBytes > bytes.length) return null;
  const frame = bytes.subarray(at, at + frameBytes);
  // left by the format before: what it said is in the tables
  if (frame.readUInt32LE(12) === 1) return null;
  if (frame.readUInt32LE(8) !== checksum(frame.subarray(12))) return null;
  const firstLsn = u64(frame, 24);
  const count = frame.readUInt32LE(32);
  const records: JournalRecord[] = [];
  let position = frameHeaderBytes;
  for (let index = 0; index < count; index += 1) {
    const bodyBytes = frame.readUInt32LE(position + 4);
    const start = position + recordHeaderBytes;
    const type = frame.readUInt16LE(position);
    if (type < 1 || type > highestRecordType) {
      throw new Error(`record ${firstLsn + index} has type ${type}: only a newer version knows it`);
    }
    records.push({
      lsn: firstLsn + index,
      type,
      owner: frame.readUInt32LE(position + 8),
      body: frame.subarray(start, start + bodyBytes),
    });
    position = start + Math.ceil(bodyBytes / 8) * 8;
  }
  return { generation: u64(frame, 16), firstLsn, frameBytes, records };
}
