import type { VolumeReplica } from '@stor/protocol';
import t from 'tap';
import { Absence, leaderGraceMs } from '../src/core/controllers/absence.ts';
import { Controllers } from '../src/core/controllers/controllers.ts';
import type { Action } from '../src/core/controllers/controllers.ts';
import {
  addPatienceMs,
  fillPatienceMs,
  maxFillsPerNode,
  maxReplacements,
  placeBackoffMs,
} from '../src/core/controllers/replica-keeper.ts';
import { shedSurplus, takeBack } from '../src/core/controllers/replica-rules.ts';
import { planEvacuation } from '../src/core/disk/plan-evacuation.ts';
import { movedReplica, updatedVolume } from '../src/core/volume/change-volume.ts';
import { countInSync, describeVolume } from '../src/core/volume/describe-volume.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { apply, planAt } from './plan-at.ts';
import { addDisk, clusterOf, gib, put, setUp, volumeOn } from './volume-fixture.ts';

const minuteMs = 60_000;
const waitMs = 10 * minuteMs;

/** Plans and does it, at each of these times. */
function run(controllers: Controllers, state: ClusterState, ...timesMs: number[]): Action[] {
  return timesMs.flatMap((nowMs) => {
    const actions = planAt(controllers, state, nowMs);
    for (const action of actions) apply(state, action);
    return actions;
  });
}

function added(state: ClusterState): VolumeReplica[] {
  return [...state.volumes.values()].flatMap(({ value }) =>
    value.status.segments.flatMap(({ replicas }) =>
      replicas.filter((r) => r.purpose !== undefined),
    ),
  );
}

function statusOf(state: ClusterState): StoredVolume['status'] {
  const volume = state.volumes.get('v-db');
  if (!volume) throw new Error('no volume');
  return volume.value.status;
}

function report(state: ClusterState, replicaId: string, said: string, message = ''): void {
  const value = {
    replicaId,
    volumeId: 'v-db',
    nodeId: '',
    state: said,
    code: 'DISK_FAILED',
    message,
  };
  state.reports.set(replicaId, { value, modRevision: 1 });
}

t.test('a replica is lost after the wait, as records and this leader have seen it', async (t) => {
  const replica = (nodeId: string): VolumeReplica => {
    return { id: `r-${nodeId}`, nodeId, diskId: `d-${nodeId}`, state: 'ready' };
  };
  const state = clusterOf({
    a: { up: false, downSinceMs: 0 },
    b: { disk: { state: 'failed', unusableSinceMs: 0 } },
    c: {},
    d: { up: false },
  });
  const absence = new Absence();
  const look = (monotonicMs: number, wallMs: number) => {
    const now = { monotonicMs, wallMs };
    const notes = absence.look(state, now);
    const lost = ['a', 'b', 'c', 'd'].filter((id) =>
      absence.isLost(state, replica(id), waitMs, now),
    );
    return { notes: notes.map(({ node, downSinceMs }) => [node.value.id, downSinceMs]), lost };
  };
  const longMs = 100 * minuteMs;
  t.same(
    look(1, longMs),
    { notes: [['d', longMs]], lost: [] },
    'a new leader has seen nothing yet',
  );
  t.same(look(leaderGraceMs, longMs).lost, []);
  t.same(look(leaderGraceMs + 1, longMs).lost, ['a', 'b'], 'the wait itself does not begin anew');
  t.same(look(leaderGraceMs + 1, -5).lost, [], 'a wall clock that went back');
  setUp(state, 'a');
  t.same(look(leaderGraceMs + 2, longMs).notes, [
    ['a', null],
    ['d', longMs],
  ]);
  t.same(look(leaderGraceMs + 2, longMs).lost, ['b']);
  t.ok(
    absence.isLost(state, { ...replica('c'), state: 'failed' }, waitMs, {
      monotonicMs: 0,
      wallMs: 0,
    }),
    'one that failed is lost at once',
  );
});

