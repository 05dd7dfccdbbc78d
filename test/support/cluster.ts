import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import type { Test } from 'tap';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { TestCluster, type TestClusterOptions } from '../../benchmarks/src/harness/test-cluster.ts';

let built = false;

/** The agents and the writer run compiled: compiles what is not, once. */
export function ensureBuilt(): void {
  if (built) return;
  execFileSync(process.execPath, [join(checkoutRoot(), 'scripts/bootstrap.mjs')], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  built = true;
}

/** A started cluster that is taken down with the test, whatever happens; its logs on a failure. */
export async function startCluster(
  t: Test,
  options: TestClusterOptions = {},
): Promise<TestCluster> {
  ensureBuilt();
  const cluster = await TestCluster.create(options);
  t.teardown(async () => {
    if (!t.passing()) for (const line of cluster.logTails().split('\n')) t.comment(line);
    await cluster.close();
  });
  await cluster.start();
  return cluster;
}
