import { spawn } from 'node:child_process';
import type { FileDone, FileRange } from './files.ts';

/** A batch that takes longer hangs in the kernel, or will never end (ms). */
const patienceMs = 60_000;
/** What is kept of what the program says (characters). */
const maxErrorText = 500;
/** One line for each range: where it begins, and how long it is (bytes). */
const script =
  'while read -r offset length; do fallocate -p -o "$offset" -l "$length" /proc/self/fd/3 || exit 1; done';

/**
 * Node cannot punch holes, so util-linux does: `fallocate` in a process of its own, on the same open
 * file. Some milliseconds for a batch; never on the way of a request.
 */
export function punchHoles(fd: number, ranges: readonly FileRange[], done: FileDone): void {
  let isOver = false;
  const over = (error: Error | null): void => {
    if (isOver) return;
    isOver = true;
    done(error);
  };
  const child = spawn('/bin/sh', ['-c', script], {
    stdio: ['pipe', 'ignore', 'pipe', fd],
    timeout: patienceMs,
    killSignal: 'SIGKILL',
  });
  let text = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    if (text.length < maxErrorText) text += chunk.toString();
  });
  child.once('error', over);
  child.once('close', (code) => {
    over(code === 0 ? null : new Error(`fallocate: ${text.slice(0, maxErrorText).trim()}`));
  });
  // it may have ended by then: its exit code says why
  child.stdin?.on('error', () => {});
  child.stdin?.end(ranges.map(({ offset, length }) => `${offset} ${length}\n`).join(''));
}
