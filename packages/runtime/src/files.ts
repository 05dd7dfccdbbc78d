import fs from 'node:fs';
import path from 'node:path';
import { punchHoles } from './punch-holes.ts';
import { lockDirectory, type DirectoryLock } from './directory-lock.ts';
import { threadReadBytes } from './thread-read-bytes.ts';

export type ReadDone = (error: Error | null, bytesRead: number) => void;
export type FileDone = (error: Error | null) => void;

/** bytes; whole blocks of the file system */
export interface FileRange {
  offset: number;
  length: number;
}

/**
 * One open file, read and written at positions. The `Sync` forms run on the caller's thread; the
 * others in the thread pool, where `done` comes in a later turn. Errors carry the system's `code`
 * (ENOSPC, EIO). A read beyond the end of the file fills the target with zeros, as a hole would.
 */
export interface OpenFile {
  readonly path: string;
  readSync(target: Uint8Array, start: number, length: number, position: number): number;
  writeSync(bytes: Uint8Array, start: number, length: number, position: number): void;
  read(target: Uint8Array, start: number, length: number, position: number, done: ReadDone): void;
  /** `bytes` must not change until `done`. */
  write(bytes: Uint8Array, start: number, length: number, position: number, done: FileDone): void;
  datasyncSync(): void;
  datasync(done: FileDone): void;
  size(): { sizeBytes: number; allocatedBytes: number };
  truncate(sizeBytes: number): void;
  /**
   * Gives ranges back to the file system: they read as zeros, durably after the next sync. Absent, or an
   * error, where that cannot be done; what was punched by then reads as zeros too.
   */
  punch?(ranges: readonly FileRange[], done: FileDone): void;
  close(): void;
}

/** What the product asks of a local file system; `FaultyFiles` is the form with faults. */
export interface Files {
  /** ENOENT when it does not exist. */
  open(file: string): OpenFile;
  /** EEXIST when it exists. Not durable before `syncDirectory` of its directory. */
  create(file: string): OpenFile;
  exists(file: string): boolean;
  /** Names in a directory, sorted. ENOENT. */
  list(directory: string): string[];
  /** Makes it and what is missing above it. */
  makeDirectory(directory: string): void;
  rename(from: string, to: string): void;
  /** Done already when it does not exist. */
  remove(file: string): void;
  /** Removes an empty directory. */
  removeDirectory(directory: string): void;
  /** Makes created, renamed and removed names of the directory durable. */
  syncDirectory(directory: string): void;
  /** bytes of the file system that holds the directory; free is what an ordinary user may take */
  space(directory: string): { totalBytes: number; freeBytes: number };
  /** Changes when the file system is mounted anew (device number and mount id). */
  mountIdentity(directory: string): string;
  /** Rejects with DirectoryLockedError while another process (or another opener here) holds it. */
  lock(directory: string): Promise<DirectoryLock>;
  /** Bytes that `readSync` of this thread has waited for a disk for; null or absent: nobody knows. */
  threadReadBytes?(): number | null;
}

const zeroBytes = new Uint8Array(256 * 1024);

/** Writes zeros, so that later writes need no new space and change no file metadata. */
export function preallocate(file: OpenFile, from: number, to: number): void {
  for (let at = from; at < to; at += zeroBytes.length) {
    file.writeSync(zeroBytes, 0, Math.min(zeroBytes.length, to - at), at);
  }
}

class SystemFile implements OpenFile {
  readonly path: string;
  readonly #number: number;
  #open = true;

  constructor(file: string, fd: number) {
    this.path = file;
    this.#number = fd;
  }

  /** EBADF once it is closed: its number may be another file's by then. */
  get #fd(): number {
    if (!this.#open) throw closedFile(this.path);
    return this.#number;
  }

