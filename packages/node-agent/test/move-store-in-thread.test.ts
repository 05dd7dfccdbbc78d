// Whole agents move from an etcd to an embedded store of their own, and somebody dies at every step.
import {
  EmbeddedClusterStore,
  freezeKey,
  originKey,
  type ClusterStore,
  type FreezeRecord,
} from '@stor/control-plane';
import { loadServices, StorError, type ApiClient } from '@stor/protocol';
import type { NbdClient } from 'nbd-client-js';
import t from 'tap';
import type { Test } from 'tap';
import { ThreadCluster, type ThreadNode } from './thread-cluster.ts';

const etcd = 'etcd://e:1/first';
const steps = ['freeze', 'enlist', 'claim', 'copy', 'seal', 'complete', 'close'];
const volume = { name: 'db', sizeBytes: 64 * 1024 * 1024, replicas: 3, labels: {} };
const block = (value: number): Buffer => Buffer.alloc(4096, value);
const request = { to: 'embedded', ca: '', cert: '', key: '', abort: false };
const stepMessage = 'the cluster store is being moved';

async function started(seed: number): Promise<{ cluster: ThreadCluster; api: ApiClient }> {
  const cluster = new ThreadCluster(seed, await loadServices(), { store: etcd });
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => {
    const { disks } = await cluster.during(api.listDisks({}));
    return disks.length === 3;
  });
  await cluster.during(api.createVolume(volume));
  return { cluster, api };
}

const isEmbedded = (store: ClusterStore | null): boolean => store instanceof EmbeddedClusterStore;

/** Asks one node after the other until the move is done, as an operator would. */
async function moveOrRepeat(cluster: ThreadCluster, revive: () => Promise<void>): Promise<void> {
  for (let tries = 0; tries < 40; tries++) {
    await revive();
    const node = cluster.node(tries % 3);
    const api = cluster.api([node]);
    const moved = await cluster.during(
      api.moveStore(request, { timeoutMs: 20_000 }).then(
        () => true,
        (error: unknown) => {
          const { code, message } = StorError.from(error);
          // nobody may have been told that it was done
          if (message.includes('is the embedded one already')) return true;
          if (code === 'FAILED_PRECONDITION') throw error;
          return false;
        },
      ),
    );
    await cluster.during(api.close());
    if (moved) return;
  }
  throw new Error('the move does not end');
}

/** Everybody is in the new store, with all that was acknowledged, and the old one is left. */
async function checkMoved(t: Test, cluster: ThreadCluster, api: ApiClient): Promise<void> {
  await cluster.until(() => cluster.nodes.every(({ agent }) => isEmbedded(agent?.store ?? null)));
  await cluster.until(async () => {
    const status = await cluster.during(api.getClusterStatus({}).catch(() => null));
    return status?.quorum === true;
  });
  const { members } = await cluster.during(api.listMembers({}));
  t.equal(members.filter(({ role }) => role !== 'learner').length, 3, 'three voters');
  const old = cluster.etcds.get(etcd)?.machine.state;
  const freeze = JSON.parse(new TextDecoder().decode(old?.get(freezeKey)?.value)) as FreezeRecord;
  t.not(freeze.phase, 'copying');
  const frozenAt = old?.get(freezeKey)?.createRevision ?? 0;
  const late = (old?.list('') ?? []).filter(
    ({ key, modRevision, leaseId }) =>
      modRevision > frozenAt && leaseId === '' && key !== freezeKey && key !== originKey,
  );
  t.same(late, [], 'nobody wrote into the old store');
}

/** As any client: the agent may have no lease yet, and refuses. */
async function reconnected(cluster: ThreadCluster): Promise<NbdClient> {
  let client: NbdClient | null = null;
  await cluster.until(async () => {
    client = await cluster.connect(cluster.node(1), 'db').catch(() => null);
    return client !== null;
  });
  return client as unknown as NbdClient;
}

async function epochOf(cluster: ThreadCluster, api: ApiClient): Promise<number> {
  return (await cluster.during(api.getVolume({ name: 'db' }))).status.epoch;
}

