// Replicas come, go, move and are replaced while a client writes; in the end all hold what it wrote.
import { join } from 'node:path';
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { verifyThroughClient } from '../../benchmarks/src/verify/verify-volume.ts';
import { VerifyingWriter } from '../../benchmarks/src/verify/verifying-writer.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';

const sizeBytes = 32 * 1024 * 1024;

t.test('the replicas of a volume change under load', async (t) => {
  const cluster = await startCluster(t, { nodes: 4 });
  const policy = ['--replacement-wait', '4s'];
  await cluster.must('volume', 'create', 'db', '--size', String(sizeBytes), ...policy);
  const clients = await Promise.all(
    [0, 1].map(() => NbdClient.connect({ uri: cluster.tcpUri(0, 'db') })),
  );
  const stop = new AbortController();
  const logPath = join(cluster.dir, 'db.log');
  const writer = new VerifyingWriter({
    clients,
    logPath,
    offset: 0,
    length: sizeBytes,
    seed: 11,
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
  const nodes = async (): Promise<string[]> =>
    (await cluster.inspect('db')).status.replicas.map((replica) => replica.node).sort();
  const healthy = (count: number) =>
    waitFor(
      `${count} replicas in sync`,
      async () => {
        const { status } = await cluster.inspect('db');
        const isDone = status.health === 'healthy' && status.replicas.length === count;
        if (isDone && status.replicas.every(({ state }) => state === 'in-sync')) return true;
        throw new Error(`${status.message} ${JSON.stringify(status.replicas)}`);
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    );
  await goesOn();

  for (const count of [2, 4, 3]) {
    await cluster.must('volume', 'update', 'db', '--replicas', String(count), '--yes', '--no-wait');
    await healthy(count);
    await goesOn();
  }
  t.equal((await nodes()).length, 3, 'up and down');

  const all = cluster.agents.map(({ place }) => place.name);
  const spare = async (): Promise<string> => {
    const used = await nodes();
    return all.find((name) => !used.includes(name)) ?? '';
  };
  const secondary = async (): Promise<string> =>
    (await nodes()).find((name) => name !== 'n1') ?? '';
  const [from, to] = [await secondary(), await spare()];
  // the node that was given up a moment ago says no until it has deleted its old replica
  await waitFor('the move to be taken', async () => {
    const asked = await cluster.storctl('volume', 'move', 'db', from, '--to', to, '--no-wait');
    if (asked.code === 0) return true;
    if (asked.stderr.includes('still deleting an older one')) return null;
    throw new Error(asked.stderr);
  });
  await waitFor('the move', async () => ((await nodes()).includes(from) ? null : true));
  await healthy(3);
  await goesOn();
  t.ok((await nodes()).includes(to), `moved from ${from} to ${to}`);

  const [victim, heir] = [await secondary(), await spare()];
  await cluster.agent(cluster.indexOfNode(victim)).kill9();
  await waitFor('the replacement', async () => ((await nodes()).includes(heir) ? true : null));
  await waitFor('the lost one to be given up', async () =>
    (await nodes()).includes(victim) ? null : true,
  );
  await healthy(3);
  await goesOn();
  await cluster.start();
  await healthy(3);
  await goesOn();
  t.notOk((await nodes()).includes(victim), `${victim} was replaced by ${heir}`);

  stop.abort();
  t.match(await running, { ended: 'stopped', errors: [], wrongReads: [] });
  const [client] = clients;
  if (!client) throw new Error('no client');
  t.match(await verifyThroughClient(logPath, client), { wrong: 0, torn: 0, problems: [] });
  await Promise.all(clients.map((each) => each.disconnect()));
  const { replicas, servedHash } = await readAllReplicas(cluster, 'db', t.testdir());
  t.equal(replicas.length, 3);
  for (const replica of replicas) {
    t.equal(replica.contentHash, servedHash, `${replica.node} holds what was served`);
    t.same(replica.problems, [], replica.node);
  }
});
