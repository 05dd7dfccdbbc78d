import t from 'tap';
import { badInput } from '../../benchmarks/src/scenarios/bad-input.ts';
import { CheckList } from '../../benchmarks/src/scenarios/check-list.ts';
import { fullDisk } from '../../benchmarks/src/scenarios/full-disk.ts';
import { ensureBuilt, startCluster } from '../support/cluster.ts';
import type { Test } from 'tap';

function report(t: Test, checks: CheckList): void {
  for (const { name, problem, skipped } of checks.results) {
    t.equal(problem, null, name, skipped === null ? {} : { skip: skipped });
  }
  t.ok(checks.results.length > 0);
}

t.test('bad input is refused and leaves nothing behind', async (t) => {
  const cluster = await startCluster(t);
  const checks = new CheckList();
  await badInput(cluster, checks);
  report(t, checks);
});

t.test('a disk that is full', async (t) => {
  ensureBuilt();
  const checks = new CheckList();
  await fullDisk(t.testdir(), checks);
  report(t, checks);
});
