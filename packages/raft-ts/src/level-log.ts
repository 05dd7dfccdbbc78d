import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Level } from 'level';
import { RaftError } from './errors.ts';
import type { KeyValueLog, KeyValueOperation, KeyValueRange } from './key-value-log.ts';

/** `KeyValueLog` on LevelDB. */
class LevelLog implements KeyValueLog {
  readonly #db: Level<Uint8Array, Uint8Array>;

  constructor(db: Level<Uint8Array, Uint8Array>) {
    this.#db = db;
  }

  getMany(keys: readonly Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    return this.#db.getMany([...keys]);
  }

  range(range: KeyValueRange): AsyncIterable<readonly [Uint8Array, Uint8Array]> {
    return this.#db.iterator({ ...range });
  }

  batch(operations: readonly KeyValueOperation[], options: { sync: boolean }): Promise<void> {
    return this.#db.batch([...operations], options);
  }

  close(): Promise<void> {
    return this.#db.close();
  }
}

/** The real store: see `OpenKeyValueLog`. */
export async function openLevelLog(path: string): Promise<KeyValueLog> {
  let db: Level<Uint8Array, Uint8Array>;
  try {
    await mkdir(path, { recursive: true });
    db = new Level(path, { keyEncoding: 'view', valueEncoding: 'view' });
    await db.open();
  } catch (error) {
    throw openError(path, error);
  }
  try {
    // A new directory that a power cut takes away would be a member that forgot its vote.
    await syncDirectory(path);
    await syncDirectory(dirname(path));
  } catch (error) {
    await db.close();
    throw asRaftError(error, `the Raft store in ${path} cannot be opened`);
  }
  return new LevelLog(db);
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** LevelDB's own codes, of which the cause of a failed open is the interesting one. */
function levelCode(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const own = 'code' in error ? String(error.code) : '';
  return error.cause === undefined ? own : levelCode(error.cause) || own;
}

function openError(path: string, error: unknown): RaftError {
  if (levelCode(error) === 'LEVEL_LOCKED') {
    return new RaftError('IN_USE', `the Raft store in ${path} is open elsewhere`, { cause: error });
  }
  return asRaftError(error, `the Raft store in ${path} cannot be opened`);
}

/** An error of the store as ours: CORRUPT or STORAGE_FAILED. */
export function asRaftError(error: unknown, what: string): RaftError {
  if (error instanceof RaftError) return error;
  const code = levelCode(error) === 'LEVEL_CORRUPTION' ? 'CORRUPT' : 'STORAGE_FAILED';
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new RaftError(code, `${what}: ${reason}`, { cause: error });
}
