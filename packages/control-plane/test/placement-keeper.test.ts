import fc from 'fast-check';
import t from 'tap';
import { Controllers } from '../src/core/controllers/controllers.ts';
import { placementReviewMs } from '../src/core/controllers/placement-keeper.ts';
import { PlacementBoard } from '../src/core/placement/placement-board.ts';
import { brokenRules, countViolations } from '../src/core/placement/placement-violations.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { planAt } from './plan-at.ts';
import { ReplicaWorld } from './replica-world.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';

function label(state: ClusterState, zones: Record<string, string>): void {
  for (const [id, zone] of Object.entries(zones)) {
    const node = state.nodes.get(id);
    if (!node) throw new Error(`no node ${id}`);
    const labels = zone === '' ? {} : { zone };
    state.nodes.set(id, { ...node, value: { ...node.value, labels } });
  }
}

t.test('what lies in one required domain after labels changed moves apart', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  label(state, { a: 'x', b: 'x', c: 'y', d: 'z' });
  const volume = volumeOn(['a', 'b', 'c'], { holder: { nodeId: 'b' } });
  volume.spec.placement = { required: ['zone'] };
  put(state, volume);
  const controllers = new Controllers();
  const now = { monotonicMs: 10_000, wallMs: 10_000 };
  const actions = controllers.plan(state, now, () => 'r-new');
  const notes = actions.filter((action) => action.type === 'note-event');
  t.match(notes, [
    {
      note: {
        reason: 'placement-violated',
        message: 'placement of volume db: node b is in zone x, where node a has one already',
      },
    },
  ]);
  const moves = actions.flatMap((action) =>
    action.type === 'change-replicas' ? [action.change.record] : [],
  );
  const replicas = moves[0]?.status.segments[0]?.replicas ?? [];
  // its user reads from the one on b
  t.same(
    replicas.map(({ nodeId, leaving = false }) => [nodeId, leaving]),
    [
      ['a', true],
      ['b', false],
      ['c', false],
      ['d', false],
    ],
  );
  t.same(moves[0]?.status.segments[0]?.inSync, ['r-a', 'r-b', 'r-c'], 'the set is not touched');
  t.match(
    planAt(controllers, state, 10_000 + placementReviewMs).map(({ type }) => type),
    [],
    'not tried again at once, and not told again',
  );
});

t.test('nothing moves while a replica is missing, or when no place keeps the rules', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  label(state, { a: 'x', b: 'x', c: 'y', d: 'z' });
  const volume = volumeOn(['a', 'b', 'c'], { inSync: ['a', 'b'] });
  volume.spec.placement = { required: ['zone'] };
  put(state, volume);
  const moved = (at: number): boolean =>
    planAt(new Controllers(), state, at).some(({ type }) => type === 'change-replicas');
  t.notOk(moved(1_000));
  const whole = volumeOn(['a', 'b', 'c']);
  whole.spec.placement = { required: ['zone'] };
  put(state, whole);
  t.ok(moved(1_000));
  label(state, { d: 'y' });
  t.notOk(moved(1_000), 'it would share zone y');
  label(state, { d: '' });
  t.notOk(moved(1_000), 'nobody knows its zone');
});

t.test('each kind of broken rule is found, and counted', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  label(state, { a: 'x', b: 'x', c: 'y' });
  const kinds = (...args: Parameters<typeof volumeOn>): string[] => {
    const volume = volumeOn(...args);
    return brokenRules(new PlacementBoard(state), volume).map(({ kind }) => kind);
  };
  t.same(kinds(['a', 'c']), []);
  t.same(kinds(['a', 'b']), ['spread']);
  t.same(kinds(['a', 'c'], { replicas: 3 }), ['replicas']);
  const ruled = volumeOn(['a', 'b']);
  const broken = (): string[] =>
    brokenRules(new PlacementBoard(state), ruled).map(({ kind, message }) => `${kind}: ${message}`);
  ruled.spec.placement = { preferred: ['none'], nodeSelector: { zone: 'y' } };
  t.same(broken(), [
    'selector: node a is not zone=y (it has x)',
    'selector: node b is not zone=y (it has x)',
  ]);
  ruled.spec.placement = { preferred: ['none'], required: ['rack'] };
  t.match(broken(), [/^domain: node a has no label rack/, /^domain: node b has no label rack/]);
  const other = volumeOn(['b'], { name: 'other' });
  other.metadata.labels = { app: 'x' };
  put(state, other);
  ruled.spec.placement = {
    preferred: ['none'],
    antiAffinity: [{ labels: { app: 'x' }, required: true }],
  };
  t.same(broken(), ['anti-affinity: node b has a replica of volume other (app=x)']);
  ruled.spec.placement = {
    preferred: ['none'],
    affinity: [{ labels: { app: 'x' }, required: true }],
  };
  t.same(broken(), ['affinity: node a has no replica of a volume with app=x']);
  ruled.spec.diskTag = 'ssd';
  t.match(broken()[1], /^tag: disk .* of node b has no tag ssd$/);
  put(state, ruled);
  t.match(countViolations(new PlacementBoard(state)), { affinity: 1, tag: 1, domain: 0 });
});

t.test(
  'any labels: rules are kept in the end where single moves can, and no data is lost',
  async (t) => {
    const counts: Record<string, number> = {};
    const zones = fc.array(fc.constantFrom('x', 'y', 'z'), { minLength: 6, maxLength: 6 });
    fc.assert(
      fc.property(zones, zones, (before, after) => {
        const world = new ReplicaWorld(6, [
          { name: 'db', replicas: 3 },
          { name: 'wal', replicas: 2 },
        ]);
        const setZones = (to: string[]): void => {
          label(world.state, Object.fromEntries(to.map((zone, i) => [`n${i}`, zone])));
        };
        for (const [id, { value, modRevision }] of world.state.volumes) {
          const spec = { ...value.spec, placement: { required: ['zone'] } };
          world.state.volumes.set(id, { value: { ...value, spec }, modRevision: modRevision + 1 });
        }
        for (const to of [before, after]) {
          setZones(to);
          for (let i = 0; i < 3; i++) world.run({ type: 'write', volume: i });
          world.settle();
          const board = new PlacementBoard(world.state);
          const count = new Set(to).size;
          for (const { value } of world.state.volumes.values()) {
            const broken = brokenRules(board, value).filter((rule) => rule.kind === 'domain');
            // three replicas need three zones; with fewer some must share one
            if (count >= value.spec.replicas && broken.length > 0) return false;
          }
        }
        for (const [what, n] of Object.entries(world.counts))
          counts[what] = (counts[what] ?? 0) + n;
        return true;
      }),
      { numRuns: 40 },
    );
    t.ok((counts['moved by a rule'] ?? 0) > 20, JSON.stringify(counts));
  },
);
