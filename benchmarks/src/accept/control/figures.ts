import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { cpus, hostname, release, totalmem } from 'node:os';
import { checkoutRoot } from '../../harness/checkout.ts';

/** Writes what was measured, and on what, to a file. */
export function writeFigures(path: string, figures: Record<string, Record<string, number>>): void {
  const commit = execFileSync('git', ['-C', checkoutRoot(), 'describe', '--always', '--dirty']);
  const machine = {
    host: hostname(),
    kernel: release(),
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? '',
    memoryBytes: totalmem(),
    node: process.version,
    commit: commit.toString('utf8').trim(),
  };
  const result = { date: new Date().toISOString(), machine, figures };
  writeFileSync(path, `${JSON.stringify(result, null, 2)}\n`);
}
