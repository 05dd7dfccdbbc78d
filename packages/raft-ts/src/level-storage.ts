import { crc32 } from 'node:zlib';
import { BytesReader, BytesWriter } from './core/bytes.ts';
import { readEntryContent, readSnapshot, writeEntryContent, writeSnapshot } from './core/codec.ts';
import { applyToExtent, type ExtentChange } from './core/log-extent.ts';
import {
  verifyStoredState,
  type RaftStorage,
  type SaveBatch,
  type StoredState,
} from './core/storage.ts';
import type { Entry, HardState, LogPosition, Snapshot } from './core/types.ts';
import { RaftError } from './errors.ts';
import type {
  KeyValueLog,
  KeyValueOperation,
  KeyValueRange,
  OpenKeyValueLog,
} from './key-value-log.ts';
import { asRaftError, openLevelLog } from './level-log.ts';

/**
 * The log, the hard state and the newest snapshot in one LevelDB, or what `KeyValueLog` models it
 * with. Keys:
 *
 *   f            format of the store, '1'
 *   h            hard state
 *   s            newest snapshot
 *   b            position after which the log begins
 *   e<index>     one entry; 8 bytes big-endian, so keys sort as indexes
 *
 * Each value begins with a CRC-32 over its key and the rest, as LevelDB checks its own blocks only
 * when asked and knows nothing of a value under the wrong key. An entry also holds the term of the
 * one before it: LevelDB skips a damaged piece of its own log at recovery, and if that held a
 * replaced end of our log, the old end would fit by its indexes, but not by these terms.
 * Every save is one synced batch, so a crash leaves all of it or nothing.
 */
const format = '1';
const text = new TextEncoder();
const keys = {
  format: text.encode('f'),
  hardState: text.encode('h'),
  snapshot: text.encode('s'),
  start: text.encode('b'),
};
const entryPrefix = 'e'.charCodeAt(0);

export class LevelRaftStorage implements RaftStorage {
  readonly #db: KeyValueLog;
  #start: LogPosition = { index: 0, term: 0 };
  /** term of each stored entry, from start.index + 1 on */
  #terms: number[] = [];
  #loaded = false;
  #failure: RaftError | null = null;
  #saving: Promise<void> = Promise.resolve();
  #closed: Promise<void> | null = null;

  private constructor(db: KeyValueLog) {
    this.#db = db;
  }

  /**
   * Opens or creates the store in the directory `path`, on LevelDB or what `openLog` opens. Errors: IN_USE (another process has it),
   * CORRUPT, UNSUPPORTED_FORMAT, STORAGE_FAILED.
   */
  static async open(
    path: string,
    openLog: OpenKeyValueLog = openLevelLog,
  ): Promise<LevelRaftStorage> {
    const db = await openLog(path);
    try {
      await checkFormat(db, path);
    } catch (error) {
      await db.close();
      throw asRaftError(error, `the Raft store in ${path} cannot be opened`);
    }
    return new LevelRaftStorage(db);
  }

  async load(): Promise<StoredState | null> {
    try {
      const state = await this.#read();
      this.#loaded = true;
      return state;
    } catch (error) {
      throw asRaftError(error, 'the Raft store cannot be read');
    }
  }

