import {
  type Crc32,
  getU64,
  isZero,
  putU64,
  sealUnit,
  startUnit,
  unitBytes,
  unitHeaderBytes,
  unitIsValid,
} from './format.ts';
import {
  decodeRecord,
  encodedRecordBytes,
  encodeRecord,
  type JournalRecord,
} from './journal-record.ts';

const headerMagic = 'StorJrnl';
const frameMagic = 'StorFram';
/** unit header, generation u64 at 16, first LSN u64 at 24, record count u32 at 32, length u32 at 36 */
export const frameHeaderBytes = 40;
/** One commit is one frame, at most this long: what one fdatasync carries, and replay's memory. */
export const maxFrameBytes = 256 * 1024;

export interface JournalHeader {
  /** grows by one each time a journal file is begun again */
  generation: number;
  /** LSN of the first record in the file */
  firstLsn: number;
}

/** First unit of a journal file. */
export function encodeJournalHeader(header: JournalHeader, crc32: Crc32): Uint8Array {
  const unit = new Uint8Array(unitBytes);
  const view = startUnit(unit, headerMagic);
  putU64(view, 16, header.generation);
  putU64(view, 24, header.firstLsn);
  sealUnit(unit, crc32);
  return unit;
}

export function decodeJournalHeader(bytes: Uint8Array, crc32: Crc32): JournalHeader | null {
  const unit = bytes.subarray(0, unitBytes);
  if (unit.length < unitBytes || !unitIsValid(unit, headerMagic, crc32)) return null;
  const view = new DataView(unit.buffer, unit.byteOffset, unit.byteLength);
  return { generation: getU64(view, 16), firstLsn: getU64(view, 24) };
}

/** How many of the first records fit into one frame of at most `maxBytes`. */
export function recordsThatFit(records: readonly JournalRecord[], maxBytes: number): number {
  let bytes = frameHeaderBytes;
  let count = 0;
  for (const record of records) {
    bytes += encodedRecordBytes(record);
    if (bytes > maxBytes) break;
    count += 1;
  }
  return count;
}

/** A frame is whole units, so that writing one never touches a unit of the one before. */
export function encodeFrame(
  generation: number,
  firstLsn: number,
  records: readonly JournalRecord[],
  crc32: Crc32,
): Uint8Array {
  let bytes = frameHeaderBytes;
  for (const record of records) bytes += encodedRecordBytes(record);
  const frame = new Uint8Array(Math.ceil(bytes / unitBytes) * unitBytes);
  const view = startUnit(frame, frameMagic);
  putU64(view, 16, generation);
  putU64(view, 24, firstLsn);
  view.setUint32(32, records.length, true);
  view.setUint32(36, frame.length, true);
  let at = frameHeaderBytes;
  for (const record of records) at = encodeRecord(record, frame, at);
  sealUnit(frame, crc32);
  return frame;
}

export interface DecodedFrame {
  generation: number;
  firstLsn: number;
  frameBytes: number;
  records: JournalRecord[];
}

export function decodeFrame(file: Uint8Array, at: number, crc32: Crc32): DecodedFrame | null {
  if (at + unitHeaderBytes > file.length) return null;
  for (let i = 0; i < 8; i++) if (file[at + i] !== frameMagic.charCodeAt(i)) return null;
  const view = new DataView(file.buffer, file.byteOffset + at, file.length - at);
  const frameBytes = view.getUint32(36, true);
  if (frameBytes === 0 || frameBytes % unitBytes !== 0 || frameBytes > maxFrameBytes) return null;
  if (at + frameBytes > file.length) return null;
  const frame = file.subarray(at, at + frameBytes);
  if (!unitIsValid(frame, frameMagic, crc32)) return null;
  const count = view.getUint32(32, true);
  const records: JournalRecord[] = [];
  let position = frameHeaderBytes;
  for (let i = 0; i < count; i++) {
    const { record, next } = decodeRecord(frame, position);
    records.push(record);
    position = next;
  }
  return { generation: getU64(view, 16), firstLsn: getU64(view, 24), frameBytes, records };
}

