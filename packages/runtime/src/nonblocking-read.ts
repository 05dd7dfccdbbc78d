import fs from 'node:fs';
import { createRequire } from 'node:module';
import type koffi from 'koffi';

/** poll.h; of `struct pollfd`: descriptor, wanted, what happened */
const readable = 1;
const pollBytes = 8;
const eventsAt = 4;
/** Without a foreign function interface it is looked for in this time again (ms). */
const lookMs = 1;

interface SystemCalls {
  read(fd: number, target: Buffer, length: number): number;
  poll(
    files: Buffer,
    count: number,
    timeoutMs: number,
    done: (error: Error | null, result: number) => void,
  ): void;
  errno(): number;
}

let loaded: SystemCalls | null | undefined;

/** Null where there is no foreign function interface. */
function systemCalls(): SystemCalls | null {
  if (loaded !== undefined) return loaded;
  try {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    const libc = ffi.load('libc.so.6');
    const poll = libc.func('int poll(void *files, ulong count, int timeout)');
    loaded = {
      read: libc.func('long read(int fd, void *target, size_t length)') as SystemCalls['read'],
      poll: poll.async.bind(poll) as SystemCalls['poll'],
      errno: () => ffi.errno(),
    };
  } catch {
    loaded = null;
  }
  return loaded;
}

const errorNames = new Map<number, string>([
  [2, 'ENOENT'],
  [4, 'EINTR'],
  [5, 'EIO'],
  [11, 'EAGAIN'],
  [19, 'ENODEV'],
  [22, 'EINVAL'],
  [103, 'ECONNABORTED'],
]);

/**
 * Reads what is there from a descriptor that was opened with O_NONBLOCK: at once, on the caller's
 * thread. The name of the error instead (`EAGAIN`: nothing is there). Not by `fs.readSync`, which
 * makes an exception of each empty read.
 */
export function readNow(fd: number, target: Buffer): number | string {
  const calls = systemCalls();
  if (!calls) {
    try {
      return fs.readSync(fd, target, 0, target.length, null);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'EIO';
    }
  }
  const length = calls.read(fd, target, target.length);
  if (length >= 0) return length;
  const number = calls.errno();
  return errorNames.get(number) ?? `errno ${number}`;
}

/**
 * Calls `done` when something may be read, when the descriptor is of no use any more, or after
 * `timeoutMs`. A thread of the pool waits so long. It must stay open until then.
 */
export function whenReadable(fd: number, timeoutMs: number, done: () => void): void {
  const calls = systemCalls();
  if (!calls) {
    setTimeout(done, lookMs);
    return;
  }
  const files = Buffer.alloc(pollBytes);
  files.writeInt32LE(fd, 0);
  files.writeInt16LE(readable, eventsAt);
  calls.poll(files, 1, timeoutMs, () => {
    // held until here, the kernel writes to it
    files.fill(0);
    done();
  });
}
