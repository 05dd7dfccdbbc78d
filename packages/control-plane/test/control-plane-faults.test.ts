import { hasCode, openApiClient, StorError } from '@stor/protocol';
import { silentLogger, systemRandom } from '@stor/runtime';
import t from 'tap';
import { ControlPlane } from '../src/control-plane.ts';
import type { RpcServer } from '../src/rpc/rpc-transport.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { clusterId, Rig } from './control-plane-rig.ts';
import type { RigNode } from './control-plane-rig.ts';
import { EmbeddedCluster, until, clusterId as embeddedId } from './embedded-cluster.ts';

const gib = 2 ** 30;
const request = { name: 'db', sizeBytes: gib, replicas: 3, labels: {} };
const waitMs = 8_000;

/** The next transaction of this node commits, and its answer is lost. */
function loseAnswer(rig: Rig, node: RigNode): void {
  const store = rig.cluster.store(node.id);
  const transact = store.transact.bind(store);
  store.transact = async (...args) => {
    store.transact = transact;
    await transact(...args);
    throw new StorError('OUTCOME_UNKNOWN', 'the answer was lost');
  };
}

async function rejection(promise: Promise<unknown>): Promise<StorError> {
  try {
    await promise;
  } catch (error) {
    return StorError.from(error);
  }
  throw new Error('no error');
}

t.test('lost answers', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const [n1, n2] = [rig.node(0), rig.node(1)];

  loseAnswer(rig, n1);
  const volume = await rig.during(client.createVolume(request));
  t.equal(volume.status.health, 'healthy', 'a creation finds its own volume');
  t.equal((await client.listVolumes({})).volumes.length, 1);

  loseAnswer(rig, n2);
  const grant = await n2.control.acquire('db', 'auto', { waitMs });
  t.equal(grant.epoch, 1, 'a grant that was made is found');
  await n2.agent.attach(grant);

  const { volumeId, epoch, segments } = grant;
  const inSync = segments[0]?.inSync.slice(0, 2) ?? [];
  const proposal = { volumeId, segment: 0, epoch, setRevision: 1, inSync };
  loseAnswer(rig, n2);
  t.match(await rejection(n2.control.proposeSet(proposal)), { code: 'OUTCOME_UNKNOWN' });
  t.same(await n2.control.proposeSet(proposal), { outcome: 'committed', setRevision: 2 });

  const abort = new AbortController();
  await n2.agent.detach(volumeId, epoch, false);
  const acquiring = rejection(n1.control.acquire('db', 'auto', { waitMs, signal: abort.signal }));
  abort.abort();
  t.match(await acquiring, { code: 'ABORTED' });
  await rig.until(async () => (await client.getVolume({ name: 'db' })).status.primary === null);
  const next = await n1.control.acquire('db', 'auto', { waitMs });
  t.ok(next.previousReleased, 'what was given up unused was as clean as before');
});

t.test('a creation outlives its leader and its node', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  let openGate = (): void => {};
  rig.node(2).agent.createGate = new Promise((resolve) => {
    openGate = resolve;
  });
  const creating = client.createVolume(request);
  await rig.until(() => rig.node(0).agent.replicaList.size === 1);
  t.match(await rejection(rig.node(1).control.acquire('db', 'auto', { waitMs })), {
    code: 'UNAVAILABLE',
    message: /still being created/,
  });
  rig.cluster.setLeader(rig.node(1).id);
  // the node that answers the client stops: the client asks another one for the same volume
  await rig.during(rig.node(0).control.close());
  rig.node(0).server.forceShutdown();
  rig.cluster.setLeader(rig.node(2).id);
  openGate();
  const outcome = await rig.during(
    creating.then(
      (volume) => volume.status.health,
      (error: unknown) => StorError.from(error).code,
    ),
  );
  // its replica on the stopped node may have been reported before the stop or not
  const volumes = (await client.listVolumes({})).volumes.map((v) => v.metadata.name);
  if (outcome === 'degraded') t.same(volumes, ['db']);
  else t.same([outcome, volumes], ['UNAVAILABLE', []]);
  t.match(await client.listNodes({}), { nodes: [{ status: { state: 'down' } }, {}, {}] });
});

