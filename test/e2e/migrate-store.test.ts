// The cluster's state moves to etcd while a volume is in use: what was acknowledged before is there
// after, and the cluster is whole.
import { appendFileSync } from 'node:fs';
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../../benchmarks/src/harness/writer-process.ts';
import { EtcdServers, needsEtcd } from '../../packages/control-plane/src/testing/etcd-servers.ts';
import { startCluster } from '../support/cluster.ts';

t.test('from the embedded store to etcd', async (t) => {
  if (!needsEtcd(t)) return;
  const servers = await EtcdServers.start(t);
  const cluster = await startCluster(t);
  const length = 16 * 1024 * 1024;
  const to = servers.address('moved');
  await cluster.must('volume', 'create', 'db', '--size', String(length), '--replicas', '3');
  const before = JSON.parse(await cluster.must('volume', 'inspect', 'db', '-o', 'json')) as object;

  const refused = await cluster.storctl('cluster', 'migrate-store', '--to', 'etcd://nowhere', '-y');
  t.equal(refused.code, 2, refused.stderr);
  t.match(refused.stderr, /not HOST:PORT/);

  const uri = cluster.tcpUri(0, 'db');
  const logPath = `${cluster.dir}/db.log`;
  const writer = new WriterProcess({ uri, logPath, length, seed: 7, flushEvery: 300 });
  try {
    await waitFor('some writes', () => writer.acknowledged >= 500);
    // n3 hears nothing of the move
    await cluster.agent(2).kill9();
    await cluster.must('cluster', 'migrate-store', '--to', to, '-y');
    // its agent begins anew, which ends the connection
    await writer.waitEnd();
  } finally {
    await writer.kill();
  }
  await waitFor('the cluster answers from etcd', async () => {
    const status = await cluster.storctl('cluster', 'status', '-o', 'json');
    return status.code === 0 && (JSON.parse(status.stdout) as { quorum: boolean }).quorum;
  });
  // as any client: n2 may still be on its way to the other store, and refuses
  const verified = await waitFor('n2 serves the volume', () =>
    runVerifier(logPath, { uri: cluster.tcpUri(1, 'db') }),
  );
  t.match(verified, { wrong: 0, torn: 0, problems: [] });
  t.ok(verified.acknowledged >= 500, `${verified.acknowledged} writes`);
  const after = JSON.parse(await cluster.must('volume', 'inspect', 'db', '-o', 'json')) as object;
  const idOf = (volume: object): string => (volume as { metadata: { id: string } }).metadata.id;
  t.equal(idOf(after), idOf(before));

  // what n3 knows is the embedded store, which nobody serves any more: its config says where to go
  const third = cluster.agent(2);
  appendFileSync(third.configPath, `store: ${to}\n`);
  third.start();
  await third.waitReady();
  await cluster.waitHealth('db', 'healthy');
  await cluster.must('volume', 'create', 'later', '--size', '4MiB', '--replicas', '3');
});
