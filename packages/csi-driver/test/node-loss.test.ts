// Nodes that are lost for both sides are taken out of service in Kubernetes; against a fake of its API.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLogger, systemClock } from '@stor/runtime';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { outOfServiceValue, planNodeLoss } from '../src/core/node-loss.ts';
import type { WatchedNode } from '../src/core/node-loss.ts';
import { KubernetesClient, NodeLossWatch } from '../src/index.ts';
import { MemoryCluster } from '../src/testing/index.ts';
import { FakeKubernetes } from './support/fake-kubernetes.ts';

const taint = `node.kubernetes.io/out-of-service=${outOfServiceValue}:NoExecute`;
const waitMs = 30_000;

interface Rig {
  cluster: MemoryCluster;
  kubernetes: FakeKubernetes;
  watch: NodeLossWatch;
  /** lets time pass, and looks */
  look(afterMs?: number): Promise<void>;
  /** for both sides */
  lose(name: string): void;
}

async function rigOf(t: Test, count = 3): Promise<Rig> {
  const cluster = new MemoryCluster();
  const kubernetes = await FakeKubernetes.start(t);
  const ids: string[] = [];
  for (let i = 1; i <= count; i++) {
    const { id } = cluster.addNode(`n${i}`).metadata;
    ids.push(id);
    kubernetes.add(`host-${i}`, id);
  }
  kubernetes.add('without-agent', 'n-ffffffffffffffff');
  kubernetes.csiNodes.set('without-driver', null);
  const tokenFile = join(t.testdir({}), 'token');
  await writeFile(tokenFile, `${kubernetes.token}\n`);
  cluster.leaderId = ids[0] ?? '';
  let nowMs = 1_000;
  const watch = new NodeLossWatch({
    ...{ api: cluster, nodeId: ids[0] ?? '', driverName: 'csi.stor.internal', waitMs },
    kubernetes: new KubernetesClient({ server: kubernetes.url, tokenFile }),
    clock: { ...systemClock, monotonicMs: () => nowMs },
    logger: silentLogger,
  });
  t.teardown(() => watch.close());
  return {
    ...{ cluster, kubernetes, watch },
    look: async (afterMs = 0) => {
      nowMs += afterMs;
      await watch.look();
    },
    lose: (name) => {
      cluster.volumes.setNode(name.replace('host-', 'n'), 'down');
      kubernetes.setReady(name, 'Unknown');
    },
  };
}

t.test('a lost node is taken out of service, and given back when it is well', async (t) => {
  const { cluster, kubernetes, look, lose } = await rigOf(t);
  const other = { key: 'dedicated', value: 'db', effect: 'NoSchedule' };
  const node = kubernetes.nodes.get('host-2');
  if (node) node.spec.taints = [other];
  await look();
  lose('host-2');
  await look();
  await look(waitMs - 1);
  t.same(kubernetes.taints('host-2'), ['dedicated=db:NoSchedule'], 'not too soon');
  await look(1);
  t.same(kubernetes.taints('host-2'), ['dedicated=db:NoSchedule', taint]);
  const { length } = kubernetes.calls.filter((call) => call.startsWith('PATCH'));
  await look(waitMs);
  t.equal(kubernetes.calls.filter((call) => call.startsWith('PATCH')).length, length, 'once');
  cluster.volumes.setNode('n2', 'up');
  await look();
  t.equal(kubernetes.taints('host-2').length, 2, 'kubelet is silent still');
  kubernetes.setReady('host-2', 'True');
  await look();
  t.same(kubernetes.taints('host-2'), ['dedicated=db:NoSchedule'], 'what is not ours stays');
  for (const name of ['host-1', 'host-3', 'without-agent']) t.same(kubernetes.taints(name), []);
});

t.test('one witness is not enough', async (t) => {
  const { cluster, kubernetes, look, lose } = await rigOf(t);
  cluster.volumes.setNode('n2', 'down');
  kubernetes.setReady('host-3', 'Unknown');
  for (let i = 0; i < 5; i++) await look(waitMs);
  for (const name of ['host-2', 'host-3']) t.same(kubernetes.taints(name), [], name);
  // it was well in between
  lose('host-3');
  await look();
  await look(waitMs - 1);
  cluster.volumes.setNode('n3', 'up');
  await look(1);
  cluster.volumes.setNode('n3', 'down');
  await look(waitMs - 1);
  await look(waitMs - 1);
  t.same(kubernetes.taints('host-3'), [], 'the time begins anew');
});

t.test('what may not be fenced, and what is too much at once', async (t) => {
  const { kubernetes, look, lose } = await rigOf(t, 6);
  kubernetes.attachments.push(
    { attacher: 'csi.stor.internal', nodeName: 'host-2' },
    { attacher: 'other.example', nodeName: 'host-3' },
  );
  lose('host-3');
  for (let i = 0; i < 3; i++) await look(waitMs);
  t.same(kubernetes.taints('host-3'), [], 'it has a volume of another driver');
  kubernetes.attachments.pop();
  lose('host-2');
  lose('host-4');
  for (let i = 0; i < 3; i++) await look(waitMs);
  const all = ['host-2', 'host-3', 'host-4'];
  t.same(
    all.flatMap((name) => kubernetes.taints(name)),
    [],
    'half of all nodes',
  );
  kubernetes.setReady('host-4', 'True');
  for (let i = 0; i < 2; i++) await look(waitMs);
  t.same(
    all.flatMap((name) => kubernetes.taints(name)),
    [taint, taint],
  );
  const node = kubernetes.nodes.get('host-5');
  if (node) {
    const value = 'nodeshutdown';
    node.spec.taints = [{ key: 'node.kubernetes.io/out-of-service', value, effect: 'NoExecute' }];
  }
  await look(waitMs);
  t.equal(kubernetes.taints('host-5').length, 1, 'an operator’s taint is the operator’s');
});

