// Runs one compiled test file of a tree in a process of its own.

import { spawn } from 'node:child_process';

/** As long as a test file may take in CI (ms of real time). */
const timeoutMs = 480_000;

/** Steps of a random test; what is found is found in far fewer. */
const randomSteps = '20000';
const always = { STOR_SEED: '1', TAP_BAIL: '1', TAP_TIMEOUT: '86400' };
const running = new Set();

export function stopTests() {
  for (const child of running) child.kill('SIGKILL');
}

/**
 * Null when all of it passes, else what failed first. It ends at the first failure. Random tests get
 * the same seed each time, so that chance does not decide what is found. A file that does not even get
 * to its first test has found nothing: that is an error.
 */
export async function runTest(path) {
  const { output, errors, code, isLate } = await run(path);
  if (isLate) return `no end within ${timeoutMs} ms`;
  if (code === 0) return null;
  const failed = [...output.matchAll(/^ *not ok \d+ - (.*)$/gm)].map(([, name]) => name);
  if (failed.length === 0) throw new Error(`${path} does not run:\n${output}${errors}`);
  const [, test] = [...output.matchAll(/^# Subtest: (.*)$/gm)].at(-1) ?? [];
  return [test, failed[0].replace(/ # time=.*/, '')].filter((part) => part).join(': ');
}

function run(path) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--enable-source-maps', path], {
      // the time limit is here: tap's own would call a busy machine a failure
      env: { STOR_STEPS: randomSteps, ...process.env, ...always },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(child);
    let [output, errors, isLate] = ['', '', false];
    child.stdout.on('data', (bytes) => {
      output += String(bytes);
    });
    child.stderr.on('data', (bytes) => {
      errors = (errors + String(bytes)).slice(-4_000);
    });
    const timer = setTimeout(() => {
      isLate = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      running.delete(child);
      resolve({ output, errors, code, isLate });
    });
  });
}