  async #read(): Promise<StoredState | null> {
    const db = this.#db;
    const records = await db.getMany([keys.hardState, keys.snapshot, keys.start]);
    const [hardStateBytes, snapshotBytes, startBytes] = records;
    const entryRange = { gt: Uint8Array.of(entryPrefix), lt: Uint8Array.of(entryPrefix + 1) };
    if (!hardStateBytes || !snapshotBytes || !startBytes) {
      const hasEntries = await hasAny(db, entryRange);
      if (records.every((record) => record === undefined) && !hasEntries) return null;
      throw new RaftError(
        'CORRUPT',
        'the stored Raft log is damaged: its hard state, snapshot or beginning is missing',
      );
    }
    const hardState = decodeHardState(hardStateBytes);
    const snapshot = decodeSnapshot(snapshotBytes);
    const start = decodeStart(startBytes);
    const entries: Entry[] = [];
    let previousTerm = start.term;
    for await (const [key, value] of db.range(entryRange)) {
      const entry = decodeEntry(key, value, previousTerm);
      entries.push(entry);
      previousTerm = entry.term;
    }
    const state = { hardState, snapshot, start, entries };
    verifyStoredState(state);
    this.#start = start;
    this.#terms = entries.map((entry) => entry.term);
    return state;
  }

  save(batch: SaveBatch): Promise<void> {
    const saved = this.#saving.then(() => this.#save(batch));
    this.#saving = saved.catch(() => undefined);
    return saved;
  }

  async #save(batch: SaveBatch): Promise<void> {
    if (this.#failure) throw this.#failure;
    try {
      if (this.#closed) throw new RaftError('CLOSED', 'the Raft store is closed');
      if (!this.#loaded) throw new RaftError('INTERNAL', 'the Raft store was not loaded');
      const { change, terms, operations } = this.#plan(batch);
      // An empty batch would sync nothing, and a caller that asks for nothing waits for nothing.
      if (operations.length > 0) await this.#db.batch(operations, { sync: true });
      this.#terms = terms;
      this.#start = change.start;
    } catch (error) {
      // What is on the disk now is unknown: one failed sync may have dropped what it was to write.
      this.#failure = asRaftError(error, 'the Raft store cannot be written');
      throw this.#failure;
    }
  }

  #plan(batch: SaveBatch): {
    change: ExtentChange;
    terms: number[];
    operations: KeyValueOperation[];
  } {
    const change = applyToExtent(this.#start, this.#start.index + this.#terms.length, batch);
    const operations: KeyValueOperation[] = [];
    const put = (key: Uint8Array, value: Uint8Array) => {
      operations.push({ type: 'put', key, value });
    };
    if (batch.hardState) put(keys.hardState, encodeHardState(batch.hardState));
    if (batch.snapshot) put(keys.snapshot, encodeSnapshot(batch.snapshot));
    if (batch.log.type !== 'keep') put(keys.start, encodeStart(change.start));
    for (const { first, last } of change.deletions) {
      for (let index = first; index <= last; index++) {
        operations.push({ type: 'del', key: entryKey(index) });
      }
    }
    const terms =
      batch.log.type === 'reset' ? [] : this.#terms.slice(change.start.index - this.#start.index);
    const first = batch.entries[0];
    if (first) terms.length = first.index - change.start.index - 1;
    for (const entry of batch.entries) {
      put(entryKey(entry.index), encodeEntry(entry, terms.at(-1) ?? change.start.term));
      terms.push(entry.term);
    }
    return { change, terms, operations };
  }

  close(): Promise<void> {
    this.#closed ??= this.#saving.then(() => this.#db.close());
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function entryKey(index: number): Uint8Array {
  const writer = new BytesWriter(9);
  writer.u8(entryPrefix);
  writer.u53(index);
  return writer.finish();
}

/** The value with the checksum of key and value before it. */
function seal(key: Uint8Array, write: (writer: BytesWriter) => void, sizeHint = 64): Uint8Array {
  const writer = new BytesWriter(sizeHint + 4);
  writer.u32(0);
  write(writer);
  const value = writer.finish();
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  view.setUint32(0, crc32(value.subarray(4), crc32(key)));
  return value;
}

function unseal(key: Uint8Array, value: Uint8Array, what: string): BytesReader {
  const reader = new BytesReader(value, what);
  const expected = reader.u32();
  const actual = crc32(value.subarray(4), crc32(key));
  if (actual !== expected) {
    reader.fail(`checksum ${hex(actual)} instead of ${hex(expected)}`);
  }
  return reader;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

function encodeHardState(hardState: HardState): Uint8Array {
  return seal(keys.hardState, (writer) => {
    writer.u53(hardState.term);
    writer.u53(hardState.commit);
    writer.text(hardState.vote ?? '');
  });
}

function decodeHardState(value: Uint8Array): HardState {
  const reader = unseal(keys.hardState, value, 'the stored hard state');
  const term = reader.u53();
  const commit = reader.u53();
  const vote = reader.text();
  reader.expectEnd();
  return { term, commit, vote: vote === '' ? null : vote };
}

function encodeSnapshot(snapshot: Snapshot): Uint8Array {
  const write = (writer: BytesWriter) => {
    writeSnapshot(writer, snapshot);
  };
  return seal(keys.snapshot, write, snapshot.data.length + 1024);
}

function decodeSnapshot(value: Uint8Array): Snapshot {
  const reader = unseal(keys.snapshot, value, 'the stored snapshot');
  const snapshot = readSnapshot(reader);
  reader.expectEnd();
  return snapshot;
}

function encodeStart(start: LogPosition): Uint8Array {
  return seal(keys.start, (writer) => {
    writer.u53(start.index);
    writer.u53(start.term);
  });
}

function decodeStart(value: Uint8Array): LogPosition {
  const reader = unseal(keys.start, value, 'the stored beginning of the log');
  const start = { index: reader.u53(), term: reader.u53() };
  reader.expectEnd();
  return start;
}

function encodeEntry(entry: Entry, previousTerm: number): Uint8Array {
  const write = (writer: BytesWriter) => {
    writer.u53(entry.term);
    writer.u53(previousTerm);
    writeEntryContent(writer, entry);
  };
  return seal(entryKey(entry.index), write, entry.data.length + 32);
}

function decodeEntry(key: Uint8Array, value: Uint8Array, previousTerm: number): Entry {
  const keyReader = new BytesReader(key, 'the key of a stored entry');
  keyReader.u8();
  const index = keyReader.u53();
  keyReader.expectEnd();
  const reader = unseal(key, value, `stored entry ${index}`);
  const term = reader.u53();
  const expected = reader.u53();
  if (expected !== previousTerm) {
    reader.fail(`the entry before it should be of term ${expected} and is of term ${previousTerm}`);
  }
  const content = readEntryContent(reader);
  reader.expectEnd();
  return { index, term, ...content };
}

async function checkFormat(db: KeyValueLog, path: string): Promise<void> {
  const [found] = await db.getMany([keys.format]);
  if (found === undefined) {
    if (await hasAny(db, {})) {
      throw new RaftError('CORRUPT', `the Raft store in ${path} has lost its format mark`);
    }
    const mark = { type: 'put', key: keys.format, value: text.encode(format) } as const;
    await db.batch([mark], { sync: true });
    return;
  }
  const name = new TextDecoder().decode(found);
  if (name !== format) {
    throw new RaftError(
      'UNSUPPORTED_FORMAT',
      `the Raft store in ${path} has format '${name}', this version knows '${format}'`,
    );
  }
}

async function hasAny(db: KeyValueLog, range: KeyValueRange): Promise<boolean> {
  for await (const entry of db.range({ ...range, limit: 1 })) return entry.length > 0;
  return false;
}
