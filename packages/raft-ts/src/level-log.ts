import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Level } from 'level';
import { RaftError } from './errors.ts';
import { MarkFile } from './mark-file.ts';
import type { KeyValueLog, KeyValueOperation, KeyValueRange } from './key-value-log.ts';

/** `KeyValueLog` on LevelDB. */
class LevelLog implements KeyValueLog {
  readonly #db: Level<Uint8Array, Uint8Array>;
  readonly #marks: MarkFile;

  constructor(db: Level<Uint8Array, Uint8Array>, marks: MarkFile) {
    this.#db = db;
    this.#marks = marks;
  }

  readMarks(): Promise<(Uint8Array | null)[]> {
    return this.#marks.read();
  }

  writeMark(slot: 0 | 1, bytes: Uint8Array): Promise<void> {
    return this.#marks.write(slot, bytes);
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

  async close(): Promise<void> {
    await this.#db.close();
    await this.#marks.close();
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
    const marks = await MarkFile.open(path);
    await syncDirectory(path);
    await syncDirectory(dirname(path));
    return new LevelLog(db, marks);
  } catch (error) {
    await db.close();
    throw asRaftError(error, `the Raft store in ${path} cannot be opened`);
  }
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

/** LevelDB tells the system's reason only in words. */
function isFull(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if ('code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')) return true;
  return /No space left on device|ENOSPC/.test(error.message) || isFull(error.cause);
}

/** An error of the store as ours: CORRUPT, DISK_FULL or STORAGE_FAILED. */
export function asRaftError(error: unknown, what: string): RaftError {
  if (error instanceof RaftError) return error;
  const isCorrupt = levelCode(error) === 'LEVEL_CORRUPTION';
  const code = isCorrupt ? 'CORRUPT' : isFull(error) ? 'DISK_FULL' : 'STORAGE_FAILED';
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new RaftError(code, `${what}: ${reason}`, { cause: error });
}
