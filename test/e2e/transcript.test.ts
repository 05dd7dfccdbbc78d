// The first five minutes of the README with real processes.
import { randomBytes } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Volume } from '../../packages/protocol/src/index.ts';
import { WriterProcess, runVerifier } from '../../benchmarks/src/harness/writer-process.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { hashImage, readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { startCluster } from '../support/cluster.ts';

const MiB = 1024 * 1024;

t.test('the first five minutes', async (t) => {
  const cluster = await startCluster(t);
  const dir = t.testdir();

  await t.test('node ls', async (t) => {
    const table = await cluster.must('node', 'ls');
    for (const name of ['n1', 'n2', 'n3']) t.match(table, new RegExp(`\\b${name}\\b.*\\bup\\b`));
  });

  await t.test('volume create and inspect', async (t) => {
    t.match(
      await cluster.must('volume', 'create', 'db', '--size', '512MiB', '--replicas', '3'),
      /volume db created: 512MiB, 3 replicas on n\d, n\d, n\d/,
    );
    const volume = await cluster.inspect('db');
    t.same(Object.keys(volume).sort(), ['metadata', 'spec', 'status']);
    t.match(volume, {
      metadata: { name: 'db' },
      spec: { sizeBytes: 512 * MiB, replicas: 3 },
      status: { health: 'healthy', primary: null },
    });
    t.match(volume.status.nbdUri, /^nbd:\/\/127\.0\.0\.1:\d+\/db$/);
    t.same(volume.status.replicas.map((replica) => replica.node).sort(), ['n1', 'n2', 'n3']);
    for (const replica of volume.status.replicas) t.equal(replica.state, 'in-sync');
  });

  const image = join(dir, 'disk.img');
  const bytes = Buffer.concat([randomBytes(8 * MiB), Buffer.alloc(8 * MiB), randomBytes(9 * MiB)]);
  writeFileSync(image, bytes);

  await t.test('volume import and export', async (t) => {
    await cluster.must('volume', 'import', 'db', image);
    const out = join(dir, 'out.img');
    await cluster.must('volume', 'export', 'db', out);
    t.equal(statSync(out).size, 512 * MiB);
    t.equal(await hashImage(out), await hashImage(image), 'the rest is zeros');
    t.ok(statSync(out).blocks * 512 < 100 * MiB, 'holes stay holes');
  });

  await t.test('kill -9 of a secondary: I/O goes on, degraded, then healthy again', async (t) => {
    const primary = 0;
    const victim = 1;
    const logPath = join(cluster.dir, 'db.log');
    // The writer has the part of the volume behind the image.
    const writer = new WriterProcess({
      uri: cluster.tcpUri(primary, 'db'),
      logPath,
      offset: 64 * MiB,
      length: 16 * MiB,
      depth: 8,
      flushEvery: 200,
      rate: 1_000,
    });
    t.teardown(() => writer.kill());
    await waitFor('the writer to get going', () => writer.acknowledged > 500);
    const agent = cluster.agent(victim);
    const written = Number(readFileSync(join(agent.place.dir, 'agent.pid'), 'utf8'));
    t.equal(written, agent.pid, 'agent.pid is the agent');
    await agent.kill9();
    const degraded = await cluster.waitHealth('db', 'degraded');
    t.match(stateOn(degraded, 'n2'), /^(out-of-sync|node-down)$/);
    t.not(degraded.status.message, '', 'it says why');
    const before = writer.acknowledged;
    await waitFor('the writer to go on', () => writer.acknowledged > before + 500);
    // The replica leaves the set first; the node counts as down when its lease has run out.
    await waitFor(
      'n2 to count as down',
      async () => stateOn(await cluster.inspect('db'), 'n2') === 'node-down',
    );
    agent.start();
    await agent.waitReady();
    await cluster.waitHealth('db', 'healthy');
    const summary = await writer.stop();
    t.same(summary.errors, [], 'the client saw no error');
    t.match(await runVerifier(logPath, { uri: cluster.tcpUri(2, 'db') }), { wrong: 0, torn: 0 });
  });

  await t.test('all three replicas are identical, and a stop keeps everything', async (t) => {
    const { replicas, servedHash } = await readAllReplicas(cluster, 'db', t.testdir());
    t.equal(replicas.length, 3);
    for (const replica of replicas) {
      t.equal(replica.contentHash, servedHash, replica.node);
      t.ok(replica.allocatedBytes > 16 * MiB, `${replica.node} is not empty`);
      t.equal(replica.badBlocks, 0);
      t.same(replica.problems, []);
    }
    await cluster.start();
    await cluster.waitHealth('db', 'healthy');
    const out = join(dir, 'again.img');
    await cluster.must('volume', 'export', 'db', out);
    t.equal(await hashImage(out), servedHash);
  });

  await t.test('volume rm', async (t) => {
    await cluster.must('volume', 'detach', 'db');
    await cluster.must('volume', 'rm', 'db', '-y');
    t.equal(await cluster.must('volume', 'ls', '-o', 'name', '--no-headers'), '');
    t.equal((await cluster.storctl('volume', 'inspect', 'db')).code, 3);
  });
});

function stateOn(volume: Volume, node: string): string | undefined {
  return volume.status.replicas.find((replica) => replica.node === node)?.state;
}
