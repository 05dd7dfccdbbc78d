import { RaftError } from '../errors.ts';
import type { KeyValueLog, KeyValueOperation, KeyValueRange } from '../key-value-log.ts';

type Content = Map<string, Uint8Array>;
type Batch = readonly KeyValueOperation[];

interface PendingBatch {
  operations: Batch;
  sync: boolean;
  isDue: boolean;
  done: (error: RaftError | null) => void;
}

/** One directory: what processes see, what the disk has for certain, and what lies between. */
interface Store {
  now: Content;
  durable: Content;
  unsynced: Batch[];
  pending: PendingBatch[];
  /** durable as soon as written */
  marks: [Uint8Array | null, Uint8Array | null];
  openBy: number | null;
}

export interface MemoryKeyValueDiskOptions {
  /** uniform in [0, 1); decides what a crash leaves behind */
  random: () => number;
  /**
   * Runs a call's work later: each batch takes as long as this takes, for example a delay on the
   * process's clock. Batches keep their order whatever it does. @default a microtask
   */
  schedule?: (run: () => void) => void;
}

/** Keys as strings that sort as their bytes do. */
const textOf = (key: Uint8Array): string =>
  Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'latin1'));

function apply(content: Content, operations: Batch): void {
  for (const operation of operations) {
    if (operation.type === 'put') content.set(textOf(operation.key), operation.value);
    else content.delete(textOf(operation.key));
  }
}

/** What a process that was killed waits for. Each its own: a shared one would keep all who wait. */
function never(): Promise<never> {
  return new Promise<never>(() => {});
}

/**
 * The model of LevelDB: key-value stores in memory, by directory, that outlive the processes using
 * them. `kill` ends the process (written batches stay; of those under way a prefix may have been
 * written), `losePower` the host (any suffix of the unsynced batches is lost). Calls of a process
 * that was killed are never answered.
 */
export class MemoryKeyValueDisk {
  /** Fault of a write: the message of a failed batch, or null. Whether it was written is chance. */
  failWrite: (path: string) => string | null = () => null;
  /** batches lost by power cuts so far */
  lostBatches = 0;
  readonly #random: () => number;
  readonly #schedule: (run: () => void) => void;
  readonly #stores = new Map<string, Store>();
  #process = 0;

  constructor(options: MemoryKeyValueDiskOptions) {
    this.#random = options.random;
    this.#schedule = options.schedule ?? queueMicrotask;
  }

