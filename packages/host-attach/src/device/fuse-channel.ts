import fs from 'node:fs';
import { StorError } from '@stor/protocol';
import { readNow, whenReadable } from '@stor/runtime';

const { O_NONBLOCK, O_RDWR } = fs.constants;

/** Where FUSE requests come from and their answers go. */
export interface FuseChannel {
  /** One request that is there, and its length; else the name of the error, `EAGAIN` when there is none. */
  readNow(target: Buffer): number | string;
  /** Calls `done` in a later turn, when there may be one, or it is over. It may be for nothing. */
  whenReadable(done: () => void): void;
  /** One answer as a whole. Throws the system's error. */
  write(parts: readonly Buffer[]): void;
}

const deviceFile = '/dev/fuse';
/** A thread waits for requests so long, and then again: a process that ends waits for its threads (ms). */
const pollMs = 1_000;

/** An open /dev/fuse. It is mounted by handing its descriptor to `mount`. */
export class FuseDevice implements FuseChannel {
  readonly fd: number;
  #open = true;

  constructor() {
    try {
      this.fd = fs.openSync(deviceFile, O_RDWR | O_NONBLOCK);
    } catch (cause) {
      const text = `${deviceFile} cannot be opened (${(cause as Error).message}): load the module "fuse", and run as root`;
      throw new StorError('FAILED_PRECONDITION', text, { cause });
    }
  }

  readNow(target: Buffer): number | string {
    return readNow(this.fd, target);
  }

  whenReadable(done: () => void): void {
    whenReadable(this.fd, pollMs, done);
  }

  /** At once: the kernel copies it and waits for nothing. */
  write(parts: readonly Buffer[]): void {
    const wanted = parts.reduce((sum, part) => sum + part.length, 0);
    const written = fs.writevSync(this.fd, parts);
    if (written === wanted) return;
    throw new StorError('PROTOCOL', `the kernel took ${written} of ${wanted} bytes of an answer`);
  }

  /** Works twice. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    fs.closeSync(this.fd);
  }
}
