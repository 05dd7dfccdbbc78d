import { StorError } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { planUpgrade } from '../src/core/node/plan-upgrade.ts';
import { findLosses, simulateLoss } from '../src/core/node/simulate-loss.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { ReplicaWorld } from './replica-world.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

/** Set STOR_RUNS to try more. */
const numRuns = Number(process.env['STOR_RUNS'] ?? 100);

const without = (state: ClusterState, ...down: string[]) =>
  simulateLoss(state, findLosses(state, down), {
    measuredBytesPerSecond: 0,
    voters: [...state.nodes.keys()].slice(0, 3),
  });

function said(run: () => unknown): string {
  try {
    return JSON.stringify(run());
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

function zones(state: ClusterState, labels: Record<string, string>): void {
  for (const [id, zone] of Object.entries(labels)) {
    const node = state.nodes.get(id);
    if (node) node.value.labels = { zone };
  }
}

t.test('what becomes of volumes without a node, a zone, a disk', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  zones(state, { a: 'x', b: 'x', c: 'y', d: 'y' });
  put(state, volumeOn(['a', 'b', 'c'], { name: 'three', policy: { failureMode: 'soft' } }));
  put(state, volumeOn(['a'], { name: 'one' }));
  put(state, volumeOn(['c', 'd'], { name: 'far' }));
  put(state, volumeOn(['a', 'c'], { name: 'behind', inSync: ['a'] }));
  const disk = state.disks.get('d-b');
  if (disk) disk.value.replicaBytes = { 'r-three-b': 6 * gib };
  const node = without(state, 'node=a');
  t.match(node, {
    nodes: ['a'],
    counts: { readWrite: 1, degraded: 1, suspended: 0, unavailable: 0, lost: 2 },
    recovery: { replicas: 1, bytes: 6 * gib, etaMs: 96_000 },
    raft: { voters: 3, left: 2, needed: 2, hasQuorum: true },
  });
  t.same(
    node.volumes.map(({ volume, becomes, text }) => `${volume} ${becomes}: ${text}`),
    [
      'behind lost: no in-sync copy is left; c has an older one, which is not used by itself',
      'one lost: no in-sync copy is left',
      'three degraded: 2 of 3 replicas in sync, and it is served',
    ],
  );
  t.same(node.recovery.blocked.map(({ volume, reason }) => `${volume}: ${reason}`).sort(), [
    'behind: no node that is up has an in-sync replica to fill another from',
    'one: no node that is up has an in-sync replica to fill another from',
  ]);
  const zone = without(state, 'zone=x');
  t.match(zone.counts, { suspended: 1, lost: 2 });
  t.match(zone.raft, { left: 1, needed: 2, hasQuorum: false });
  t.match(zone.volumes[2], {
    volume: 'three',
    becomes: 'suspended',
    text: /I\/O is held.*needs 2/,
  });
  t.match(without(state, 'disk=b:/disk/b'), {
    nodes: [],
    disks: ['b:/disk/b'],
    counts: { degraded: 2 },
  });
  state.leases.delete('a');
  t.match(without(state, 'node=b').counts, { unavailable: 2, lost: 0 }, 'those of a may come back');
  t.match(
    said(() => without(state, 'node=z')),
    /^NOT_FOUND: there is no node "z": the nodes are a, b, c, d/,
  );
  t.match(
    said(() => without(state, 'zone=q')),
    /^NOT_FOUND: .*zone=q: values of that label are x, y/,
  );
  t.match(
    said(() => without(state, 'rack=1')),
    /^NOT_FOUND: .*no node has that label/,
  );
  t.match(
    said(() => without(state, 'zone')),
    /^INVALID_ARGUMENT: "zone" names nothing/,
  );
  t.match(
    said(() => without(state)),
    /^INVALID_ARGUMENT: nothing is named/,
  );
});

t.test('what is rebuilt is what the controllers rebuild', async (t) => {
  let rebuilt = 0;
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 6 }),
      fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }),
      fc.nat({ max: 5 }),
      (nodes, counts, index) => {
        const volumes = counts.map((count, i) => {
          return { name: `v${i}`, replicas: Math.min(count, nodes) };
        });
        const world = new ReplicaWorld(nodes, volumes);
        const lost = world.nodes[index % nodes] ?? '';
        const { recovery, counts: fates } = without(world.state, `node=${lost}`);
        world.run({ type: 'down', node: index });
        world.run({ type: 'control', isLate: false });
        for (let round = 0; round < 40; round++) {
          world.run({ type: 'time', ms: 10_000 });
          world.run({ type: 'control', isLate: false });
          for (let i = 0; i < nodes; i++) world.run({ type: 'reconcile', node: i });
          for (let i = 0; i < counts.length; i++) world.run({ type: 'primary', volume: i });
        }
        const replaced = [...world.state.volumes.values()].flatMap(({ value }) =>
          value.status.segments.flatMap(({ replicas }) =>
            replicas.filter(({ purpose }) => purpose === 'replacement'),
          ),
        ).length;
        if (replaced !== recovery.replicas) {
          throw new Error(`said ${recovery.replicas}, replaced ${replaced}`);
        }
        const sum = Object.values(fates).reduce((total, count) => total + count, 0);
        if (sum !== counts.length) throw new Error('each volume has one fate');
        rebuilt += replaced;
      },
    ),
    { numRuns },
  );
  t.ok(rebuilt > 0, `${rebuilt} replicas`);
});

t.test('an upgrade restarts the leader last, and no node with the only copy', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  put(state, volumeOn(['a', 'b']));
  const sight = { leaderId: 'a', voters: ['a', 'b', 'c'] };
  const plan = planUpgrade(state, sight);
  t.same(
    plan.steps.map(({ node, raftRole }) => `${node} ${raftRole}`),
    ['d none', 'b voter', 'c voter', 'a leader'],
  );
  t.same([plan.safe, plan.reasons], [true, []]);
  put(state, volumeOn(['a', 'b'], { inSync: ['b'], holder: { nodeId: 'b' } }));
  const unsafe = planUpgrade(state, sight);
  t.same(unsafe.reasons, ['node b: it holds the only in-sync copy of volume db']);
  t.equal(unsafe.steps.find(({ node }) => node === 'b')?.attachments, 1);
  state.leases.delete('c');
  t.same(planUpgrade(state, sight).reasons.slice(0, 2), [
    'c is down: start that first',
    'node b: it holds the only in-sync copy of volume db',
  ]);
  t.match(
    planUpgrade(state, sight).reasons[2],
    /node a: the control plane would have no quorum: 1 of 3/,
  );
  const d = state.nodes.get('d');
  if (d) d.value.version = '0';
  t.same(planUpgrade(state, sight).versions, [
    { version: '0', nodes: ['d'] },
    { version: '1', nodes: ['a', 'b', 'c'] },
  ]);
});
