// A volume of several segments under load: nodes die, one segment's replica moves; in the end every
// replica holds what was served of its segment.
import { join } from 'node:path';
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { verifyThroughClient } from '../../benchmarks/src/verify/verify-volume.ts';
import { VerifyingWriter } from '../../benchmarks/src/verify/verifying-writer.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';

const MiB = 1024 * 1024;
const segmentBytes = 8 * MiB;
const sizeBytes = 60 * MiB;

t.test('a volume of several segments goes on while its replicas change', async (t) => {
  const cluster = await startCluster(t, { nodes: 4 });
  await cluster.waitFit();
  const shape = ['--size', String(sizeBytes), '--segment-size', String(segmentBytes)];
  await cluster.must('volume', 'create', 'big', ...shape, '--replicas', '2');
  const { status } = await cluster.inspect('big');
  const counts = new Map<string, number>();
  for (const { node } of status.replicas) counts.set(node, (counts.get(node) ?? 0) + 1);
  t.same([...counts.values()], [4, 4, 4, 4], 'eight segments of two replicas are spread evenly');

  const clients = await Promise.all(
    [0, 0].map((node) => NbdClient.connect({ uri: cluster.tcpUri(node, 'big') })),
  );
  const stop = new AbortController();
  const logPath = join(cluster.dir, 'big.log');
  const writer = new VerifyingWriter({
    clients,
    logPath,
    offset: 0,
    length: sizeBytes,
    seed: 4,
    depth: 8,
    writes: Infinity,
    flushEvery: 50,
    rate: 500,
    readShare: 0.2,
    signal: stop.signal,
  });
  const running = writer.run();
  const goesOn = async (): Promise<void> => {
    const before = writer.progress().acknowledged;
    await waitFor('the writer to go on', async () =>
      writer.progress().acknowledged > before + 200 ? true : null,
    );
  };
  const replicas = async () => (await cluster.inspect('big')).status.replicas;
  const healthy = () =>
    waitFor(
      'all replicas in sync',
      async () => {
        const { health, message } = (await cluster.inspect('big')).status;
        if (health === 'healthy' && (await replicas()).length === 16) return true;
        throw new Error(message);
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    );
  await goesOn();

  await cluster.agent(2).kill9();
  await goesOn();
  const { health } = (await cluster.inspect('big')).status;
  t.equal(health, 'degraded');
  await cluster.start();
  await healthy();

  const [moved] = (await replicas()).filter(({ node }) => node === 'n4');
  const segment = moved?.segment ?? 0;
  const taken = (await replicas()).filter((each) => each.segment === segment);
  const target = ['n1', 'n2', 'n3'].find((name) => !taken.some(({ node }) => node === name)) ?? '';
  const several = await cluster.storctl('volume', 'move', 'big', 'n4', '--to', target);
  t.match(several.stderr, /replicas of 4 segments of volume big: say which with --segment/);
  await cluster.must('volume', 'move', 'big', 'n4', '--segment', String(segment), '--to', target);
  const now = (await replicas()).filter((each) => each.segment === segment);
  t.ok(now.some(({ node }) => node === target) && !now.some(({ node }) => node === 'n4'));
  await goesOn();
  await healthy();

  stop.abort();
  t.match(await running, { ended: 'stopped', errors: [], wrongReads: [] });
  const [client] = clients;
  if (!client) throw new Error('no client');
  t.match(await verifyThroughClient(logPath, client), { wrong: 0, torn: 0, problems: [] });
  await Promise.all(clients.map((each) => each.disconnect()));

  await cluster.kill9All();
  await cluster.start();
  const read = await readAllReplicas(cluster, 'big', t.testdir());
  t.equal(read.replicas.length, 16);
  for (const replica of read.replicas) {
    const name = `segment ${replica.segment} on ${replica.node}`;
    t.equal(replica.contentHash, read.segmentHashes[replica.segment], name);
    t.same(replica.problems, [], name);
  }
});
