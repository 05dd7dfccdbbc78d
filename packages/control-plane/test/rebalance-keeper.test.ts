import fc from 'fast-check';
import t from 'tap';
import { Controllers } from '../src/core/controllers/controllers.ts';
import type { Action } from '../src/core/controllers/controllers.ts';
import type { RebalanceStep } from '../src/core/controllers/rebalance-keeper.ts';
import { describeRebalance } from '../src/core/rebalance/describe-rebalance.ts';
import { diskLoads } from '../src/core/rebalance/disk-loads.ts';
import {
  begunRebalance,
  changedRebalance,
  decodeRebalance,
  defaultRebalance,
  maxFailedMoves,
  orderedRebalance,
} from '../src/core/rebalance/rebalance-record.ts';
import type { RebalanceRecord } from '../src/core/rebalance/rebalance-record.ts';
import { RebalancePlanner } from '../src/core/rebalance/rebalance-planner.ts';
import { isSettledIn } from '../src/core/rebalance/settled-replica.ts';
import { PlacementBoard } from '../src/core/placement/placement-board.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { apply } from './plan-at.ts';
import { ReplicaWorld } from './replica-world.ts';
import { clusterOf, gib, put, setUp, volumeOn } from './volume-fixture.ts';

const settings = { ...defaultRebalance };

/** A disk reports what it holds. */
function report(state: ClusterState, diskId: string, replicaBytes: Record<string, number>): void {
  const disk = state.disks.get(diskId);
  if (!disk) return;
  const usedBytes = Object.values(replicaBytes).reduce((sum, bytes) => sum + bytes, 0);
  const freeBytes = Math.max(0, disk.value.capacityBytes - usedBytes);
  const value = { ...disk.value, usedBytes, freeBytes, replicaBytes };
  state.revision += 1;
  state.disks.set(diskId, { value, modRevision: state.revision });
}

function begin(
  state: ClusterState,
  change: Partial<typeof settings> = {},
  nowWallMs = 1_000,
): void {
  const record = begunRebalance(null, { settings: { ...settings, ...change }, nowWallMs });
  state.rebalance = { value: record, modRevision: 1 };
}

/** Four nodes; all volumes lie on the first three. */
function lopsided(volumes = 4): ClusterState {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  const bytes: Record<string, Record<string, number>> = { a: {}, b: {}, c: {}, d: {} };
  for (let i = 0; i < volumes; i++) {
    const on = i % 2 === 0 ? ['a', 'b'] : ['a', 'c'];
    put(state, volumeOn(on, { name: `v${i}` }));
    for (const id of on) (bytes[id] ?? {})[`r-v${i}-${id}`] = 8 * gib;
  }
  for (const [id, each] of Object.entries(bytes)) report(state, `d-${id}`, each);
  return state;
}

let ids = 0;
const newReplicaId = (): string => `r-made-${++ids}`;

function stepOf(controllers: Controllers, state: ClusterState, ms: number): RebalanceStep | null {
  const now = { monotonicMs: ms, wallMs: ms };
  const actions: Action[] = controllers.plan(state, now, newReplicaId);
  return actions.find((action) => action.type === 'rebalance') ?? null;
}

function recordOf(state: ClusterState): RebalanceRecord {
  if (!state.rebalance) throw new Error('no rebalance');
  return state.rebalance.value;
}

t.test('one move after another begins, each with the record in which it stands', async (t) => {
  const state = lopsided();
  begin(state);
  const controllers = new Controllers();
  const first = stepOf(controllers, state, 2_000);
  t.match(first?.record.moves, [{ fromDiskId: 'd-a', toDiskId: 'd-d', bytes: 8 * gib }]);
  const { begins } = first ?? {};
  t.match(begins?.change.record.status.segments[0]?.replicas, [
    { nodeId: 'a', leaving: true },
    { nodeId: /[bc]/ },
    { nodeId: 'd', purpose: 'move', state: 'creating' },
  ]);
  if (first) apply(state, first);
  t.equal(stepOf(controllers, state, 2_500), null, 'not looked for so soon');
  const second = stepOf(controllers, state, 3_500);
  t.equal(second?.record.moves.length, 2);
  t.not(second?.record.moves[1]?.volumeId, second?.record.moves[0]?.volumeId);
  if (second) apply(state, second);
  t.equal(stepOf(controllers, state, 9_000), null, 'two at one time');
  t.equal(stepOf(new Controllers(), state, 9_000), null, 'another leader knows of them');
  const shown = describeRebalance(state, recordOf(state));
  t.match(shown, { state: 'running', moved: 0, moving: [{ fromNode: 'a', toNode: 'd' }, {}] });
});