  /** As `OpenKeyValueLog`, for the process that runs now. */
  readonly open = async (path: string): Promise<KeyValueLog> => {
    let store = this.#stores.get(path);
    if (!store) {
      store = {
        now: new Map(),
        durable: new Map(),
        unsynced: [],
        pending: [],
        openBy: null,
        marks: [null, null],
      };
      this.#stores.set(path, store);
    }
    if (store.openBy !== null) {
      throw new RaftError('IN_USE', `the Raft store in ${path} is open elsewhere`);
    }
    store.openBy = this.#process;
    return new MemoryKeyValueLog(this, store, path, this.#process);
  };

  /** Has anything been opened in this directory? */
  readonly exists = (path: string): boolean => this.#stores.has(path);

  /** The directory, or one above it, gets another name; nobody has it open. */
  rename(from: string, to: string): void {
    for (const [path, store] of [...this.#stores]) {
      if (path !== from && !path.startsWith(`${from}/`)) continue;
      this.#stores.delete(path);
      this.#stores.set(to + path.slice(from.length), store);
    }
  }

  kill(): void {
    this.#process += 1;
    for (const store of this.#stores.values()) {
      const written = Math.floor(this.#random() * (store.pending.length + 1));
      for (const { operations } of store.pending.slice(0, written)) this.write(store, operations);
      store.pending = [];
      store.openBy = null;
    }
  }

  losePower(): void {
    this.kill();
    for (const store of this.#stores.values()) {
      const kept = Math.floor(this.#random() * (store.unsynced.length + 1));
      this.lostBatches += store.unsynced.length - kept;
      for (const operations of store.unsynced.slice(0, kept)) apply(store.durable, operations);
      store.unsynced = [];
      store.now = new Map(store.durable);
    }
  }

  /** Damage: removes or replaces a value, as it were behind the back of the store. */
  damage(path: string, key: Uint8Array, value: Uint8Array | null): void {
    const store = this.#stores.get(path);
    for (const content of store ? [store.now, store.durable] : []) {
      if (value) content.set(textOf(key), value);
      else content.delete(textOf(key));
    }
  }

  /** What is there, to be put back by `rewind`. */
  copy(path: string): ReadonlyMap<string, Uint8Array> {
    return new Map(this.#stores.get(path)?.now);
  }

  /** Damage: the store falls back to what it was, its marks do not. */
  rewind(path: string, content: ReadonlyMap<string, Uint8Array>): void {
    const store = this.#stores.get(path);
    if (!store) return;
    store.now = new Map(content);
    store.durable = new Map(content);
    store.unsynced = [];
  }

  // What follows is for MemoryKeyValueLog.

  async writeMark(store: Store, path: string, slot: 0 | 1, bytes: Uint8Array): Promise<void> {
    const process = this.#process;
    await new Promise<void>((resolve) => {
      this.#schedule(resolve);
    });
    if (!this.isAlive(process)) return never();
    const fault = this.failWrite(path);
    if (fault !== null) throw new RaftError('STORAGE_FAILED', fault);
    store.marks[slot] = Uint8Array.from(bytes);
  }

  isAlive(process: number): boolean {
    return process === this.#process;
  }

  write(store: Store, operations: Batch): void {
    apply(store.now, operations);
    store.unsynced.push(operations);
  }

  submit(store: Store, path: string, batch: PendingBatch): void {
    store.pending.push(batch);
    const process = this.#process;
    this.#schedule(() => {
      if (!this.isAlive(process)) return;
      batch.isDue = true;
      while (store.pending[0]?.isDue) this.#finish(store, path, store.pending.shift());
    });
  }

  #finish(store: Store, path: string, batch: PendingBatch | undefined): void {
    if (!batch) return;
    const fault = this.failWrite(path);
    if (fault !== null) {
      if (this.#random() < 0.5) this.write(store, batch.operations);
      batch.done(new RaftError('STORAGE_FAILED', fault));
      return;
    }
    this.write(store, batch.operations);
    if (batch.sync) {
      for (const operations of store.unsynced) apply(store.durable, operations);
      store.unsynced = [];
    }
    batch.done(null);
  }
}

/** One directory as one process has it open. */
class MemoryKeyValueLog implements KeyValueLog {
  readonly #disk: MemoryKeyValueDisk;
  readonly #store: Store;
  readonly #path: string;
  readonly #process: number;
  #underWay: Promise<void> = Promise.resolve();
  #isOpen = true;

  constructor(disk: MemoryKeyValueDisk, store: Store, path: string, process: number) {
    this.#disk = disk;
    this.#store = store;
    this.#path = path;
    this.#process = process;
  }

  async getMany(keys: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    await this.#enter();
    return keys.map((key) => {
      const value = this.#store.now.get(textOf(key));
      return value && Uint8Array.from(value);
    });
  }

  async *range({
    gt,
    lt,
    limit = Infinity,
  }: KeyValueRange): AsyncGenerator<readonly [Uint8Array, Uint8Array]> {
    await this.#enter();
    const above = gt && textOf(gt);
    const below = lt && textOf(lt);
    const found = [...this.#store.now]
      .filter(
        ([key]) => (above === undefined || key > above) && (below === undefined || key < below),
      )
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .slice(0, limit);
    for (const [key, value] of found) yield [bytesOf(key), Uint8Array.from(value)];
  }

  async batch(
    operations: readonly KeyValueOperation[],
    { sync }: { sync: boolean },
  ): Promise<void> {
    if (!this.#disk.isAlive(this.#process)) return never();
    if (!this.#isOpen) throw new RaftError('CLOSED', `the store in ${this.#path} is closed`);
    if (operations.length === 0) return;
    const written = new Promise<void>((resolve, reject) => {
      const done = (error: RaftError | null): void => {
        if (error) reject(error);
        else resolve();
      };
      this.#disk.submit(this.#store, this.#path, { operations, sync, isDue: false, done });
    });
    this.#underWay = written.catch(() => {});
    return written;
  }

  async readMarks(): Promise<(Uint8Array | null)[]> {
    await this.#enter();
    return this.#store.marks.map((mark) => mark && Uint8Array.from(mark));
  }

  async writeMark(slot: 0 | 1, bytes: Uint8Array): Promise<void> {
    await this.#enter();
    await this.#disk.writeMark(this.#store, this.#path, slot, bytes);
  }

  async close(): Promise<void> {
    if (!this.#disk.isAlive(this.#process)) return never();
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#underWay;
    if (this.#disk.isAlive(this.#process)) this.#store.openBy = null;
  }

  async #enter(): Promise<void> {
    if (!this.#disk.isAlive(this.#process)) return never();
    if (!this.#isOpen) throw new RaftError('CLOSED', `the store in ${this.#path} is closed`);
  }
}
