import { applyToExtent, type ExtentChange } from './core/log-extent.ts';
import type { RaftStorage, SaveBatch, StoredState } from './core/storage.ts';
import type { HardState, LogPosition } from './core/types.ts';
import { RaftError } from './errors.ts';
import type { KeyValueLog, KeyValueOperation, OpenKeyValueLog } from './key-value-log.ts';
import { asRaftError, openLevelLog } from './level-log.ts';
import {
  decodeMark,
  encodeEntry,
  encodeHardState,
  encodeMark,
  encodeSequence,
  encodeStart,
  entryKey,
  keys,
  type Mark,
} from './level-records.ts';
import { hasAny, readStore, type Found } from './level-recovery.ts';
import { LevelSnapshots } from './level-snapshots.ts';

/**
 * The log, the hard state and the newest snapshot in one LevelDB, or what `KeyValueLog` models it
 * with. Keys:
 *
 *   f            format of the store, '3'; '1' had no mark, and in '1' and '2' a log snapshot was one
 *                record; they become '3' when they are loaded
 *   h            hard state
 *   s            newest log snapshot, without its content
 *   d            the log snapshot that is arriving
 *   c<number><offset>  a piece of the content of a log snapshot: each has a number of its own
 *   b            position after which the log begins
 *   q            number of the save
 *   e<index>     one entry; 8 bytes big-endian, so keys sort as indexes
 *
 * An entry also holds the term of the one before it: LevelDB skips a damaged piece of its own log at
 * recovery, and if that held a replaced end of our log, the old end would fit by its indexes, but
 * not by these terms. Every save is one synced batch, so a crash leaves all of it or nothing.
 *
 * LevelDB also drops a damaged end of its own log in silence. So after the batch, and before anybody
 * is told, a mark of it is synced to a place apart: the number of the save, term and vote, and where
 * the log ends. `level-recovery.ts` compares.
 */
const format: string = '3';
const formatWithoutPieces: string = '2';
const formatWithoutMark: string = '1';

export class LevelRaftStorage implements RaftStorage {
  readonly #db: KeyValueLog;
  readonly #path: string;
  #start: LogPosition = { index: 0, term: 0 };
  /** term of each stored entry, from start.index + 1 on */
  #terms: number[] = [];
  #snapshots: LevelSnapshots;
  #hardState: HardState = { term: 0, vote: null, commit: 0 };
  /** of the newest save */
  #sequence = 0;
  #recoverTo: LogPosition | null = null;
  /** the one that holds the newest mark */
  #markSlot: 0 | 1 = 0;
  #lossReason: string | null = null;
  #loaded = false;
  #failure: RaftError | null = null;
  #saving: Promise<void> = Promise.resolve();
  #closed: Promise<void> | null = null;

  private constructor(db: KeyValueLog, path: string) {
    this.#db = db;
    this.#path = path;
    this.#snapshots = new LevelSnapshots(db, null);
  }

  /**
   * Opens or creates the store in the directory `path`, on LevelDB or what `openLog` opens. Errors:
   * IN_USE (another process has it), CORRUPT, UNSUPPORTED_FORMAT, DISK_FULL, STORAGE_FAILED.
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
    return new LevelRaftStorage(db, path);
  }

  /** What was damaged or missing when it was loaded, for people; null: nothing. */
  get lossReason(): string | null {
    return this.#lossReason;
  }

  async load(): Promise<StoredState | null> {
    try {
      const found = await formatOf(this.#db);
      const isUnmarked = found === formatWithoutMark;
      const isOld = found !== format;
      const newest = isUnmarked ? null : newestMark(await this.#db.readMarks());
      const mark = newest?.mark ?? null;
      this.#markSlot = newest?.slot ?? 0;
      if (!isUnmarked && !mark) {
        throw new RaftError(
          'CORRUPT',
          `the mark of what was acknowledged is lost in ${this.#path}: whether the Raft log is ` +
            'whole cannot be known, so this member has to be replaced',
        );
      }
      const store = await readStore(this.#db, mark, isOld);
      if (store) await this.#takeOver(store, mark, isOld);
      else if (isOld) await this.#convert(isUnmarked ? emptyMark : null, 0, []);
      this.#loaded = true;
      return store?.state ?? null;
    } catch (error) {
      throw asRaftError(error, 'the Raft store cannot be read');
    }
  }

  async #takeOver(found: Found, mark: Mark | null, isOld: boolean): Promise<void> {
    const { state, sequence, reason, needsRepair, contents, conversion } = found;
    this.#snapshots = new LevelSnapshots(this.#db, contents);
    this.#start = state.start;
    this.#terms = state.entries.map((entry) => entry.term);
    this.#hardState = state.hardState;
    this.#sequence = sequence;
    this.#recoverTo = state.recoverTo ?? null;
    this.#lossReason = reason;
    if (isOld) await this.#convert(mark ? null : this.#mark(sequence), sequence, conversion);
    if (mark && needsRepair) await this.#repair(found, mark);
  }

  /** The mark, if it had none, is on the disk before the format that relies on it. */
  async #convert(
    mark: Mark | null,
    sequence: number,
    operations: readonly KeyValueOperation[],
  ): Promise<void> {
    if (mark) for (let slot = 0; slot < 2; slot++) await this.#writeMark(mark);
    const value = encodeSequence(sequence);
    await this.#db.batch(
      [
        ...operations,
        ...(mark ? ([{ type: 'put', key: keys.sequence, value }] as const) : []),
        { type: 'put', key: keys.format, value: new TextEncoder().encode(format) },
      ],
      { sync: true },
    );
  }

