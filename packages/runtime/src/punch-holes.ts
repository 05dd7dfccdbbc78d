import fs from 'node:fs';
import { createRequire } from 'node:module';
import type koffi from 'koffi';
import type { FileDone, FileRange } from './files.ts';

/** FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h) */
const punchMode = 0x03;

type Fallocate = (
  fd: number,
  mode: number,
  offset: number,
  length: number,
  done: (error: Error | null, result: number) => void,
) => void;

interface SystemCalls {
  fallocate: Fallocate;
  errno(): number;
}

let loaded: SystemCalls | Error | null = null;

/** Loaded at the first use: whoever punches no holes needs no native code. */
function systemCalls(): SystemCalls | Error {
  if (loaded) return loaded;
  try {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    const call = ffi
      .load('libc.so.6')
      .func('int fallocate64(int fd, int mode, int64_t offset, int64_t length)');
    const fallocate = call.async.bind(call) as Fallocate;
    loaded = { fallocate, errno: () => ffi.errno() };
  } catch (cause) {
    loaded = new Error('holes cannot be punched: no foreign function interface', { cause });
  }
  return loaded;
}

/**
 * Node cannot punch holes, so fallocate(2) is called through koffi, in the thread pool. It must be in
 * this process: a program of its own would live on after kill -9 of the agent, and punch slots that
 * the next agent has given out again. One call at a time, so that the pool stays free for I/O.
 */
export function punchHoles(fd: number, ranges: readonly FileRange[], done: FileDone): void {
  const calls = systemCalls();
  if (calls instanceof Error) {
    queueMicrotask(() => {
      done(calls);
    });
    return;
  }
  let own: number;
  try {
    // its own descriptor: the number of one that is closed meanwhile may be another file's by then
    own = fs.openSync(`/proc/self/fd/${fd}`, 'r+');
  } catch (error) {
    queueMicrotask(() => {
      done(error as Error);
    });
    return;
  }
  const over = (error: Error | null): void => {
    fs.closeSync(own);
    done(error);
  };
  const step = (index: number): void => {
    const range = ranges[index];
    if (!range) {
      over(null);
      return;
    }
    calls.fallocate(own, punchMode, range.offset, range.length, (error, result) => {
      if (error) over(error);
      else if (result === 0) step(index + 1);
      else
        over(
          new Error(
            `fallocate of ${range.length} bytes at ${range.offset}: errno ${calls.errno()}`,
          ),
        );
    });
  };
  if (ranges.length > 0) step(0);
  else
    queueMicrotask(() => {
      over(null);
    });
}
