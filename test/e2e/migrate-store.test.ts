// The cluster's state moves to etcd and back while a volume is in use: what was acknowledged before is
// there after, and the cluster is whole.
import { appendFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../../benchmarks/src/harness/writer-process.ts';
import { EtcdServers, needsEtcd } from '../../packages/control-plane/src/testing/etcd-servers.ts';
import { startCluster } from '../support/cluster.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';

const length = 16 * 1024 * 1024;

t.test('from the embedded store to etcd, and back', async (t) => {
  if (!needsEtcd(t)) return;
  const servers = await EtcdServers.start(t);
  const cluster = await startCluster(t);
  const to = servers.address('moved');
  await cluster.must('volume', 'create', 'db', '--size', String(length), '--replicas', '3');
  const before = JSON.parse(await cluster.must('volume', 'inspect', 'db', '-o', 'json')) as Volume;

  const refused = await cluster.storctl('cluster', 'migrate-store', '--to', 'etcd://nowhere', '-y');
  t.equal(refused.code, 2, refused.stderr);
  t.match(refused.stderr, /not HOST:PORT/);

  // n3 hears nothing of the first move
  await moveUnderWriter(t, cluster, { to, volume: 'db' }, async () => cluster.agent(2).kill9());
  const after = JSON.parse(await cluster.must('volume', 'inspect', 'db', '-o', 'json')) as Volume;
  t.equal(after.metadata.id, before.metadata.id);

  // what n3 knows is the embedded store, which nobody serves any more: its config says where to go
  const third = cluster.agent(2);
  appendFileSync(third.configPath, `store: ${to}\n`);
  third.start();
  await third.waitReady();
  await cluster.waitHealth('db', 'healthy');
  // a writer of its own: the verifier knows the whole content of a volume
  await cluster.must('volume', 'create', 'later', '--size', String(length), '--replicas', '3');

  await moveUnderWriter(t, cluster, { to: 'embedded', volume: 'later' }, async () => {});
  // nothing of it is needed any more
  await servers.kill(0);
  const last = JSON.parse(await cluster.must('volume', 'inspect', 'db', '-o', 'json')) as Volume;
  t.equal(last.metadata.id, before.metadata.id);
  t.ok(last.status.epoch >= after.status.epoch, 'epochs do not go back');
  const members = JSON.parse(await cluster.must('cluster', 'members', '-o', 'json')) as {
    role: string;
  }[];
  t.equal(members.filter(({ role }) => role !== 'learner').length, 3, 'three voters');
});

interface Volume {
  metadata: { id: string };
  status: { epoch: number };
}

/** Moves the store while somebody writes through n1; n2 has every write that was acknowledged. */
async function moveUnderWriter(
  t: Test,
  cluster: TestCluster,
  { to, volume }: { to: string; volume: string },
  meanwhile: () => Promise<void>,
): Promise<void> {
  const uri = cluster.tcpUri(0, volume);
  const logPath = `${cluster.dir}/${volume}.log`;
  const writer = new WriterProcess({ uri, logPath, length, seed: 7, flushEvery: 300, rate: 500 });
  try {
    await waitFor('some writes', () => writer.acknowledged >= 200);
    await meanwhile();
    await cluster.must('cluster', 'migrate-store', '--to', to, '-y');
    // its agent begins anew, which ends the connection
    await writer.waitEnd();
  } finally {
    await writer.kill();
  }
  await waitFor('the cluster answers from the other store', async () => {
    const status = await cluster.storctl('cluster', 'status', '-o', 'json');
    return status.code === 0 && (JSON.parse(status.stdout) as { quorum: boolean }).quorum;
  });
  // as any client: n2 may still be on its way to the other store, and refuses
  const verified = await waitFor('n2 serves the volume', () =>
    runVerifier(logPath, { uri: cluster.tcpUri(1, volume) }),
  );
  t.match(verified, { wrong: 0, torn: 0, problems: [] });
  t.ok(verified.acknowledged >= 200, `${verified.acknowledged} writes`);
}
