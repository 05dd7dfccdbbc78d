// A node without a disk serves a volume whose replicas are on the two others; each of them dies once.
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Node, Volume } from '../../packages/protocol/src/index.ts';
import t from 'tap';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { startCluster } from '../support/cluster.ts';

const sizeBytes = 16 * 1024 * 1024;

t.test('a compute-only node serves a volume', async (t) => {
  const cluster = await startCluster(t, { computeOnly: [2] });
  const nodes = JSON.parse(await cluster.must('node', 'ls', '-o', 'json')) as Node[];
  t.same(
    nodes.map(({ status }) => status.computeOnly),
    [false, false, true],
  );
  await cluster.must(
    'volume',
    'create',
    'db',
    '--size',
    String(sizeBytes),
    '--failure-mode',
    'alwayson',
  );
  await cluster.must('volume', 'attach', 'db', '--node', 'n3');
  const image = join(cluster.dir, 'image');
  const back = join(cluster.dir, 'back');
  const bytes = randomBytes(sizeBytes);
  writeFileSync(image, bytes);
  await cluster.must('volume', 'import', 'db', image);
  const { status } = JSON.parse(
    await cluster.must('volume', 'inspect', 'db', '-o', 'json'),
  ) as Volume;
  t.equal(status.primary?.node, 'n3');
  t.same(status.replicas.map(({ node }) => node).sort(), ['n1', 'n2']);
  const sameAs = async (): Promise<boolean> => {
    await cluster.must('volume', 'export', 'db', back, '--force');
    return readFileSync(back).equals(bytes);
  };
  await cluster.agent(0).kill9();
  t.ok(await sameAs(), 'a replica is away');
  cluster.agent(0).start();
  await cluster.agent(0).waitReady();
  await cluster.waitHealth('db', 'healthy');
  await cluster.agent(2).kill9();
  t.ok(await sameAs(), 'the node without disks is away: another one serves it');
  cluster.agent(2).start();
  await cluster.agent(2).waitReady();
  await cluster.waitHealth('db', 'healthy');
  const { replicas, servedHash } = await readAllReplicas(cluster, 'db', cluster.dir);
  t.equal(replicas.length, 2);
  for (const { node, contentHash } of replicas) t.equal(contentHash, servedHash, node);
});
