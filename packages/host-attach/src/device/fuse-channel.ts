import fs from 'node:fs';
import { StorError } from '@stor/protocol';

export type ChannelError = NodeJS.ErrnoException;

/** Where FUSE requests come from and their answers go. */
export interface FuseChannel {
  /** One request, in a later turn. Several calls may wait at once. */
  read(target: Buffer, done: (error: ChannelError | null, length: number) => void): void;
  /** One answer as a whole. Throws the system's error. */
  write(parts: readonly Buffer[]): void;
}

const deviceFile = '/dev/fuse';

/** An open /dev/fuse. It is mounted by handing its descriptor to `mount`. */
export class FuseDevice implements FuseChannel {
  readonly fd: number;
  #open = true;

  constructor() {
    try {
      this.fd = fs.openSync(deviceFile, 'r+');
    } catch (cause) {
      const text = `${deviceFile} cannot be opened (${(cause as Error).message}): load the module "fuse", and run as root`;
      throw new StorError('FAILED_PRECONDITION', text, { cause });
    }
  }

  /** Waits in a thread of the pool. */
  read(target: Buffer, done: (error: ChannelError | null, length: number) => void): void {
    fs.read(this.fd, target, 0, target.length, null, done);
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
