/** One change of a batch. */
export type KeyValueOperation =
  { type: 'put'; key: Uint8Array; value: Uint8Array } | { type: 'del'; key: Uint8Array };

/**
 * What `LevelRaftStorage` needs of an ordered key-value store: keys and values are bytes, keys sort
 * byte by byte. `openLevelLog` is the real one; `raft-ts/testing` has a model of it that is killed
 * and loses power. Both pass `keyValueLogSuite`.
 *
 * A batch happens whole or not at all. Batches happen in the order in which they were given. When
 * the process dies, a prefix of them is there, with all whose promise had resolved; when the host
 * loses power, at least all up to the last synced one that had resolved. Keys and values must not
 * change after they were given.
 */
export interface KeyValueLog {
  /** In the order of the keys; undefined for one that is not there. */
  getMany(keys: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]>;
  /** Entries with keys above `gt` and below `lt`, ascending, at most `limit` of them. */
  range(range: KeyValueRange): AsyncIterable<readonly [Uint8Array, Uint8Array]>;
  /** `sync`: durable when resolved. An empty batch syncs nothing. */
  batch(operations: readonly KeyValueOperation[], options: { sync: boolean }): Promise<void>;
  /**
   * Two small records apart from the log, on which nothing that happens to it has any influence;
   * null for one that was never written, or was torn. What is in them is the caller's to check.
   */
  readMarks(): Promise<(Uint8Array | null)[]>;
  /** Replaces one of the two, at most `maxMarkBytes`; durable when resolved, and torn at worst. */
  writeMark(slot: 0 | 1, bytes: Uint8Array): Promise<void>;
  /** Waits for batches under way. */
  close(): Promise<void>;
}

/** What one mark can hold: within a sector of every disk. */
export const maxMarkBytes = 508;

export interface KeyValueRange {
  /** default: from the first key */
  gt?: Uint8Array;
  /** default: to the last key */
  lt?: Uint8Array;
  limit?: number;
}

/**
 * Opens or creates the store in a directory, which is durable then with the directory itself. Errors
 * are RaftError: IN_USE (another process has it), CORRUPT, STORAGE_FAILED.
 */
export type OpenKeyValueLog = (path: string) => Promise<KeyValueLog>;