/** Kills somebody before each step of the move, once. */
async function killedAtEachStep(
  t: Test,
  seed: number,
  victims: (cluster: ThreadCluster, mover: ThreadNode) => ThreadNode[],
): Promise<void> {
  const { cluster, api } = await started(seed);
  const client = await cluster.connect(cluster.node(0), 'db');
  await cluster.during(client.write(0, block(7), { fua: true }));
  const epoch = await epochOf(cluster, api);
  const left = new Set(steps);
  let dead: ThreadNode[] = [];
  cluster.onLog = (node, message, fields) => {
    const { step } = fields as { step?: string };
    if (message !== stepMessage || step === undefined || !left.delete(step)) return;
    dead = victims(cluster, node);
    for (const victim of dead) cluster.kill(victim);
  };
  await moveOrRepeat(cluster, async () => {
    await Promise.all(dead.splice(0).map((node) => cluster.start(node)));
  });
  await Promise.all(dead.splice(0).map((node) => cluster.start(node)));
  await checkMoved(t, cluster, api);
  t.same([...left], [], 'somebody died at every step');
  const second = await reconnected(cluster);
  t.same(await cluster.during(second.read(0, 4096)), block(7));
  t.ok((await epochOf(cluster, api)) > epoch, 'no epoch is granted twice');
  await cluster.during(second.disconnect());
  // what it is now outlives a restart of everybody
  for (const node of cluster.nodes) cluster.kill(node);
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  await cluster.until(async () => {
    const status = await cluster.during(api.getClusterStatus({}).catch(() => null));
    return status?.quorum === true;
  });
  t.ok(cluster.nodes.every(({ agent }) => isEmbedded(agent?.store ?? null)));
  await cluster.during(api.close());
  await cluster.close();
}

t.test('the agent that moves the store dies before each step', (t) =>
  killedAtEachStep(t, 1, (_cluster, mover) => [mover]),
);

t.test('two others die before each step', (t) =>
  killedAtEachStep(t, 2, (cluster, mover) => cluster.nodes.filter((node) => node !== mover)),
);

t.test('it is given up, and done later', async (t) => {
  const { cluster, api } = await started(3);
  cluster.onLog = (node, message, fields) => {
    if (message === stepMessage && (fields as { step?: string }).step === 'seal') {
      cluster.kill(node);
    }
  };
  const moving = cluster.api([cluster.node(0)]);
  await cluster.during(moving.moveStore(request, { timeoutMs: 20_000 }).catch(() => null));
  await cluster.during(moving.close());
  cluster.onLog = () => {};
  await t.rejects(cluster.during(api.createVolume({ ...volume, name: 'frozen' })), {
    code: 'UNAVAILABLE',
    message: /is being moved to embedded/,
  });
  await cluster.during(api.moveStore({ ...request, to: '', abort: true }));
  await cluster.during(api.createVolume({ ...volume, name: 'later', replicas: 2 }));
  await cluster.start(cluster.node(0));
  await cluster.until(() => {
    const dropped = cluster.log.filter((line) => line.includes('embedded store was given up'));
    return new Set(dropped.map((line) => line.split(' ')[1])).size === 3;
  });
  await moveOrRepeat(cluster, async () => {});
  await checkMoved(t, cluster, api);
  const { volumes } = await cluster.during(api.listVolumes({}));
  t.same(volumes.map(({ metadata }) => metadata.name).sort(), ['db', 'later']);
  await cluster.during(api.close());
  await cluster.close();
});

t.test('a node that was down the whole time follows, from the etcd that was left', async (t) => {
  const { cluster, api } = await started(4);
  cluster.kill(cluster.node(2));
  await moveOrRepeat(cluster, async () => {});
  await cluster.start(cluster.node(2));
  await cluster.until(() => isEmbedded(cluster.node(2).agent?.store ?? null));
  await checkMovedWithout(t, cluster, api);
  await cluster.during(api.close());
  await cluster.close();
});