export interface ReplayedJournal {
  /** records after `appliedLsn`, in order */
  records: JournalRecord[];
  lastLsn: number;
  /** highest generation seen, in headers or frames */
  generation: number;
  /** null, or why records may be missing: what they changed is not known (never a torn tail) */
  damage: string | null;
}

/**
 * Finds the records after `appliedLsn` in the two journal files. The end of the journal is the first
 * unit that is no valid next frame; a frame is written only when the one before is durable, so a
 * valid later frame of the same generation beyond that end proves damage, not a torn tail.
 */
export function replayJournal(
  files: readonly Uint8Array[],
  appliedLsn: number,
  crc32: Crc32,
): ReplayedJournal {
  const out: ReplayedJournal = { records: [], lastLsn: appliedLsn, generation: 0, damage: null };
  const found = files.map((bytes, index) => ({
    bytes,
    index,
    header: decodeJournalHeader(bytes, crc32),
  }));
  const live: { bytes: Uint8Array; index: number; header: JournalHeader }[] = [];
  for (const { bytes, index, header } of found) {
    if (header) {
      live.push({ bytes, index, header });
      out.generation = Math.max(out.generation, header.generation);
    } else {
      // A header is durable before the first frame of its file is written, so beside a torn one
      // there are only frames already applied.
      const frames = validFramesFrom(bytes, unitBytes, crc32, () => true);
      for (const frame of frames) {
        out.generation = Math.max(out.generation, frame.generation);
        if (frame.firstLsn + frame.records.length - 1 > appliedLsn) {
          out.damage ??= `the header of journal.${index} is damaged while its records are needed`;
        }
      }
    }
  }
  live.sort((a, b) => a.header.generation - b.header.generation);
  let nextLsn: number | null = null;
  for (const [position, file] of live.entries()) {
    const following = live[position + 1];
    if (following && following.header.firstLsn <= appliedLsn + 1) continue;
    if (
      nextLsn === null ? file.header.firstLsn > appliedLsn + 1 : file.header.firstLsn !== nextLsn
    ) {
      out.damage ??= `journal.${file.index} begins at record ${file.header.firstLsn}, but records from ${nextLsn ?? appliedLsn + 1} on are needed`;
      nextLsn = file.header.firstLsn;
    }
    nextLsn = readFrames(file, appliedLsn, crc32, out);
  }
  out.lastLsn = Math.max(appliedLsn, (nextLsn ?? 1) - 1);
  return out;
}

function readFrames(
  file: { bytes: Uint8Array; index: number; header: JournalHeader },
  appliedLsn: number,
  crc32: Crc32,
  out: ReplayedJournal,
): number {
  const { generation } = file.header;
  let nextLsn = file.header.firstLsn;
  let at = unitBytes;
  while (at < file.bytes.length) {
    const frame = decodeFrame(file.bytes, at, crc32);
    if (!frame || frame.generation !== generation || frame.firstLsn !== nextLsn) {
      const later = validFramesFrom(
        file.bytes,
        at,
        crc32,
        (other) => other.generation === generation && other.firstLsn >= nextLsn,
      );
      if (later.length > 0) {
        out.damage ??= `journal.${file.index} is damaged at byte ${at}: valid records follow`;
      }
      break;
    }
    for (const [i, record] of frame.records.entries()) {
      if (frame.firstLsn + i > appliedLsn) out.records.push(record);
    }
    nextLsn += frame.records.length;
    at += frame.frameBytes;
  }
  return nextLsn;
}

/** Every valid frame from `at` on, looked for at each unit. */
function validFramesFrom(
  bytes: Uint8Array,
  at: number,
  crc32: Crc32,
  wanted: (frame: DecodedFrame) => boolean,
): DecodedFrame[] {
  const frames: DecodedFrame[] = [];
  for (let unit = at; unit + unitBytes <= bytes.length; unit += unitBytes) {
    if (isZero(bytes.subarray(unit, unit + unitHeaderBytes))) continue;
    const frame = decodeFrame(bytes, unit, crc32);
    if (frame && wanted(frame)) frames.push(frame);
  }
  return frames;
}
