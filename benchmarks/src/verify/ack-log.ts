import { closeSync, existsSync, fstatSync, openSync, readFileSync, writeSync } from 'node:fs';

/** What a record says. The numbers are part of the file's format. */
export const ackLogKinds = {
  /** first record: sequence = seed, offset and length = the range of the volume in use */
  begin: 1,
  /** about to be sent */
  write: 2,
  zero: 3,
  acknowledged: 4,
  /** answered with an error, or the connection broke before an answer */
  givenUp: 5,
  flushSent: 6,
  flushed: 7,
} as const;
export type AckLogKind = (typeof ackLogKinds)[keyof typeof ackLogKinds];

export interface AckLogRecord {
  kind: AckLogKind;
  timeMs: number;
  sequence: number;
  offset: number;
  length: number;
}

/** kind u8, 3 bytes zero, length u32, time u64 (ms since 1970), sequence u64, offset u64 */
const recordBytes = 32;

/**
 * The log of a verifying writer: append-only, written by the writer's own process before a request
 * is sent and after it is answered, so it does not depend on any agent.
 */
export class AckLog {
  readonly #file: number;
  readonly #record = Buffer.alloc(recordBytes);

  constructor(path: string) {
    this.#file = openSync(path, 'a');
    if (fstatSync(this.#file).size % recordBytes !== 0) {
      throw new Error(`${path} ends in the middle of a record: it is no log of a verifying writer`);
    }
  }

  append(kind: AckLogKind, sequence: number, offset: number, length: number): void {
    const record = this.#record;
    record.writeUInt8(kind, 0);
    record.writeUInt32BE(length, 4);
    record.writeBigUInt64BE(BigInt(Date.now()), 8);
    record.writeBigUInt64BE(BigInt(sequence), 16);
    record.writeBigUInt64BE(BigInt(offset), 24);
    writeSync(this.#file, record);
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** All whole records of a log, in order; a writer that was killed may leave half a record. */
export function readAckLog(path: string): AckLogRecord[] {
  if (!existsSync(path)) return [];
  const bytes = readFileSync(path);
  const records: AckLogRecord[] = [];
  for (let at = 0; at + recordBytes <= bytes.length; at += recordBytes) {
    records.push({
      kind: bytes.readUInt8(at) as AckLogKind,
      length: bytes.readUInt32BE(at + 4),
      timeMs: Number(bytes.readBigUInt64BE(at + 8)),
      sequence: Number(bytes.readBigUInt64BE(at + 16)),
      offset: Number(bytes.readBigUInt64BE(at + 24)),
    });
  }
  return records;
}