t.test('what was placed since it began stays, however full its disk is', async (t) => {
  const state = lopsided();
  for (const { value } of [...state.volumes.values()]) {
    const other = value.metadata.name === 'v0' || value.metadata.name === 'v2' ? 'b' : 'c';
    const { name } = value.metadata;
    put(state, volumeOn(['a', other], { name, of: { a: { placedAtMs: 5_000 } } }));
  }
  begin(state);
  const step = stepOf(new Controllers(), state, 6_000);
  t.match(step?.record.moves, [{ fromDiskId: /^d-[bc]$/, toDiskId: 'd-d' }]);
});

t.test('a budget is kept on average, also when the clock is set back', async (t) => {
  const state = lopsided();
  begin(state, { bytesPerSecond: gib, maxMoves: 4 });
  const controllers = new Controllers();
  const step = stepOf(controllers, state, 10_000);
  t.match(step?.record, { paceMs: 8_000, notBeforeMs: 18_000 });
  if (step) apply(state, step);
  t.equal(stepOf(controllers, state, 17_900), null);
  t.equal(stepOf(new Controllers(), state, 12_000), null, 'another leader keeps it too');
  t.ok(stepOf(new Controllers(), state, 18_000)?.begins);
  t.ok(stepOf(new Controllers(), state, 5_000)?.begins, 'the clock says what cannot be');
});

t.test('it waits while a copy is missing or may be soon, and while it is paused', async (t) => {
  const why = (state: ClusterState): string => {
    const shown = describeRebalance(state, recordOf(state));
    const step = stepOf(new Controllers(), state, 2_000);
    if (step?.begins) return 'begins';
    return `${shown.state}: ${shown.message}`;
  };
  const state = lopsided();
  begin(state);
  t.equal(why(state), 'begins');
  state.leases.delete('b');
  t.equal(why(state), 'waiting: node b is down, and replicas lie on it');
  setUp(state, 'b');
  state.leases.delete('d');
  t.equal(why(state), 'begins', 'nothing lies there: the others even out');
  setUp(state, 'd');
  put(state, volumeOn(['b', 'c'], { name: 'hurt', inSync: ['b'] }));
  t.equal(why(state), 'waiting: volume hurt is degraded: it is repaired first');
  put(state, volumeOn(['b', 'c'], { name: 'hurt', replicas: 3 }));
  t.equal(why(state), 'waiting: volume hurt is degraded: it is repaired first');
  put(
    state,
    volumeOn(['b', 'c', 'd'], { name: 'hurt', replicas: 2, of: { b: { leaving: true } } }),
  );
  t.equal(why(state), 'waiting: volume hurt moves or loses a replica for another reason');
  put(state, volumeOn(['b', 'c'], { name: 'hurt' }));
  t.equal(why(state), 'begins');
  const paused = orderedRebalance(recordOf(state), 'pause', 0);
  if (paused) state.rebalance = { value: paused, modRevision: 2 };
  t.equal(why(state), 'paused: ');
});