t.test('a watch that fell behind reads everything again', async (t) => {
  const rig = await Rig.open(1, { limits: { maxHistoryChanges: 20 } });
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume({ ...request, replicas: 1 }));
  const key = '/stor/volume-names/ghost';
  for (let i = 0; i < 100; i++) {
    const put = { type: 'put' as const, key, value: new TextEncoder().encode(String(i)) };
    const operation = i < 99 ? put : { type: 'delete' as const, key };
    const transaction = { compare: [], operations: [operation] };
    rig.cluster.execute({ type: 'transact', transaction });
  }
  const second = await rig.during(client.createVolume({ ...request, name: 'second', replicas: 1 }));
  t.equal(second.status.health, 'healthy');
  t.same(await rig.node(0).control.volumeNames(10), ['db', 'second']);
});

t.test('a holder that is stopped, not dead, is waited for until its lease ends', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume(request));
  const [n1, n2] = [rig.node(0), rig.node(1)];
  const grant = await n2.control.acquire('db', 'auto', { waitMs });
  await n2.agent.attach(grant);

  // it takes the question and never answers; nor does it renew its lease
  let goOn = (): void => {};
  const stopped = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const detach = n2.agent.detach.bind(n2.agent);
  n2.agent.detach = async (...args) => {
    await stopped;
    return detach(...args);
  };
  const store = rig.cluster.store(n2.id);
  const renew = store.renewLease.bind(store);
  store.renewLease = () => Promise.reject(new StorError('UNAVAILABLE', 'stopped'));

  t.match(await rejection(rig.during(n1.control.acquire('db', 'auto', { waitMs: 1_000 }))), {
    code: 'UNAVAILABLE',
    message: /attached on node n2, which does not answer and whose lease still runs/,
    details: { holder: 'n2' },
  });
  const { leaseUntilMs } = n2.agent;
  const next = await rig.during(n1.control.acquire('db', 'auto', { waitMs }));
  t.match(next, { epoch: 2, previousReleased: false });
  t.ok(rig.clock.monotonicMs() >= leaseUntilMs);
  goOn();
  store.renewLease = renew;
  await rig.until(() => n2.control.readiness().ready);
  const { segments, volumeId } = grant;
  const inSync = segments[0]?.inSync.slice(0, 1) ?? [];
  t.match(
    await n2.control.proposeSet({ volumeId, segment: 0, epoch: 1, setRevision: 1, inSync }),
    { outcome: 'superseded' },
    'when it goes on it can change nothing',
  );
});

t.test('strangers are refused', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const other = await rig.start(1, FakeAgent.withDisk('d-1'), 'b', 'c-ffffffffffffffff');
  rig.nodes.push(other);
  await rig.until(() => /belongs to cluster/.test(other.control.readiness().reason));
  t.match(other.control.readiness().reason, /cluster c-00000000000000c1, this node to c-f/);
  await rig.during(rig.client([rig.node(0).api]).createVolume({ ...request, replicas: 1 }));
  const stranger = await rejection(other.control.acquire('db', 'auto', { waitMs }));
  t.match(stranger, { code: 'UNAVAILABLE' }, 'no lease, no attachment');

  const channel = rig.transport('stranger').channel(rig.node(0).api, 'agent');
  t.teardown(() => channel.close());
  const ask = async (metadata: Record<string, string>) =>
    channel.call({
      method: 'LiveVolumes',
      request: {},
      timeoutMs: 5_000,
      connectTimeoutMs: 5_000,
      metadata,
    });
  t.match(await ask({}), { type: 'refused', error: { code: 'FOREIGN_DATA' } });
  const mine = { 'stor-cluster-id': clusterId };
  t.match(await ask({ ...mine, 'stor-node-id': 'n-other' }), { error: { code: 'UNAVAILABLE' } });
  const meant = { ...mine, 'stor-node-id': rig.node(0).id };
  t.match(await ask(meant), { type: 'answered', response: { volumes: [] } });
});

