// Loaded first into every process of a test run (test.mjs). Test files, their worker threads and their
// TypeScript children get a loader that takes the sources as JavaScript from a cache. All other
// processes, agents above all, run as they are.
//
// It takes the place of tap's own loaders, which cost every process of a test run about a second of a
// processor: the compiler (each module again in each test file), mocks of modules (nothing here uses
// them), and the list of files that a process loads (for coverage, which is off).

import { appendFileSync, readFileSync } from 'node:fs';
import { register } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const main = process.argv[1] ?? '';
if (process.env.TAP_CHILD_ID !== undefined) {
  process.env.NODE_OPTIONS = withoutTap(process.env.NODE_OPTIONS ?? '');
  if (main.endsWith('.ts')) register('./typescript-hooks.mjs', import.meta.url);
  if (isMainThread && main.endsWith('.test.ts')) process.on('exit', recordCpuTime);
}

/** What agents inherit: this file, and nothing of tap. */
function withoutTap(options) {
  return options
    .split(/ (?="?--)/)
    .filter((option) => !option.includes('@tapjs'))
    .join(' ');
}

/**
 * With STOR_TEST_CPU=FILE each test file adds a line to it: seconds of processor time that it and the
 * processes that it has seen end took. On a busy machine they tell more than times by the clock.
 */
function recordCpuTime() {
  const file = process.env.STOR_TEST_CPU;
  if (!file) return;
  const stat = readFileSync('/proc/self/stat', 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // utime, stime, cutime and cstime of proc(5), in ticks of 10 ms
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  appendFileSync(file, `${(ticks / 100).toFixed(1).padStart(7)} ${main}\n`);
}
