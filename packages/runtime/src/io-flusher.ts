import { createRequire } from 'node:module';
import type koffi from 'koffi';

/** linux/prctl.h, since Linux 5.6 */
const setIoFlusher = 57;
const getIoFlusher = 58;

type Prctl = (option: number, a: number, b: number, c: number, d: number) => number;

let loaded: Prctl | Error | undefined;

function prctl(): Prctl | Error {
  if (loaded !== undefined) return loaded;
  try {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    loaded = ffi
      .load('libc.so.6')
      .func('int prctl(int option, ulong a, ulong b, ulong c, ulong d)') as Prctl;
  } catch (cause) {
    loaded = new Error('no foreign function interface', { cause });
  }
  return loaded;
}

/**
 * Says to the kernel that pages can be written back only with the help of this thread: when it needs
 * memory it must not wait for such a page, as nobody would be left to write it. Threads and programs
 * that this thread starts later have it too, those that run already do not. Needs CAP_SYS_RESOURCE.
 * Null when it is so now, else why not.
 */
export function becomeIoFlusher(): string | null {
  const call = prctl();
  if (call instanceof Error) return call.message;
  if (call(setIoFlusher, 1, 0, 0, 0) === 0) return null;
  return 'the kernel refused PR_SET_IO_FLUSHER: it needs Linux 5.6 and CAP_SYS_RESOURCE';
}

/** Whether this thread is one; null where nobody can say. */
export function isIoFlusher(): boolean | null {
  const call = prctl();
  if (call instanceof Error) return null;
  const answer = call(getIoFlusher, 0, 0, 0, 0);
  return answer < 0 ? null : answer === 1;
}