t.test('what did not work is not tried again, and too much of it ends all', async (t) => {
  const state = lopsided();
  begin(state);
  const step = stepOf(new Controllers(), state, 2_000);
  if (!step) throw new Error('no step');
  apply(state, step);
  const [move] = recordOf(state).moves;
  const volume = state.volumes.get(move?.volumeId ?? '')?.value;
  if (!move || !volume) throw new Error('no move');
  // the new replica could not be made, and the old one was taken back
  put(
    state,
    volumeOn(['a', volume.metadata.name === 'v1' ? 'c' : 'b'], { name: volume.metadata.name }),
  );
  const after = stepOf(new Controllers(), state, 4_000);
  t.match(after?.record, { failed: 1, moves: [], skipped: [move.fromReplicaId], state: 'running' });
  t.match(after?.notes, [{ reason: 'rebalance-move-failed', type: 'warning' }]);
  const almost = { ...recordOf(state), failed: maxFailedMoves - 1 };
  state.rebalance = { value: almost, modRevision: 5 };
  t.match(stepOf(new Controllers(), state, 4_000)?.record, {
    state: 'stopped',
    failed: maxFailedMoves,
  });
  if (after) apply(state, after);
  const next = stepOf(new Controllers(), state, 6_000);
  t.ok(next?.begins);
  t.not(next?.record.moves[0]?.fromReplicaId, move.fromReplicaId);
});

t.test('orders and settings are checked, and records are read back', async (t) => {
  const record = begunRebalance(null, { settings, nowWallMs: 5 });
  t.same(decodeRebalance('/stor/rebalance', encodeRecord(record)), record);
  t.throws(() => decodeRebalance('/stor/rebalance', encodeRecord({ a: 1 })), { code: 'INTERNAL' });
  t.throws(() => orderedRebalance(null, 'pause', 1), { code: 'FAILED_PRECONDITION' });
  const stopped = orderedRebalance(record, 'stop', 9);
  t.match(stopped, { state: 'stopped', endedAtMs: 9 });
  t.equal(orderedRebalance(stopped, 'stop', 9), null);
  t.throws(() => orderedRebalance(stopped, 'resume', 9), { code: 'FAILED_PRECONDITION' });
  t.equal(orderedRebalance(record, 'resume', 9), null);
  t.same(changedRebalance(settings, { maxMoves: 4 }), { ...settings, maxMoves: 4 });
  for (const wrong of [
    { bandPercent: 0 },
    { bandPercent: 51 },
    { bytesPerSecond: 1000 },
    { bytesPerSecond: 2 ** 60 },
    { maxMoves: 0 },
    { maxMoves: 5 },
    { stopAfter: -1 },
    { stopAfter: 1.5 },
  ]) {
    t.throws(() => changedRebalance(settings, wrong), { code: 'INVALID_ARGUMENT' });
  }
});

type Happening =
  | { type: 'report'; disk: number }
  | { type: 'down' | 'up'; node: number }
  | { type: 'leader' | 'write' | 'late'; at: number }
  | { type: 'pause'; ms: number };

const happening: fc.Arbitrary<Happening> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant('report' as const), disk: fc.nat(5) }) },
  fc.record({ type: fc.constantFrom('down' as const, 'up' as const), node: fc.nat(5) }),
  fc.record({
    type: fc.constantFrom('leader' as const, 'write' as const, 'late' as const),
    at: fc.nat(5),
  }),
  fc.record({ type: fc.constant('pause' as const), ms: fc.nat(5_000) }),
);

/** A world whose disks report sizes, some time or other. */
class SizedWorld {
  readonly world: ReplicaWorld;
  readonly #sizes: number[];
  readonly #moved = new Set<string>();
  begun = 0;

  constructor(sizes: number[], zones: string[]) {
    const volumes = sizes.map((_, i) => ({ name: `v${i}`, replicas: (i % 2) + 1 }));
    this.world = new ReplicaWorld(6, volumes);
    this.#sizes = sizes;
    const { state } = this.world;
    zones.forEach((zone, i) => {
      const node = state.nodes.get(`n${i}`);
      if (node) state.nodes.set(`n${i}`, { ...node, value: { ...node.value, labels: { zone } } });
    });
    this.reportAll();
    begin(state, { maxMoves: 3 }, 0);
  }

