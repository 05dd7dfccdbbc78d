import assert from 'node:assert/strict';
import type { NodePlan, NodeVerb } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { fateOf } from '../src/core/node/loss.ts';
import { withIntent } from '../src/core/node/node-intent.ts';
import { placedOn, planNode } from '../src/core/node/plan-node.ts';
import { describeVolume } from '../src/core/volume/describe-volume.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { ReplicaWorld } from './replica-world.ts';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

/** Set STOR_RUNS to try more. */
const numRuns = Number(process.env['STOR_RUNS'] ?? 200);

/** The plan as the API makes it: in a state in which the wish is recorded. */
function planOf(state: ClusterState, nodeId: string, verb: NodeVerb): NodePlan {
  const node = state.nodes.get(nodeId);
  if (!node) throw new Error('no node');
  const wish = verb === 'maintenance' ? { sinceMs: 0, untilMs: 1e9 } : { sinceMs: 0 };
  const value = withIntent(node.value, { ...node.value.spec, [verb]: wish });
  const nodes = new Map(state.nodes).set(nodeId, { value, modRevision: node.modRevision });
  return planNode(
    { ...state, nodes },
    nodeId,
    { verb },
    { leaderId: null, measuredBytesPerSecond: 0 },
  );
}

const inSyncOf = (state: ClusterState): Map<string, number> =>
  new Map(
    [...state.volumes.values()].map(({ value }) => [
      value.metadata.name,
      fateOf(state, value, null).inSync,
    ]),
  );

const worlds = fc.record({
  nodes: fc.integer({ min: 2, max: 6 }),
  counts: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }),
  disks: fc.integer({ min: 0, max: 1 }),
  down: fc.option(fc.nat({ max: 5 }), { nil: null, freq: 3 }),
  node: fc.nat({ max: 5 }),
});

function worldOf(facts: { nodes: number; counts: number[]; disks: number }): ReplicaWorld {
  const volumes = facts.counts.map((replicas, i) => {
    return { name: `v${i}`, replicas: Math.min(replicas, facts.nodes) };
  });
  return new ReplicaWorld(facts.nodes, volumes, facts.disks);
}

/** Controllers, nodes and primaries do what they have to until nothing changes any more. */
function carryOut(world: ReplicaWorld, look: () => void): void {
  for (let round = 0; round < 40; round++) {
    world.run({ type: 'control', isLate: false });
    look();
    for (let i = 0; i < world.nodes.length; i++) world.run({ type: 'reconcile', node: i });
    // one after the other, in an order of their own
    for (let i = 0; i < world.state.volumes.size; i++) {
      world.run({ type: 'primary', volume: round + i });
      look();
    }
    world.run({ type: 'time', ms: 1_000 });
  }
}

t.test('an evacuation moves what its plan says, and no set is smaller meanwhile', async (t) => {
  const seen = { moved: 0, blocked: 0, down: 0 };
  fc.assert(
    fc.property(worlds, (facts) => {
      const world = worldOf(facts);
      const nodeId = world.nodes[facts.node % facts.nodes] ?? '';
      if (facts.down !== null) world.run({ type: 'down', node: facts.down });
      // members that are down leave their sets first, so that what follows is the evacuation alone
      for (let i = 0; i < world.state.volumes.size; i++) world.run({ type: 'primary', volume: i });
      const plan = planOf(world.state, nodeId, 'evacuate');
      const before = inSyncOf(world.state);
      world.run({ type: 'evacuate', node: facts.node, wanted: true });
      const lowest = new Map(before);
      carryOut(world, () => {
        for (const [name, count] of inSyncOf(world.state)) {
          lowest.set(name, Math.min(count, lowest.get(name) ?? count));
        }
      });
      if (plan.effects.length > 0) throw new Error('an evacuation has no effect on service');
      for (const [name, count] of lowest) {
        if (count < (before.get(name) ?? 0)) throw new Error(`${name} fell to ${count}`);
      }
      const stays = placedOn(world.state, nodeId).map(({ replica }) => replica.id);
      const stuck = plan.blocked.map(({ replicaId }) => replicaId);
      if (stays.join() !== stuck.join()) {
        throw new Error(`planned to stay: ${stuck.join()}; stayed: ${stays.join()}`);
      }
      if (plan.safe !== (stuck.length === 0)) throw new Error('safe');
      if (facts.counts.length === 1 && plan.moves[0]) {
        // one volume alone: no budget of fills sends it elsewhere than was planned
        const nodes = [...world.state.volumes.values()].flatMap(({ value }) =>
          value.status.segments.flatMap(({ replicas }) => replicas.map((r) => r.nodeId)),
        );
        if (!nodes.includes(plan.moves[0].toNode)) throw new Error('it went elsewhere');
      }
      seen.moved += plan.moves.length;
      seen.blocked += stuck.length;
      seen.down += facts.down === null ? 0 : 1;
    }),
    { numRuns },
  );
  t.comment(seen);
  t.ok(seen.moved > 0 && seen.blocked > 0 && seen.down > 0);
});

