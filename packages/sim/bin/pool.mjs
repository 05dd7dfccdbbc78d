// Runs seeds in child processes, one after another in each.

import { fork } from 'node:child_process';
import { join } from 'node:path';

/** A seed that takes longer than this is ended and counts as failed (ms of real time). */
const seedTimeoutMs = 300_000;
/** One whose process does not come to the end of a turn for so long spins: nobody is answered (ms). */
const silenceMs = 60_000;

/**
 * @param {{ tree: string, jobs: number, next: () => object | null,
 *   onReport: (report: object, options: object) => void | 'enough' }} options
 *   `tree`: what buildTree made; `next`: options of the next run, or null when there is none;
 *   `onReport` ends all other runs when it says 'enough'
 */
export async function runPool({ tree, jobs, next, onReport }) {
  const pool = { tree, next, onReport, isOver: false, children: new Set() };
  await Promise.all(Array.from({ length: jobs }, () => runWorker(pool)));
}

async function runWorker(pool) {
  while (!pool.isOver) if (await runChild(pool)) return;
}

/** True when nothing is left; false when the child died and another one is to go on. */
function runChild(pool) {
  const { tree, next } = pool;
  return new Promise((resolve, reject) => {
    let isReady = false;
    const child = fork(join(tree, 'packages/sim/dist/src/run/worker.js'), {
      execArgv: ['--enable-source-maps', '--max-old-space-size=2048'],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    pool.children.add(child);
    let current = null;
    let timer;
    let silence;
    const report = (result) => {
      if (pool.isOver || pool.onReport(result, current) !== 'enough') return;
      // the other runs would only be waited for
      pool.isOver = true;
      for (const other of pool.children) if (other !== child) other.kill('SIGKILL');
    };
    let errors = '';
    child.stderr.on('data', (bytes) => {
      errors = (errors + String(bytes)).slice(-4_000);
    });
    const give = () => {
      current = pool.isOver ? null : next();
      clearTimeout(timer);
      clearTimeout(silence);
      if (!current) {
        child.disconnect();
        return;
      }
      timer = setTimeout(() => giveUp('crash', `no end within ${seedTimeoutMs} ms`), seedTimeoutMs);
      listen();
      child.send(current);
    };
    let stuck = null;
    const giveUp = (checker, detail) => {
      stuck = { checker, detail };
      child.kill('SIGKILL');
    };
    const listen = () => {
      clearTimeout(silence);
      const why = `its process spins: no turn ended within ${silenceMs} ms of real time`;
      silence = setTimeout(() => giveUp('progress', why), silenceMs);
    };
    child.on('message', (message) => {
      isReady = true;
      if (message.kind === 'alive') {
        if (current) listen();
        return;
      }
      if (message.kind === 'report') report(message.report);
      give();
    });
    child.on('exit', () => {
      clearTimeout(timer);
      clearTimeout(silence);
      pool.children.delete(child);
      if (pool.isOver) {
        resolve(true);
        return;
      }
      if (!isReady) {
        reject(new Error(`the simulator does not start:\n${errors}`));
        return;
      }
      if (current) {
        const died = { checker: 'crash', detail: errors.trim() || 'the process ended' };
        report(failedReport(current, stuck ?? died));
      }
      resolve(current === null);
    });
  });
}

function failedReport({ seed }, violation) {
  const violations = [violation];
  const none = { faults: {}, steps: {}, io: {}, events: 0, cpuMs: 0, simulatedMs: 0 };
  return { seed, violations, hash: '', primaryChanges: 0, eras: 0, ...none };
}

/** Sums of the counters of many reports. */
export class Totals {
  runs = 0;
  failed = 0;
  cpuMs = 0;
  simulatedMs = 0;
  least = { ios: Infinity, faults: Infinity };
  groups = { faults: {}, steps: {}, io: {} };
  primaryChanges = 0;
  eras = 0;

  add(report) {
    this.runs += 1;
    if (report.violations.length > 0) this.failed += 1;
    this.cpuMs += report.cpuMs;
    this.simulatedMs += report.simulatedMs;
    this.primaryChanges += report.primaryChanges;
    this.eras += report.eras;
    for (const group of ['faults', 'steps', 'io']) {
      const sums = this.groups[group];
      for (const [name, count] of Object.entries(report[group])) {
        sums[name] = (sums[name] ?? 0) + count;
      }
    }
    const faults = Object.values(report.faults).reduce((sum, count) => sum + count, 0);
    this.least.faults = Math.min(this.least.faults, faults);
    this.least.ios = Math.min(this.least.ios, report.io.ios ?? 0);
  }

  table() {
    const lines = [];
    const per = (value) => (value / Math.max(1, this.runs)).toFixed(1);
    lines.push(`${this.runs} seeds, ${this.failed} failed`);
    lines.push(`simulated: ${(this.simulatedMs / 60_000).toFixed(0)} minutes`);
    lines.push(`cpu: ${(this.cpuMs / 1000 / Math.max(1, this.runs)).toFixed(1)} s per seed`);
    lines.push(`client I/Os of the quietest seed: ${this.least.ios}; faults: ${this.least.faults}`);
    lines.push(`primary changes per seed: ${per(this.primaryChanges)}`);
    lines.push(`times no member kept its memory, per seed: ${per(this.eras)}`);
    for (const [group, sums] of Object.entries(this.groups)) {
      lines.push(`${group}:`);
      for (const [name, count] of Object.entries(sums).sort()) {
        lines.push(`  ${name.padEnd(24)} ${String(count).padStart(9)}  ${per(count)} per seed`);
      }
    }
    return lines.join('\n');
  }
}