t.test('one dead node does not start everything at once', async (t) => {
  const state = clusterOf({
    a: { up: false, downSinceMs: 0 },
    b: {},
    c: {},
    d: {},
    e: {},
    f: {},
    g: {},
  });
  for (let i = 0; i < 40; i++) {
    put(state, volumeOn(['a', 'b'], { name: `v${i}`, inSync: ['b'] }));
  }
  const controllers = new Controllers();
  run(controllers, state, 0, leaderGraceMs, waitMs + 1, waitMs + 2, waitMs + 3);
  t.equal(added(state).length, maxReplacements);
  const perNode = new Map<string, number>();
  for (const { nodeId } of added(state)) perNode.set(nodeId, (perNode.get(nodeId) ?? 0) + 1);
  t.ok([...perNode.values()].every((count) => count <= maxFillsPerNode));
  // one is filled: one more may begin
  for (const [id, { value, modRevision }] of state.volumes) {
    const [segment] = value.status.segments;
    const fresh = segment?.replicas.find((r) => r.purpose === 'replacement');
    if (!segment || !fresh) continue;
    fresh.state = 'ready';
    segment.inSync.push(fresh.id);
    state.volumes.set(id, { value, modRevision: modRevision + 1 });
    break;
  }
  run(controllers, state, waitMs + 4, waitMs + 5);
  t.equal(added(state).length, maxReplacements + 1);
  // those that get nowhere do not stop the others for ever, as far as nodes have hands
  for (const { id } of added(state)) report(state, id, 'ready');
  run(controllers, state, waitMs + 6);
  run(controllers, state, waitMs + fillPatienceMs + 10);
  t.ok(added(state).length > maxReplacements + 1);
});

t.test('what cannot be filled is not placed', async (t) => {
  const nodes = { a: { up: false, downSinceMs: 0 }, b: {}, c: {}, d: {} };
  const place = (change: (volume: StoredVolume) => void): number => {
    const state = clusterOf(nodes);
    const volume = volumeOn(['a', 'b', 'c'], { inSync: ['b', 'c'] });
    change(volume);
    put(state, volume);
    run(new Controllers(), state, 0, leaderGraceMs, waitMs + 1, waitMs + 2);
    return added(state).length;
  };
  t.equal(
    place(() => {}),
    1,
  );
  t.equal(
    place((volume) => (volume.spec.policy.rebuildPaused = true)),
    0,
    'rebuilds are paused',
  );
  t.equal(
    place((volume) => (volume.spec.policy.replacementWaitMs = 3 * waitMs)),
    0,
    'too early',
  );
  const alone = (volume: StoredVolume): void => {
    for (const segment of volume.status.segments) segment.inSync = ['r-a'];
  };
  t.equal(place(alone), 0, 'the only one that has the data is away');
});

t.test('an added replica that cannot be made is given up and tried elsewhere, later', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  put(state, volumeOn(['a', 'b'], { replicas: 3 }));
  const controllers = new Controllers();
  run(controllers, state, 0);
  const [first] = added(state);
  if (!first) throw new Error('nothing was placed');
  report(state, first.id, 'failed', 'the disk is sick');
  run(controllers, state, 100, 100);
  t.same(added(state), []);
  t.match(statusOf(state), { message: /could not take a replica: the disk is sick/ });
  t.match(statusOf(state).segments[0]?.removed, [{ id: first.id }], 'what is left is deleted');
  run(controllers, state, 100 + placeBackoffMs - 1);
  t.same(added(state), [], 'not at once');
  run(controllers, state, 100 + placeBackoffMs);
  const [second] = added(state);
  t.not(second?.nodeId, first.nodeId);
  // its node is slow: the next one
  run(controllers, state, 101 + placeBackoffMs);
  run(controllers, state, 200 + placeBackoffMs + addPatienceMs);
  run(controllers, state, 300 + placeBackoffMs + addPatienceMs);
  t.same(added(state), []);
  t.match(statusOf(state).message, /did not make a replica in time/);
  // nodes have deleted what was given up; then one can take it
  for (const { id } of statusOf(state).segments[0]?.removed ?? []) report(state, id, 'deleted');
  run(controllers, state, 40 * minuteMs, 40 * minuteMs);
  const [third] = added(state);
  report(state, third?.id ?? '', 'ready');
  run(controllers, state, 41 * minuteMs);
  t.match(added(state), [{ state: 'ready' }]);
  t.equal(statusOf(state).message, '');
  t.equal(state.reports.size, 1, 'reports of what is gone are gone');
});