t.test(
  'a maintenance has the effects of its plan, and nothing is replaced meanwhile',
  async (t) => {
    const seen: Record<string, number> = {};
    fc.assert(
      fc.property(worlds, (facts) => {
        const world = worldOf(facts);
        const nodeId = world.nodes[facts.node % facts.nodes] ?? '';
        if (facts.down !== null) world.run({ type: 'down', node: facts.down });
        const { effects, safe, moves } = planOf(world.state, nodeId, 'maintenance');
        if (moves.length > 0) throw new Error('nothing moves');
        const before = inSyncOf(world.state);
        world.run({ type: 'maintenance', node: facts.node, ms: 400_000 });
        world.run({ type: 'down', node: facts.node });
        const harmed: string[] = [];
        for (const volume of world.state.volumes.values()) {
          const { name } = volume.value.metadata;
          const { health } = describeVolume(volume, world.state, null, 'n0').status;
          const effect = effects.find((each) => each.volume === name);
          const { inSync } = fateOf(world.state, volume.value, null);
          if (inSync < (before.get(name) ?? 0) !== (effect !== undefined)) throw new Error(name);
          if (effect && (effect.becomes !== health || effect.inSync !== inSync)) {
            throw new Error(`${name}: planned ${effect.becomes} (${effect.inSync}), is ${health}`);
          }
          if (effect && health !== 'degraded') harmed.push(name);
          seen[health] = (seen[health] ?? 0) + 1;
        }
        if (safe !== (harmed.length === 0)) throw new Error('safe');
        const isReplacement = (): boolean =>
          [...world.state.volumes.values()].some(({ value }) =>
            value.status.segments.some(({ replicas }) =>
              replicas.some((replica) => replica.purpose === 'replacement'),
            ),
          );
        if (facts.down !== null) return;
        // the leader must have seen it go, or it would not count as lost for a minute in any case
        world.run({ type: 'control', isLate: false });
        world.run({ type: 'time', ms: 300_000 });
        carryOut(world, () => {
          if (isReplacement()) throw new Error('replaced during the maintenance');
        });
      }),
      { numRuns },
    );
    t.comment(seen);
    t.ok(seen['degraded'] && seen['suspended'] && seen['unavailable'] && seen['healthy']);
  },
);

t.test('a drain goes to who has the data, spreads, and names who does not take it', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  for (const name of ['one', 'two', 'three']) {
    put(state, volumeOn(['a', 'b', 'c'], { name, holder: { nodeId: 'a' } }));
  }
  const { value } = { value: volumeOn(['a', 'b'], { name: 'wanted', inSync: ['a'] }) };
  put(state, { ...value, spec: { ...value.spec, attachTo: 'a' } });
  put(state, volumeOn(['a', 'b'], { name: 'repairing', holder: { nodeId: 'a', mode: 'repair' } }));
  const plan = planOf(state, 'a', 'drain');
  t.same(
    plan.attachments.map(({ volume, mode, toNode }) => `${volume} ${mode} ${toNode}`),
    ['one auto b', 'three auto c', 'two auto b', 'wanted manual d'],
  );
  t.same([plan.remaining.attachments, plan.safe], [4, true]);
  for (const id of ['b', 'c']) {
    const node = state.nodes.get(id);
    if (node) node.value.spec = { cordoned: { sinceMs: 1, reason: '' } };
  }
  state.leases.delete('d');
  const stuck = planOf(state, 'a', 'drain');
  t.same([stuck.safe, stuck.attachments, stuck.blocked.length], [false, [], 4]);
  t.equal(
    stuck.reasons[0],
    'the attachment of volume one can go nowhere: no other node takes it: b is cordoned; c is cordoned; d is down (and 3 more)',
  );
});

t.test('what an evacuation copies, how long it takes, and what is in its way', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  put(state, volumeOn(['a', 'b']));
  const disk = state.disks.get('d-a');
  if (disk) disk.value.replicaBytes = { 'r-a': 6 * gib };
  const plan = planOf(state, 'a', 'evacuate');
  t.match(plan, {
    moves: [{ volume: 'db', replicaId: 'r-a', toNode: 'c', bytes: 6 * gib }],
    bytes: 6 * gib,
    rate: { source: 'assumed', bytesPerSecond: 64 * 2 ** 20 },
    etaMs: 96_000,
    safe: true,
  });
  const measured = { leaderId: null, measuredBytesPerSecond: gib };
  t.match(planNode(state, 'a', { verb: 'evacuate' }, measured).rate, { source: 'measured' });
  put(state, volumeOn(['a', 'b'], { policy: { rebuildPaused: true } }));
  t.match(planOf(state, 'a', 'evacuate').reasons, [
    /rebuilds are paused: "storctl rebuild resume db"/,
  ]);
  put(state, volumeOn(['a', 'b'], { inSync: ['a'] }));
  state.leases.delete('a');
  t.match(planOf(state, 'a', 'evacuate').reasons, [/no node that is up has an in-sync replica/]);
});

