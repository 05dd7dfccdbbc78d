import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';

/** Held until `release`, or until the process dies in whatever way. */
export interface DirectoryLock {
  /** Works twice. */
  release(): Promise<void>;
}

/** Another opener holds the directory. `pid` is its process id as it sees itself. */
export class DirectoryLockedError extends Error {
  readonly code = 'ELOCKED';
  readonly pid: number;

  constructor(directory: string, pid: number) {
    super(`${directory} is locked by process ${pid}`);
    this.name = 'DirectoryLockedError';
    this.pid = pid;
  }
}

const lockPrefix = 'lock.';
/** Two openers that start at the same instant both step back; each tries so often. */
const maxTries = 4;
const retryMs = 40;

/**
 * An exclusive lock without native code that does not outlive its process, kill -9 included, and
 * holds across containers that share the directory: each opener listens on a UNIX socket of its own
 * name in the directory, *then* looks at all others. One that accepts a connection is alive, one
 * that refuses is a dead process's and is removed. Of two that start together at least one sees the
 * other. (A file with a process id fails across pid namespaces; an abstract socket across network
 * namespaces.)
 */
export async function lockDirectory(directory: string): Promise<DirectoryLock> {
  for (let attempt = 1; ; attempt += 1) {
    const own = await Candidate.listen(directory);
    let holder: number | null = null;
    try {
      holder = await own.otherHolder();
    } catch (error) {
      await own.release();
      throw error;
    }
    // The name is looked at again: one who took this socket for dead, between bind and listen, has
    // removed it, and the next opener would not see it.
    if (holder === null && own.visible()) return own;
    await own.release();
    if (holder !== null && attempt >= maxTries) throw new DirectoryLockedError(directory, holder);
    if (attempt >= 2 * maxTries) throw new DirectoryLockedError(directory, process.pid);
    const waitMs = retryMs * (0.5 + (randomBytes(1)[0] ?? 0) / 256);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

class Candidate implements DirectoryLock {
  readonly #directory: string;
  readonly #name: string;
  readonly #server: net.Server;
  /** Socket names are limited to 107 bytes, so they are reached through the open directory. */
  readonly #directoryFd: number;
  #released: Promise<void> | null = null;

  private constructor(directory: string, name: string, server: net.Server, directoryFd: number) {
    this.#directory = directory;
    this.#name = name;
    this.#server = server;
    this.#directoryFd = directoryFd;
  }

  static async listen(directory: string): Promise<Candidate> {
    const directoryFd = fs.openSync(directory, 'r');
    const name = `${lockPrefix}${process.pid}-${randomBytes(6).toString('hex')}`;
    const server = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.destroy();
    });
    server.unref();
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(`/proc/self/fd/${directoryFd}/${name}`, () => {
          server.off('error', reject);
          resolve();
        });
      });
    } catch (error) {
      fs.closeSync(directoryFd);
      throw error;
    }
    return new Candidate(directory, name, server, directoryFd);
  }

  visible(): boolean {
    return fs.existsSync(path.join(this.#directory, this.#name));
  }

  /** The process id of another live opener, or null; sockets of dead ones are removed. */
  async otherHolder(): Promise<number | null> {
    let holder: number | null = null;
    for (const name of fs.readdirSync(this.#directory)) {
      if (!name.startsWith(lockPrefix) || name === this.#name) continue;
      const state = await probe(`/proc/self/fd/${this.#directoryFd}/${name}`);
      if (state === 'alive') holder = Number(/^lock\.(\d+)/.exec(name)?.[1] ?? 0);
      if (state === 'dead') fs.rmSync(path.join(this.#directory, name), { force: true });
    }
    return holder;
  }

  release(): Promise<void> {
    this.#released ??= new Promise((resolve) => {
      // closing also removes the socket's name, for which the directory must still be open
      this.#server.close(() => {
        fs.closeSync(this.#directoryFd);
        resolve();
      });
    });
    return this.#released;
  }
}

/** Only a refused connection proves a dead owner; every doubt counts as alive. */
function probe(name: string): Promise<'alive' | 'dead' | 'gone'> {
  return new Promise((resolve) => {
    const socket = net.connect(name);
    socket.once('connect', () => {
      socket.destroy();
      resolve('alive');
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      socket.destroy();
      if (error.code === 'ECONNREFUSED') resolve('dead');
      else resolve(error.code === 'ENOENT' ? 'gone' : 'alive');
    });
  });
}
