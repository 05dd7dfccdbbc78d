// Three nodes with two disks each: a disk is emptied onto its neighbour while a client writes and the
// node's agent dies in the middle.
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Disk, Volume } from '../../packages/protocol/src/index.ts';
import t from 'tap';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { WriterProcess, runVerifier } from '../../benchmarks/src/harness/writer-process.ts';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { startCluster } from '../support/cluster.ts';

const MiB = 1024 * 1024;
const sizeBytes = 48 * MiB;
/** Of it the client writes here. */
const writtenBytes = 16 * MiB;
/** The copy lasts long enough then to be cut off, however fast or busy the machine is. */
const slowRebuild = 'rebuild.bps=4MiB';
const deadlineMs = 150_000;

async function diskOf(cluster: TestCluster, node: string, path: string): Promise<Disk> {
  const disks = (await cluster.api.listDisks({})).disks;
  const found = disks.find(({ metadata }) => metadata.name === `${node}:${path}`);
  if (!found) throw new Error(`no disk at ${node}:${path}`);
  return found;
}

function replicasOf({ status }: Volume, node: string): Volume['status']['replicas'] {
  return status.replicas.filter((replica) => replica.node === node);
}

for (const [where, victim] of [
  ["the primary's node", 0],
  ['another node', 2],
] as const) {
  t.test(`a disk of ${where} is emptied onto its neighbour`, async (t) => {
    const cluster = await startCluster(t);
    const image = join(cluster.dir, 'image');
    const rest = randomBytes(sizeBytes - writtenBytes);
    writeFileSync(image, Buffer.concat([Buffer.alloc(writtenBytes), rest]));
    await cluster.must('volume', 'create', 'db', '--size', String(sizeBytes));
    await cluster.must('volume', 'import', 'db', image);
    for (const name of ['n1', 'n2', 'n3']) {
      await cluster.must('disk', 'add', name, join(cluster.dir, `second-${name}`));
    }
    const node = `n${victim + 1}`;
    const agent = cluster.agent(victim);
    const old = await diskOf(cluster, node, join(agent.dataDir, 'disks/d1'));
    const next = await diskOf(cluster, node, join(cluster.dir, `second-${node}`));
    const logPath = join(cluster.dir, 'writes.log');
    const writer = new WriterProcess({
      uri: [0, 1].map((index) => cluster.tcpUri(index, 'db')),
      logPath,
      length: writtenBytes,
      seed: 7,
      depth: 8,
      flushEvery: 40,
      rate: 150,
      readShare: 20,
    });
    t.teardown(() => writer.kill());
    await waitFor('writes', () => writer.acknowledged >= 150);

    await cluster.must('cluster', 'update', '--qos-class', slowRebuild);
    const plan = await cluster.must('disk', 'evacuate', old.metadata.id, '--plan');
    t.match(plan, new RegExp(`db .* ${node}:.*second-${node}`), 'its neighbour is the only place');
    await cluster.must('disk', 'evacuate', old.metadata.id, '--no-wait');
    const before = await waitFor('the copy to begin', async () => {
      const volume = await cluster.inspect('db');
      return replicasOf(volume, node)[1]?.state === 'syncing' ? volume : null;
    });
    await agent.kill9();
    t.equal(before.status.replicas.length, 4);
    t.equal(before.status.health, 'healthy');
    const halfway = await cluster.inspect('db');
    t.equal(replicasOf(halfway, node).length, 2, 'it was not over yet');
    await cluster.must('cluster', 'update', '--qos-class', 'rebuild.bps=none');
    agent.start();
    await agent.waitReady();

    const after = await waitFor(
      'the disk to be empty',
      async () => {
        const volume = await cluster.inspect('db');
        const [first, ...others] = replicasOf(volume, node);
        const isThere = first?.diskId === next.metadata.id && first.state === 'in-sync';
        if (isThere && others.length === 0 && volume.status.health === 'healthy') return volume;
        throw new Error(JSON.stringify(volume.status));
      },
      { deadlineMs, intervalMs: 200 },
    );
    t.equal(after.status.replicas.length, 3);
    const acknowledged = writer.acknowledged;
    await waitFor('writes to go on', () => writer.acknowledged >= acknowledged + 150);
    await waitFor('the disk to be taken out', () => cluster.must('disk', 'rm', old.metadata.id), {
      deadlineMs,
      intervalMs: 500,
    });
    t.notOk(existsSync(join(old.spec.path, 'disk.json')));
    t.same((await writer.stop()).wrongReads, []);
    const verified = await runVerifier(logPath, { uri: cluster.tcpUri(1, 'db') });
    t.same(verified.problems, []);
    const { replicas, servedHash } = await readAllReplicas(cluster, 'db', t.testdir());
    t.equal(replicas.length, 3);
    for (const replica of replicas) {
      t.equal(replica.contentHash, servedHash, `${replica.node} holds what was served`);
      t.same(replica.problems, [], replica.node);
    }
  });
}