t.test(
  'a decommission that is safe ends with the node gone, one that is stuck does not',
  async (t) => {
    const seen = { gone: 0, stuck: 0, moved: 0 };
    fc.assert(
      fc.property(worlds, (facts) => {
        const world = worldOf(facts);
        const nodeId = world.nodes[facts.node % facts.nodes] ?? '';
        const isDown = facts.down !== null && world.nodes[facts.down % facts.nodes] === nodeId;
        if (facts.down !== null && !isDown) world.run({ type: 'down', node: facts.down });
        for (let i = 0; i < world.state.volumes.size; i++)
          world.run({ type: 'primary', volume: i });
        const plan = planOf(world.state, nodeId, 'decommission');
        const before = inSyncOf(world.state);
        world.run({ type: 'decommission', node: facts.node, wanted: true });
        for (let i = 0; i < 2; i++) {
          carryOut(world, () => {
            for (const [name, count] of inSyncOf(world.state)) {
              if (count < (before.get(name) ?? 0)) throw new Error(`${name} fell to ${count}`);
            }
          });
        }
        const isGone = world.state.forgotten.has(nodeId);
        // one that is down for so long is replaced meanwhile, which may clear the way
        const mayClear = facts.down !== null && isGone;
        if (isGone !== plan.safe && !mayClear)
          throw new Error(`safe: ${plan.safe}, gone: ${isGone}, ${plan.reasons.join()}`);
        if (isGone === world.state.nodes.has(nodeId)) throw new Error('both a node and none');
        seen[isGone ? 'gone' : 'stuck'] += 1;
        seen.moved += plan.moves.length;
      }),
      { numRuns },
    );
    t.comment(seen);
    t.ok(seen.gone > 0 && seen.stuck > 0 && seen.moved > 0);
  },
);

t.test('what is lost with a forgotten node is named, and only that', async (t) => {
  const seen = { lost: 0, stranded: 0, kept: 0 };
  const cases = fc.record({
    /** of each volume: the nodes of its replicas, and which of them are in sync, or failed */
    volumes: fc.array(
      fc.record({
        on: fc.uniqueArray(fc.nat({ max: 3 }), { minLength: 1, maxLength: 3 }),
        inSync: fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
        failed: fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
        inTrash: fc.boolean(),
      }),
      { maxLength: 5 },
    ),
    down: fc.option(fc.nat({ max: 3 })),
    node: fc.nat({ max: 3 }),
  });
  fc.assert(
    fc.property(cases, (facts) => {
      const names = ['a', 'b', 'c', 'd'];
      const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
      const node = names[facts.node] ?? '';
      state.leases.delete(node);
      if (facts.down !== null) state.leases.delete(names[facts.down] ?? '');
      const expected: string[] = [];
      const stranded: string[] = [];
      facts.volumes.forEach((each, i) => {
        const on = each.on.map((n) => names[n] ?? '');
        const some = on.filter((_, j) => each.inSync[j] === true);
        const inSync = some.length > 0 ? some : on.slice(0, 1);
        const record = volumeOn(on, { name: `v${i}`, inSync });
        const failed = new Set<string>();
        for (const segment of record.status.segments) {
          segment.replicas = segment.replicas.map((replica, j) => {
            // the only member can be lost too, by a disk that broke
            if (each.failed[j] !== true) return replica;
            failed.add(replica.nodeId);
            return { ...replica, state: 'failed' as const };
          });
        }
        // a failed member has nothing any more, so what is left of it is what the others have
        const left = inSync.filter((member) => member !== node && !failed.has(member));
        if (on.includes(node) && left.length === 0) expected.push(`v${i}`);
        const downNode = facts.down === null ? '' : names[facts.down];
        const hasCopy = inSync.includes(node) && !failed.has(node);
        const isUseless = left.length > 0 && left.every((member) => member === downNode);
        if (!each.inTrash && hasCopy && isUseless) stranded.push(`v${i}`);
        const versioned = { value: record, modRevision: 1 };
        (each.inTrash ? state.trash : state.volumes).set(record.metadata.id, versioned);
      });
      const plan = planOf(state, node, 'forget');
      const lost = plan.effects.filter(({ becomes }) => becomes === 'lost');
      assert.deepEqual(lost.map(({ volume }) => volume).sort(), expected.sort());
      const useless = plan.effects.filter(({ becomes }) => becomes === 'unavailable');
      assert.deepEqual(useless.map(({ volume }) => volume).sort(), stranded.sort());
      const harmed = plan.effects.filter(({ becomes }) => becomes !== 'degraded');
      if (plan.safe !== (harmed.length === 0)) throw new Error('safe');
      seen.lost += lost.length;
      seen.stranded += useless.length;
      seen.kept += facts.volumes.length - lost.length;
    }),
    { numRuns },
  );
  t.comment(seen);
  t.ok(seen.lost > 0 && seen.kept > 0);
});