  report(index: number): void {
    const { state, disks, copies } = this.world;
    const diskId = disks[index % disks.length] ?? '';
    const bytes: Record<string, number> = {};
    for (const [id, copy] of copies) {
      if (copy.diskId === diskId)
        bytes[id] = (this.#sizes[Number(copy.volumeId.slice(3))] ?? 0) * gib;
    }
    report(state, diskId, bytes);
  }

  reportAll(): void {
    this.world.disks.forEach((_, i) => {
      this.report(i);
    });
  }

  /** Looks whether what begins may begin. */
  check(): void {
    const record = recordOf(this.world.state);
    const volumes = record.moves.map(({ volumeId }) => volumeId);
    if (volumes.length > 3) throw new Error('too many at one time');
    if (new Set(volumes).size < volumes.length) throw new Error('two of one volume');
    for (const { fromReplicaId, toReplicaId } of record.moves) {
      if (this.#moved.has(toReplicaId)) continue;
      this.begun += 1;
      if (this.#moved.has(fromReplicaId)) throw new Error('to and fro');
      this.#moved.add(toReplicaId);
    }
  }

  round(): void {
    const { world } = this;
    world.run({ type: 'control', isLate: false });
    this.check();
    world.nodes.forEach((_, node) => {
      world.run({ type: 'reconcile', node });
    });
    this.#sizes.forEach((_, volume) => {
      world.run({ type: 'primary', volume });
    });
    world.run({ type: 'time', ms: 3_000 });
    this.check();
  }

  run(event: Happening): void {
    const { world } = this;
    if (event.type === 'report') this.report(event.disk);
    else if (event.type === 'down' || event.type === 'up') world.run(event);
    else if (event.type === 'leader') world.run({ type: 'leader' });
    else if (event.type === 'write') world.run({ type: 'write', volume: event.at });
    else if (event.type === 'late') world.run({ type: 'control', isLate: true });
    else {
      const { rebalance } = world.state;
      const order = rebalance?.value.state === 'paused' ? 'resume' : 'pause';
      const next = rebalance && rebalance.value.state !== 'finished';
      const record = next && orderedRebalance(rebalance.value, order, 0);
      if (record) world.state.rebalance = { value: record, modRevision: rebalance.modRevision + 1 };
    }
  }
}

t.test('any order of events: it ends, nothing goes to and fro, no copy is missing', async (t) => {
  let begun = 0;
  let found = 0;
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 4, maxLength: 8 }),
      fc.array(fc.constantFrom('x', 'y'), { minLength: 6, maxLength: 6 }),
      fc.array(happening, { maxLength: 20 }),
      (sizes, zones, events) => {
        const sized = new SizedWorld(sizes, zones);
        const { world } = sized;
        for (const event of events) {
          sized.run(event);
          sized.round();
        }
        world.nodes.forEach((_, node) => {
          world.run({ type: 'up', node });
        });
        const paused = orderedNow(world.state, 'resume');
        if (paused) world.state.rebalance = paused;
        for (let round = 0; recordOf(world.state).state === 'running'; round++) {
          if (round > 200)
            throw new Error(`it does not end: ${JSON.stringify(world.state.rebalance)}`);
          sized.round();
          sized.reportAll();
        }
        const replicas = sizes.reduce((sum, _, i) => sum + (i % 2) + 1, 0);
        if (sized.begun > replicas + recordOf(world.state).failed)
          throw new Error('too many moves');
        const wrong = world.settle();
        if (wrong.length > 0) throw new Error(wrong.join('; '));
        sized.reportAll();
        const planner = new RebalancePlanner({
          board: new PlacementBoard(world.state),
          loads: diskLoads(world.state, []),
          bandPercent: settings.bandPercent,
          isSettled: isSettledIn(recordOf(world.state)),
          mayMove: () => true,
        });
        if (planner.next()) found += 1;
        begun += sized.begun;
        return true;
      },
    ),
    { numRuns: Number(process.env['STOR_RUNS'] ?? 60) },
  );
  t.ok(begun > 60, `${begun} moves`);
  t.ok(found <= 6, `${found} ended although a move was left (repairs came after the end)`);
});

function orderedNow(state: ClusterState, order: 'resume'): ClusterState['rebalance'] {
  const { rebalance } = state;
  if (rebalance?.value.state !== 'paused') return null;
  const value = orderedRebalance(rebalance.value, order, 0);
  return value && { value, modRevision: rebalance.modRevision + 1 };
}