  /**
   * Writes what `load` says. That this member recovers is marked first: a crash in between must not
   * leave a store that looks whole.
   */
  async #repair({ state, cut }: Found, mark: Mark): Promise<void> {
    const { term, vote } = state.hardState;
    const sequence = this.#sequence + 1;
    if (this.#recoverTo) {
      await this.#writeMark({ ...mark, sequence, term, vote, recoverTo: this.#recoverTo });
    }
    this.#sequence = sequence + 1;
    const operations: KeyValueOperation[] = cut.map((key) => ({ type: 'del', key }));
    operations.push(
      { type: 'put', key: keys.hardState, value: encodeHardState(state.hardState) },
      { type: 'put', key: keys.start, value: encodeStart(state.start) },
      { type: 'put', key: keys.sequence, value: encodeSequence(this.#sequence) },
    );
    await this.#db.batch(operations, { sync: true });
    await this.#writeMark(this.#mark(this.#sequence));
  }

  #mark(sequence: number): Mark {
    const { term, vote } = this.#hardState;
    const index = this.#start.index + this.#terms.length;
    const last = { index, term: this.#terms.at(-1) ?? this.#start.term };
    return { sequence, term, vote, last, recoverTo: this.#recoverTo };
  }

  /** Into the slot that does not hold the mark before it. */
  async #writeMark(mark: Mark): Promise<void> {
    const slot = this.#markSlot === 0 ? 1 : 0;
    await this.#db.writeMark(slot, encodeMark(mark));
    this.#markSlot = slot;
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
      if (operations.length === 0 && !batch.recovered) return;
      const sequence = this.#sequence + 1;
      operations.push({ type: 'put', key: keys.sequence, value: encodeSequence(sequence) });
      await this.#db.batch(operations, { sync: true });
      this.#sequence = sequence;
      this.#terms = terms;
      this.#start = change.start;
      this.#hardState = batch.hardState ?? this.#hardState;
      if (batch.recovered) this.#recoverTo = null;
      await this.#writeMark(this.#mark(sequence));
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
    operations.push(...this.#snapshots.plan(batch));
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

  async readSnapshot(
    position: LogPosition,
    offset: number,
    length: number,
  ): Promise<{ data: Uint8Array; checksum: number } | null> {
    try {
      return await this.#snapshots.read(position, offset, length);
    } catch (error) {
      throw asRaftError(error, 'the Raft store cannot be read');
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#saving.then(() => this.#db.close());
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

const emptyMark: Mark = {
  sequence: 0,
  term: 0,
  vote: null,
  last: { index: 0, term: 0 },
  recoverTo: null,
};

/** Of the two the newer one that is whole: the other is of the save before, or was torn. */
function newestMark(slots: (Uint8Array | null)[]): { mark: Mark; slot: 0 | 1 } | null {
  let newest: { mark: Mark; slot: 0 | 1 } | null = null;
  for (const slot of [0, 1] as const) {
    const bytes = slots[slot];
    if (!bytes) continue;
    let mark: Mark;
    try {
      mark = decodeMark(bytes);
    } catch (error) {
      if (error instanceof RaftError && error.code === 'CORRUPT') continue;
      throw error;
    }
    if (!newest || mark.sequence >= newest.mark.sequence) newest = { mark, slot };
  }
  return newest;
}

async function formatOf(db: KeyValueLog): Promise<string | null> {
  const [found] = await db.getMany([keys.format]);
  return found ? new TextDecoder().decode(found) : null;
}

async function checkFormat(db: KeyValueLog, path: string): Promise<void> {
  const name = await formatOf(db);
  if (name === format || name === formatWithoutPieces || name === formatWithoutMark) return;
  if (name !== null) {
    throw new RaftError(
      'UNSUPPORTED_FORMAT',
      `the Raft store in ${path} has format '${name}', this version knows '${format}'`,
    );
  }
  const newest = newestMark(await db.readMarks());
  if (await hasAny(db, {})) {
    throw new RaftError('CORRUPT', `the Raft store in ${path} has lost its format mark`);
  }
  if (newest && newest.mark.sequence > 0) {
    throw new RaftError(
      'CORRUPT',
      `the Raft store in ${path} is empty, but save ${newest.mark.sequence} was acknowledged: the log is ` +
        'lost, and this member has to be replaced',
    );
  }
  for (const slot of [0, 1] as const) await db.writeMark(slot, encodeMark(emptyMark));
  const value = new TextEncoder().encode(format);
  await db.batch([{ type: 'put', key: keys.format, value }], { sync: true });
}