t.test('a pod with storage that nobody fences keeps its node', async (t) => {
  const { kubernetes, look, lose } = await rigOf(t);
  const podOf = (name: string, more: object, kind = 'StatefulSet'): object => ({
    metadata: { namespace: 'apps', name, ownerReferences: [{ kind }] },
    spec: { volumes: [{ name: 'v', ...more }] },
    status: { phase: 'Running' },
  });
  const claimed = (name: string, more: object): object => ({
    spec: { capacity: {}, accessModes: [], claimRef: { namespace: 'apps', name }, ...more },
  });
  const claim = (claimName: string): object => ({ persistentVolumeClaim: { claimName } });
  kubernetes.volumes.push(
    claimed('ours', { csi: { driver: 'csi.stor.internal' } }),
    claimed('bound-v', { csi: { driver: 'csi.stor.internal' } }),
    claimed('disk', { local: { path: '/disk' } }),
    claimed('share', { nfs: { server: 'nfs', path: '/' } }),
    claimed('cloud', { csi: { driver: 'files.example' } }),
    { spec: { csi: { driver: 'files.example' } } },
  );
  const harmless = [
    podOf('db', claim('ours')),
    podOf('bound', { ephemeral: { volumeClaimTemplate: {} } }),
    podOf('local', claim('disk')),
    podOf('settings', { configMap: { name: 'c' } }),
    podOf('scratch', { emptyDir: {} }),
    podOf('agent', { nfs: { server: 'nfs' } }, 'DaemonSet'),
    { ...podOf('job', claim('share')), status: { phase: 'Succeeded' } },
    { metadata: { namespace: 'apps', name: 'bare' }, spec: {} },
  ];
  lose('host-2');
  await look();
  const foreign = [
    claim('share'),
    claim('cloud'),
    claim('unknown'),
    { nfs: { server: 'nfs' } },
    { csi: { driver: 'files.example' } },
    { ephemeral: {} },
    { somethingNew: {} },
  ];
  for (const each of foreign) {
    kubernetes.pods.set('host-2', [...harmless, podOf('web', each)]);
    await look(waitMs);
    t.same(kubernetes.taints('host-2'), [], JSON.stringify(each));
  }
  kubernetes.pods.set('host-2', harmless);
  await look();
  t.same(kubernetes.taints('host-2'), [taint]);
});

t.test('only the leader does anything, and only with a quorum', async (t) => {
  const { cluster, kubernetes, look, lose } = await rigOf(t);
  const { leaderId } = cluster;
  lose('host-2');
  cluster.leaderId = 'n-0000000000000002';
  for (let i = 0; i < 3; i++) await look(waitMs);
  t.same(kubernetes.calls, [], 'it does not even look');
  cluster.leaderId = leaderId;
  await look(waitMs);
  t.same(kubernetes.taints('host-2'), [], 'what another one has seen does not count');
  cluster.hasQuorum = false;
  await look(waitMs);
  t.same(kubernetes.taints('host-2'), []);
  cluster.hasQuorum = true;
  await look(waitMs);
  await look(waitMs);
  t.same(kubernetes.taints('host-2'), [taint]);
});

t.test('a Kubernetes that does not answer as it should', async (t) => {
  const { kubernetes, look, lose, watch } = await rigOf(t);
  lose('host-2');
  await look();
  for (const failure of ['error', 'nonsense'] as const) {
    kubernetes.failNext = failure;
    await t.rejects(look(), { message: /Kubernetes/ }, failure);
  }
  await look(waitMs);
  t.same(kubernetes.taints('host-2'), [], 'what was not seen without a break does not count');
  // the node changes between the look and the change, so it is looked at again
  kubernetes.patchConflicts = 1;
  await look(waitMs);
  t.same(kubernetes.taints('host-2'), []);
  await look();
  t.same(kubernetes.taints('host-2'), [taint]);
  const hanging = kubernetes.hangNext();
  const hung = t.rejects(watch.look(), /Kubernetes does not answer/);
  await hanging;
  await watch.close();
  await hung;
  await watch.close();
});

t.test('whatever is seen', async () => {
  const node = fc.record({
    name: fc.string({ minLength: 1 }),
    isUp: fc.boolean(),
    isReady: fc.boolean(),
    outOfService: fc.constantFrom(null, outOfServiceValue, 'nodeshutdown'),
    otherDrivers: fc.constantFrom<readonly string[]>([], ['other.example']),
  });
  const some = fc.uniqueArray(node, { selector: ({ name }) => name, maxLength: 12 });
  fc.assert(
    fc.property(some, fc.array(fc.nat(60_000)), (nodes: WatchedNode[], ages) => {
      const downForMs = new Map(nodes.map(({ name }, index) => [name, ages[index] ?? 0]));
      const { lost, back } = planNodeLoss(nodes, downForMs, { waitMs });
      const most = Math.max(1, Math.floor(nodes.length / 3));
      const find = (name: string): WatchedNode | undefined =>
        nodes.find((each) => each.name === name);
      return (
        lost.length <= most &&
        lost.every((name) => {
          const found = find(name);
          const isSilent = found?.isUp === false && !found.isReady;
          const isAlone = found?.outOfService === null && found.otherDrivers.length === 0;
          return isSilent && isAlone && (downForMs.get(name) ?? 0) >= waitMs;
        }) &&
        back.every((name) => {
          const found = find(name);
          return found?.isUp && found.isReady && found.outOfService === outOfServiceValue;
        })
      );
    }),
  );
});
