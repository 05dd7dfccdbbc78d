import type { FileDone, FileRange, OpenFile, ReadDone } from '../files.ts';
import type { FaultyContent } from './faulty-file.ts';
import type { FaultyFiles } from './faulty-files.ts';

/** An error as the system makes it, with its code. */
export function fault(code: string, operation: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${operation} ${path}`), { code });
}

/** An operation under way in the pool. */
export interface PooledCall {
  readonly operation: 'read' | 'write' | 'datasync';
  /** Part of the effect happens, before the rest. */
  partly(share: number): void;
  finish(): void;
  /** The process ended: the kernel may have done any part of it. */
  killed(share: number): void;
}

/** The kernel copies page by page; a process that is killed leaves whole pages behind. */
function wholePages(position: number, length: number, share: number): number {
  const cut = Math.floor((position + length * share) / 4096) * 4096;
  return Math.max(0, Math.min(length, cut - position));
}

/** Up to the end of the page that the part of `early` bytes ends in. */
function begunBytes(position: number, length: number, early: number): number {
  return Math.min(length, Math.ceil((position + early) / 4096) * 4096 - position);
}

/** A file as one process has it open. */
export class FaultyOpenFile implements OpenFile {
  readonly path: string;
  /** absent where the file system cannot */
  readonly punch?: (ranges: readonly FileRange[], done: FileDone) => void;
  readonly #world: FaultyFiles;
  readonly #process: number;
  readonly #content: FaultyContent;
  #open = true;

  constructor(world: FaultyFiles, process: number, path: string, content: FaultyContent) {
    this.#world = world;
    this.#process = process;
    this.path = path;
    this.#content = content;
    if (world.punches) {
      this.punch = (ranges, done) => {
        this.#punch(ranges, done);
      };
    }
  }

  #alive(): void {
    if (!this.#world.isAlive(this.#process)) throw fault('ECRASHED', 'use', this.path);
    if (!this.#open) throw fault('EBADF', 'use', this.path);
  }

  readSync(target: Uint8Array, start: number, length: number, position: number): number {
    this.#alive();
    const code = this.#world.hook('read', this.path);
    if (code !== null) throw fault(code, 'read', this.path);
    return this.#content.read(target, start, length, position);
  }

  writeSync(bytes: Uint8Array, start: number, length: number, position: number): void {
    this.#alive();
    this.#world.claim(this.#content.newPages(length, position), this.path);
    this.#world.enter('write', this.path, (share) => {
      this.#content.write(bytes, start, wholePages(position, length, share), position);
    });
    this.#content.write(bytes, start, length, position);
  }

  read(target: Uint8Array, start: number, length: number, position: number, done: ReadDone): void {
    this.#alive();
    let early = 0;
    this.#world.later({
      operation: 'read',
      partly: (share) => {
        early = Math.floor((length * share) / 512) * 512;
        this.#content.read(target, start, early, position);
      },
      finish: () => {
        const code = this.#world.hook('read', this.path);
        if (code !== null) {
          done(fault(code, 'read', this.path), 0);
          return;
        }
        const got = this.#content.read(target, start + early, length - early, position + early);
        done(null, early + got);
      },
      killed: () => {},
    });
  }

  write(bytes: Uint8Array, start: number, length: number, position: number, done: FileDone): void {
    this.#alive();
    let early = 0;
    this.#world.later({
      operation: 'write',
      partly: (share) => {
        const part = Math.floor((length * share) / 512) * 512;
        if (!this.#hasRoom(part, position)) return;
        this.#content.write(bytes, start, part, position);
        early = part;
      },
      finish: () => {
        const rest = length - early;
        try {
          this.#world.claim(this.#content.newPages(rest, position + early), this.path);
          this.#world.enter('write', this.path, (share) => {
            this.#cutShort(bytes, start, length, position, early, share);
          });
        } catch (error) {
          if (!this.#world.isAlive(this.#process)) return;
          const begun = early > 0 ? begunBytes(position, length, early) : 0;
          if (begun > 0) this.#content.write(bytes, start, begun, position);
          done(error as Error);
          return;
        }
        this.#content.write(bytes, start + early, rest, position + early);
        done(null);
      },
      killed: (share) => {
        this.#cutShort(bytes, start, length, position, early, share);
      },
    });
  }

  /** Each range is whole or not at all after a kill; in any order and part after a power cut. */
  #punch(ranges: readonly FileRange[], done: FileDone): void {
    this.#alive();
    const punch = (share: number): void => {
      const count = Math.floor(ranges.length * share);
      for (const { offset, length } of ranges.slice(0, count)) this.#content.punch(offset, length);
    };
    this.#world.later({
      operation: 'write',
      partly: punch,
      finish: () => {
        try {
          this.#world.enter('punch', this.path, punch);
        } catch (error) {
          if (this.#world.isAlive(this.#process)) done(error as Error);
          return;
        }
        punch(1);
        done(null);
      },
      killed: punch,
    });
  }

  /** The process was killed within a write: what was begun ends at a page boundary. */
  #cutShort(
    bytes: Uint8Array,
    start: number,
    length: number,
    position: number,
    early: number,
    share: number,
  ): void {
    // a page that was begun has its room already, and is always finished
    const begun = early > 0 ? begunBytes(position, length, early) : 0;
    const until = Math.max(wholePages(position, length, share), begun);
    const written = this.#hasRoom(until, position) ? until : begun;
    if (written > 0) this.#content.write(bytes, start, written, position);
  }

  #hasRoom(length: number, position: number): boolean {
    try {
      this.#world.claim(length > 0 ? this.#content.newPages(length, position) : 0, this.path);
      return true;
    } catch {
      return false;
    }
  }

  datasyncSync(): void {
    this.#alive();
    const finish = this.#content.beginSync();
    this.#sync(finish);
  }

  datasync(done: FileDone): void {
    this.#alive();
    const finish = this.#content.beginSync();
    this.#world.later({
      operation: 'datasync',
      partly: () => {},
      finish: () => {
        try {
          this.#sync(finish);
        } catch (error) {
          if (this.#world.isAlive(this.#process)) done(error as Error);
          return;
        }
        done(null);
      },
      killed: () => {},
    });
  }

  #sync(finish: () => void): void {
    try {
      this.#world.enter('datasync', this.path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECRASHED') this.#content.failSync();
      throw error;
    }
    finish();
  }

  size(): { sizeBytes: number; allocatedBytes: number } {
    this.#alive();
    return {
      sizeBytes: this.#content.sizeBytes,
      allocatedBytes: this.#content.pageCount * 4096,
    };
  }

  truncate(sizeBytes: number): void {
    this.#alive();
    this.#world.enter('truncate', this.path);
    this.#content.truncate(sizeBytes);
  }

  close(): void {
    this.#open = false;
  }
}