t.test('who goes first, and who never', async (t) => {
  const shed = (volume: StoredVolume, lost: string[] = [], down: string[] = []): string | null => {
    const state = clusterOf({ a: {}, b: {}, c: {}, d: {}, e: {} });
    for (const id of down) state.leases.delete(id);
    const facts = { state, volume, isLost: (r: VolumeReplica) => lost.includes(r.nodeId) };
    const [segment] = volume.status.segments;
    const next = segment && shedSurplus(segment, facts);
    const before = segment?.replicas.filter((r) => r.leaving === true).length ?? 0;
    const leaving = next?.replicas.filter((r) => r.leaving === true) ?? [];
    if (next && leaving.length !== before + 1) throw new Error('one at a time');
    return next ? (leaving.find((r) => !segment?.replicas.includes(r))?.nodeId ?? null) : null;
  };
  const all = ['a', 'b', 'c', 'd'];
  const of = (facts: Parameters<typeof volumeOn>[1]) => volumeOn(all, { replicas: 3, ...facts });
  t.equal(shed(volumeOn(['a', 'b', 'c'])), null, 'nothing is too many');
  t.equal(shed(of({ of: { b: { state: 'failed' } }, inSync: ['a', 'c', 'd'] })), 'b');
  t.equal(shed(of({ inSync: ['a', 'c', 'd'] }), ['b']), 'b', 'lost');
  t.equal(shed(of({ inSync: ['a', 'c', 'd'] }), [], ['b']), 'b', 'down');
  t.equal(shed(of({}), [], ['c']), 'c', 'down, and still in the set');
  t.equal(shed(of({ inSync: ['a', 'b', 'c'] })), 'd', 'out of sync');
  t.equal(
    shed(of({ of: { b: { purpose: 'replacement' } } })),
    'b',
    'the replacement of one that came back',
  );
  t.equal(shed(of({ of: { c: { placedAtMs: 9 } } })), 'c', 'the newest');
  t.not(shed(of({ holder: { nodeId: 'a' } })), 'a', 'reads are served beside the primary');
  t.equal(shed(of({ inSync: ['a', 'b'] })), null, 'two good ones are not three');
  t.equal(shed(of({}), [], ['c', 'd']), null, 'members that are away do not count');
});

t.test('a leaving replica is taken back when its heir is lost', async (t) => {
  const back = (volume: StoredVolume, lost: string[]): boolean => {
    const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
    const facts = { state, volume, isLost: (r: VolumeReplica) => lost.includes(r.nodeId) };
    const [segment] = volume.status.segments;
    const next = segment && takeBack(segment, facts);
    return next?.replicas.every((r) => r.leaving !== true) ?? false;
  };
  const moving = volumeOn(['a', 'b', 'c', 'd'], {
    replicas: 3,
    inSync: ['a', 'b', 'c'],
    of: { c: { leaving: true }, d: { purpose: 'move' } },
  });
  t.equal(back(moving, []), false);
  t.equal(back(moving, ['d']), true);
  const gone = volumeOn(['a', 'b', 'c', 'd'], {
    replicas: 3,
    inSync: ['a', 'b'],
    of: { c: { leaving: true } },
  });
  t.equal(back(gone, ['d']), false, 'it is out of the set already');
});

t.test('a count that goes up takes back what was about to go', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const volume = volumeOn(['a', 'b', 'c'], { replicas: 2, of: { c: { leaving: true } } });
  put(state, volume);
  const context = { state, wallMs: 5, newReplicaId: () => 'r-new' };
  const raised = updatedVolume(volume, { replicas: 3 }, context);
  t.same(
    raised.status.segments[0]?.replicas.map(({ id, leaving }) => [id, leaving ?? false]),
    [
      ['r-a', false],
      ['r-b', false],
      ['r-c', false],
    ],
  );
});

/** Three nodes or more with two disks each, `d-a` and `e-a` of node a. */
function pairsOf(names: string[], free: Record<string, number> = {}): ClusterState {
  const state = clusterOf(Object.fromEntries(names.map((name) => [name, {}])));
  for (const name of names) addDisk(state, name, `e-${name}`);
  for (const [id, freeGib] of Object.entries(free)) {
    const disk = state.disks.get(id);
    if (disk) disk.value.freeBytes = freeGib * gib;
  }
  return state;
}

function evacuate(state: ClusterState, diskId: string): void {
  const disk = state.disks.get(diskId);
  if (disk) disk.value.evacuate = true;
}

t.test('a replica on a disk to be emptied moves to where most is free', async (t) => {
  const placeOf = (state: ClusterState): string => {
    put(state, volumeOn(['a', 'b', 'c']));
    evacuate(state, 'd-c');
    const plan = planEvacuation(state, 'd-c');
    t.same(plan.blocked, []);
    run(new Controllers(), state, 0);
    const [made] = added(state);
    t.equal(made?.purpose, 'move');
    t.equal(state.disks.get(made?.diskId ?? '')?.value.path, plan.moves[0]?.toDisk, 'as planned');
    return made?.diskId ?? '';
  };
  t.equal(placeOf(pairsOf(['a', 'b', 'c'])), 'e-c', 'there is no other node');
  t.equal(placeOf(pairsOf(['a', 'b', 'c', 'x'])), 'e-c', 'no worse than another node');
  t.equal(placeOf(pairsOf(['a', 'b', 'c', 'x'], { 'd-x': 70 })), 'd-x', 'another node has more');
  t.equal(placeOf(pairsOf(['a', 'b', 'c', 'x'], { 'e-c': 1 })), 'd-x');
});