t.test('a node that stops is down at once, one that restarts is up at once', async (t) => {
  const rig = await Rig.open(2);
  t.teardown(() => rig.close());
  const [n1, n2] = [rig.node(0), rig.node(1)];
  await n2.control.close();
  await n2.control.close();
  n2.server.forceShutdown();
  t.ok(n2.agent.leaseUntilMs <= rig.clock.monotonicMs(), 'and its data path knows');
  const leases = await rig.cluster.store(n1.id).list('/stor/node-leases/');
  t.same(
    leases.items.map((item) => item.key),
    [`/stor/node-leases/${n1.id}`],
  );
  t.match(n2.control.readiness(), { ready: false, reason: 'the node is stopping' });

  await rig.kill(n1);
  const before = rig.clock.monotonicMs();
  rig.nodes[0] = await rig.start(0, n1.agent);
  for (let i = 0; i < 50 && !rig.node(0).control.readiness().ready; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.ok(rig.node(0).control.readiness().ready, 'the lease of its dead process does not hold it up');
  t.equal(rig.clock.monotonicMs(), before, 'no time has passed');
  t.same(
    rig
      .node(0)
      .agent.peers.map((peer) => peer.nodeId)
      .sort(),
    [n1.id, n2.id],
  );
});

t.test('on the embedded store', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  const nodes = await Promise.all(
    cluster.members.map(async ({ id, address, server }, i) => {
      const agent = FakeAgent.withDisk(`d-${i}`);
      const control = await ControlPlane.open({
        store: cluster.store(id),
        agent,
        node: {
          id,
          name: id,
          agentInstance: `i-${id}`,
          bootId: `b-${id}`,
          version: '0.1.0',
          addresses: { api: address, http: '', peers: [`h:${i}`], nbd: [`h:${i}`], nbdUnix: [] },
        },
        clusterId: embeddedId,
        clusterName: 'test',
        clock: cluster.clock,
        random: systemRandom,
        logger: silentLogger,
        server: server as RpcServer,
      });
      agent.control = control;
      return { id, agent, control, address };
    }),
  );
  const client = openApiClient({ endpoints: nodes.map((node) => node.address) });
  t.teardown(async () => {
    await client.close();
    await Promise.all(nodes.map((node) => node.control.close()));
  });
  await until(async () => (await client.listDisks({})).disks.length === 3);
  const volume = await client.createVolume(request);
  t.equal(volume.status.health, 'healthy');
  t.match(await rejection(client.createVolume(request)), { code: 'ALREADY_EXISTS' });

  const tries = await Promise.allSettled(
    nodes.map((node) => node.control.acquire('db', 'manual', { waitMs })),
  );
  const won = tries.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  t.equal(won.length, 1, 'one of three wins');
  for (const result of tries) {
    if (result.status === 'rejected') t.ok(hasCode(result.reason, 'ATTACHED_ELSEWHERE'));
  }
  t.equal((await client.getVolume({ name: 'db' })).status.epoch, 1);

  const leader = cluster.leaderId();
  const gone = nodes.find((node) => node.id === leader);
  await gone?.control.close();
  await cluster.stop(leader);
  const status = await client.getClusterStatus({});
  t.match(status.nodes, { total: 3 });
  t.match(await client.getVolume({ name: 'db' }), { metadata: { name: 'db' } });
  await until(async () => (await client.getClusterStatus({})).nodes.up === 2);
  const two = await client.createVolume({ ...request, name: 'two', replicas: 2 });
  t.equal(two.status.health, 'healthy', 'two of three go on');
});
