// A cluster whose state is in etcd: agents without Raft of their own. What they need of it is the
// same: a primary that dies is replaced, and without the store clients go on.
import { EtcdServers, needsEtcd } from '../../packages/control-plane/src/testing/etcd-servers.ts';
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { killPrimary } from '../../benchmarks/src/scenarios/kill-primary.ts';
import { startCluster } from '../support/cluster.ts';

t.test('a cluster in etcd', async (t) => {
  if (!needsEtcd(t)) return;
  const servers = await EtcdServers.start(t);
  const cluster = await startCluster(t, { extraConfig: `store: ${servers.address('e2e')}\n` });
  const sizeBytes = 16 * 1024 * 1024;

  await t.test('the primary dies: another node serves every write', async (t) => {
    await cluster.must('volume', 'create', 'db', '--size', String(sizeBytes), '--replicas', '3');
    const { verified, primary } = await killPrimary(cluster, 'db', sizeBytes, 0, 1);
    t.match(verified, { wrong: 0, torn: 0, problems: [] });
    t.ok(verified.acknowledged >= 1_000, `${verified.acknowledged} writes`);
    t.equal(primary, 1);
    cluster.agent(0).start();
    await cluster.agent(0).waitReady();
    await cluster.waitHealth('db', 'healthy');
  });

  await t.test('etcd dies and comes back', async (t) => {
    await servers.kill(0);
    const status = await cluster.storctl('cluster', 'status', '-o', 'json');
    t.match(JSON.parse(status.stdout), { quorum: false, volumes: { total: 1 } });
    t.equal((await cluster.storctl('volume', 'ls')).code, 9, 'no verb tells what may be old');
    servers.launch(0);
    await waitFor('etcd answers', async () => (await cluster.storctl('volume', 'ls')).code === 0);
    for (const agent of cluster.agents) await agent.waitReady();
    await cluster.must('volume', 'create', 'later', '--size', '4MiB', '--replicas', '2');
  });
});