/** The late node votes too, once the leader has found it up. */
async function checkMovedWithout(t: Test, cluster: ThreadCluster, api: ApiClient): Promise<void> {
  await cluster.until(async () => {
    const listed = await cluster.during(api.listMembers({}).catch(() => null));
    return listed?.members.filter(({ role }) => role !== 'learner').length === 3;
  });
  await checkMoved(t, cluster, api);
}

t.test('a node joins a cluster whose state is in etcd, and moves with it', async (t) => {
  const { cluster, api } = await started(5);
  const { token } = await cluster.during(api.createToken({ ttlMs: 0, uses: 2 }));
  const other = cluster.join(4, { store: 'etcd://e:1/other' }, { token });
  await t.rejects(other, {
    code: 'FAILED_PRECONDITION',
    message: /is in the store etcd:\/\/e:1\/first, not in etcd:\/\/e:1\/other/,
  });
  const fourth = await cluster.join(4, {}, { token });
  t.match(fourth.config, { store: etcd, clusterId: cluster.node(0).config.clusterId });
  await cluster.start(fourth);
  const isUp = async (): Promise<boolean> => {
    const { nodes } = await cluster.during(api.listNodes({}));
    return nodes.some(({ metadata, status }) => metadata.name === 'n4' && status.state === 'up');
  };
  await cluster.until(isUp);
  cluster.kill(fourth);
  const again = await cluster.join(4, {}, { token: 'not needed' });
  t.equal(again.config.nodeId, fourth.config.nodeId, 'a restart needs no token');
  t.equal(again.config.store, etcd);
  await cluster.start(fourth);
  await cluster.until(isUp);
  await moveOrRepeat(cluster, async () => {});
  await checkMoved(t, cluster, api);
  const { members } = await cluster.during(api.listMembers({}));
  t.equal(members.length, 4, 'all are members');

  await cluster.during(api.close());
  await cluster.close();
});

t.test(
  'what is changed after a move reaches those who serve, though revisions are lower',
  async (t) => {
    const { cluster, api } = await started(6);
    const client = await cluster.connect(cluster.node(1), 'db');
    await cluster.during(client.write(0, block(7), { fua: true }));
    const old = cluster.node(0).agent?.store;
    for (let i = 0; i < 500; i++) {
      const operations = [
        { type: 'put' as const, key: '/stor-policy-uses', value: Buffer.from('') },
      ];
      await cluster.during(
        old?.transact({ compare: [], operations }) ?? Promise.reject(new Error()),
      );
    }
    await cluster.during(api.updateVolume({ name: 'db', qos: { writeIops: 5_000 } }));
    const before = (await cluster.during(api.getVolume({ name: 'db' }))).metadata.resourceVersion;
    // an embedded store would begin above: this is an etcd of others, where little has happened
    const second = 'etcd://e:1/second';
    await cluster.during(api.moveStore({ ...request, to: second }, { timeoutMs: 60_000 }));
    await cluster.until(() => cluster.nodes.every(({ agent }) => agent?.store?.address === second));
    const again = await reconnected(cluster);
    t.same(await cluster.during(again.read(0, 4096)), block(7));
    const limitsOf = async (): Promise<unknown[]> => {
      const counters = cluster
        .node(1)
        .lanes.map(({ methods }) => cluster.during(methods.counters().catch(() => null)));
      const said = await Promise.all(counters);
      return said.flatMap((each) => each?.qos ?? []).map(({ qos }) => qos.writeIops);
    };
    await cluster.until(async () => (await limitsOf()).includes(5_000));
    const changed = await cluster.during(
      api.updateVolume({ name: 'db', qos: { writeIops: 7_000 } }),
    );
    t.ok(
      changed.metadata.resourceVersion < before,
      `revisions begin anew: ${changed.metadata.resourceVersion} after ${before}`,
    );
    await cluster.until(async () => (await limitsOf()).includes(7_000));
    await cluster.during(again.disconnect());
    await cluster.during(api.close());
    await cluster.close();
  },
);