  readSync(target: Uint8Array, start: number, length: number, position: number): number {
    let got = 0;
    while (got < length) {
      const n = fs.readSync(this.#fd, target, start + got, length - got, position + got);
      if (n === 0) {
        target.fill(0, start + got, start + length);
        break;
      }
      got += n;
    }
    return got;
  }

  writeSync(bytes: Uint8Array, start: number, length: number, position: number): void {
    let put = 0;
    while (put < length) {
      put += fs.writeSync(this.#fd, bytes, start + put, length - put, position + put);
    }
  }

  read(target: Uint8Array, start: number, length: number, position: number, done: ReadDone): void {
    const failed = (error: Error | null): void => {
      done(error, 0);
    };
    const step = (got: number): void => {
      if (!this.#isOpenFor(failed)) return;
      fs.read(this.#fd, target, start + got, length - got, position + got, (error, n) => {
        if (error) return done(error, got);
        if (n === 0) target.fill(0, start + got, start + length);
        if (n === 0 || got + n >= length) return done(null, got + n);
        step(got + n);
      });
    };
    step(0);
  }

  write(bytes: Uint8Array, start: number, length: number, position: number, done: FileDone): void {
    const step = (put: number): void => {
      if (!this.#isOpenFor(done)) return;
      fs.write(this.#fd, bytes, start + put, length - put, position + put, (error, n) => {
        if (error) return done(error);
        if (put + n >= length) return done(null);
        step(put + n);
      });
    };
    step(0);
  }

  punch(ranges: readonly FileRange[], done: FileDone): void {
    if (this.#isOpenFor(done)) punchHoles(this.#fd, ranges, done);
  }

  datasyncSync(): void {
    fs.fdatasyncSync(this.#fd);
  }

  datasync(done: FileDone): void {
    if (this.#isOpenFor(done)) fs.fdatasync(this.#fd, done);
  }

  size(): { sizeBytes: number; allocatedBytes: number } {
    const stat = fs.fstatSync(this.#fd);
    return { sizeBytes: stat.size, allocatedBytes: stat.blocks * 512 };
  }

  truncate(sizeBytes: number): void {
    fs.ftruncateSync(this.#fd, sizeBytes);
  }

  close(): void {
    if (!this.#open) return;
    const fd = this.#fd;
    this.#open = false;
    fs.closeSync(fd);
  }

  /** Else answers in a later turn. */
  #isOpenFor(done: FileDone): boolean {
    if (this.#open) return true;
    setImmediate(done, closedFile(this.path));
    return false;
  }
}

function closedFile(file: string): Error {
  return Object.assign(new Error(`EBADF: ${file} is closed`), { code: 'EBADF', path: file });
}

/** The file system of the host. */
export const systemFiles: Files = {
  open: (file) => new SystemFile(file, fs.openSync(file, 'r+')),
  create: (file) => new SystemFile(file, fs.openSync(file, 'wx+', 0o600)),
  exists: (file) => fs.existsSync(file),
  list: (directory) => fs.readdirSync(directory).sort(),
  makeDirectory(directory) {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  },
  rename(from, to) {
    fs.renameSync(from, to);
  },
  remove(file) {
    fs.rmSync(file, { force: true });
  },
  removeDirectory(directory) {
    fs.rmdirSync(directory);
  },
  syncDirectory(directory) {
    const fd = fs.openSync(directory, 'r');
    try {
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  },
  space(directory) {
    const stat = fs.statfsSync(directory);
    return { totalBytes: stat.blocks * stat.bsize, freeBytes: stat.bavail * stat.bsize };
  },
  mountIdentity(directory) {
    const device = fs.statSync(directory).dev;
    return `${device}:${mountId(directory)}`;
  },
  lock: (directory) => lockDirectory(directory),
  threadReadBytes,
};

/** Linux tells the mount of an open file in /proc; elsewhere the device number alone must do. */
function mountId(directory: string): string {
  const fd = fs.openSync(path.resolve(directory), 'r');
  try {
    const info = fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
    return /^mnt_id:\s*(\d+)$/m.exec(info)?.[1] ?? '0';
  } catch {
    return '0';
  } finally {
    fs.closeSync(fd);
  }
}
