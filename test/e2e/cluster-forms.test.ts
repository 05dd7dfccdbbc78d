import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { namespaceObstacle } from '../../benchmarks/src/namespaces/obstacle.ts';
import { NamespaceNetwork } from '../../benchmarks/src/namespaces/network.ts';
import { formInNamespaces } from '../../benchmarks/src/scenarios/form-in-namespaces.ts';
import { ensureBuilt } from '../support/cluster.ts';

t.test('five agents in five network namespaces form a cluster', async (t) => {
  const obstacle = namespaceObstacle();
  if (obstacle !== null) {
    if (process.env['CI'] === 'true') t.fail(obstacle);
    else t.plan(0, obstacle);
    return;
  }
  ensureBuilt();
  const dir = mkdtempSync(join(tmpdir(), 'stor-form-'));
  const network = await NamespaceNetwork.create(5);
  t.teardown(async () => {
    await network.close();
    rmSync(dir, { recursive: true, force: true });
  });
  const found = await formInNamespaces(network, dir);
  t.same(found.voters, [3, 3, 3]);
  t.equal(new Set(found.hashes).size, 1, 'what was written is read, byte for byte');
  t.equal(found.hashes.length, 3);
  t.ok(found.computeOnly, 'one of them has no disk');
  t.ok(found.oldIdIsGone, 'the wiped node does not come back under its old id');
  t.same(found.refusals, [6, 6, 4]);
});