t.test('a lost replica is rebuilt on another node, on its own when there is none', async (t) => {
  const placeOf = (state: ClusterState): VolumeReplica | undefined => {
    put(state, volumeOn(['a', 'b', 'c'], { inSync: ['a', 'b'], of: { c: { state: 'failed' } } }));
    run(new Controllers(), state, 0);
    return added(state)[0];
  };
  const spread = placeOf(pairsOf(['a', 'b', 'c', 'x'], { 'd-x': 20, 'e-x': 10 }));
  t.match(spread, { diskId: 'd-x', purpose: 'replacement' }, 'though the own node has more room');
  t.match(placeOf(pairsOf(['a', 'b', 'c'])), { diskId: 'e-c', purpose: 'replacement' });
  const alone = placeOf(clusterOf({ a: {}, b: {}, c: {} }));
  t.equal(alone, undefined, 'never beside one that stays');
});

t.test('two replicas on one node count as one, and the old one leaves last', async (t) => {
  const state = pairsOf(['a', 'b', 'c']);
  put(state, volumeOn(['a', 'b', 'c']));
  evacuate(state, 'd-c');
  const controllers = new Controllers();
  run(controllers, state, 0, 1);
  const [made] = added(state);
  report(state, made?.id ?? '', 'ready');
  run(controllers, state, 2, 3, 4);
  const leaving = (): string[] =>
    statusOf(state).segments.flatMap(({ replicas }) =>
      replicas.flatMap(({ id, leaving: goes }) => (goes === true ? [id] : [])),
    );
  t.same(leaving(), [], 'nothing leaves before the new one is in sync');
  const join = (id: string, isIn: boolean): void => {
    const [segment] = statusOf(state).segments;
    if (!segment) return;
    segment.inSync = segment.inSync.filter((each) => each !== id);
    if (isIn) segment.inSync.push(id);
  };
  const inSync = (): number => {
    const volume = state.volumes.get('v-db');
    if (!volume) return -1;
    const { status } = describeVolume(volume, state, null, 'a');
    return countInSync(volume.value, status.replicas);
  };
  join(made?.id ?? '', true);
  t.equal(inSync(), 3, 'four members, three nodes');
  // another node's replica is away: the new one still takes the place of its neighbour
  join('r-b', false);
  t.equal(inSync(), 2);
  run(controllers, state, 5);
  t.same(leaving(), ['r-c']);
  run(controllers, state, 6, 7, 8);
  t.same(leaving(), ['r-c'], 'it is not taken back for the one that is missing');
  join('r-c', false);
  run(controllers, state, 9, 10);
  const [segment] = statusOf(state).segments;
  t.same(
    segment?.replicas.map(({ id }) => id),
    ['r-a', 'r-b', made?.id],
  );
  t.match(segment?.removed, [{ id: 'r-c', diskId: 'd-c' }]);
});

t.test('a replica is moved to another disk of its node by order', async (t) => {
  const state = pairsOf(['a', 'b', 'c']);
  const volume = volumeOn(['a', 'b', 'c']);
  put(state, volume);
  const context = { state, wallMs: 0, newReplicaId: () => 'r-new' };
  const move = (replica: string, nodeId: string, disk: string): string => {
    try {
      const [segment] = movedReplica(volume, { replica, nodeId, disk }, context)?.status
        .segments ?? [undefined];
      const made = segment?.replicas.find(({ id }) => id === 'r-new');
      const left = segment?.replicas.filter((each) => each.leaving).map(({ id }) => id);
      return `${made?.diskId ?? ''} for ${left?.join() ?? ''}`;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  };
  t.equal(move('c', 'c', ''), 'e-c for r-c');
  t.equal(move('c', 'c', 'e-c'), 'e-c for r-c');
  t.match(move('c', 'c', 'd-c'), /disk \/disk\/c of node c cannot take the replica/);
  t.match(move('c', 'b', ''), /node b has a replica of volume db already \(r-b\)/);
});
