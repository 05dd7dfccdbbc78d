import type { PlacementRules } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { PlacementBoard } from '../src/core/placement/placement-board.ts';
import type { PlacementSubject } from '../src/core/placement/placement-board.ts';
import { placeAnother, placeReplicas } from '../src/core/placement/place-replicas.ts';
import { sitesOf } from '../src/core/controllers/replica-sites.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { StorError } from '@stor/protocol';
import { clusterOf, gib, put, volumeOn } from './volume-fixture.ts';

type Labels = Record<string, string>;

function labelled(nodes: Labels[], down: readonly boolean[] = []): ClusterState {
  const names = nodes.map((_, i) => `n${i}`);
  const state = clusterOf(Object.fromEntries(names.map((id, i) => [id, { up: !down[i] }])));
  names.forEach((id, i) => {
    const node = state.nodes.get(id);
    if (node) node.value.labels = nodes[i] ?? {};
  });
  return state;
}

function subject(rules: PlacementRules, more: Partial<PlacementSubject> = {}): PlacementSubject {
  return { volumeId: 'v-db', labels: {}, rules, local: null, ...more };
}

function need(rules: PlacementRules, more: Partial<PlacementSubject> = {}) {
  const size = { sizeBytes: gib, fillBytes: 0, tag: '' };
  return { kind: 'new' as const, ...size, subject: subject(rules, more) };
}

function nodesFor(state: ClusterState, replicas: number, rules: PlacementRules): string[] {
  return placeReplicas(state, replicas, need(rules)).map(({ nodeId }) => nodeId);
}

function errorOf(run: () => unknown): string {
  try {
    run();
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

/** Every way to choose so many of them. */
function combinations<T>(items: readonly T[], count: number): T[][] {
  if (count === 0) return [[]];
  return items.flatMap((item, i) =>
    combinations(items.slice(i + 1), count - 1).map((rest) => [item, ...rest]),
  );
}

/** As the documentation says it, and nothing cleverer. */
function keepsApart(chosen: readonly Labels[], required: readonly string[]): boolean {
  return required.every((key) => {
    const values = chosen.map((labels) => labels[key]);
    return !values.includes(undefined) && new Set(values).size === values.length;
  });
}

function spreadOf(chosen: readonly Labels[], preferred: readonly string[]): number[] {
  return preferred.map((_, level) => {
    const keys = preferred.slice(0, level + 1);
    const inDomain = chosen.filter((labels) => keys.every((key) => labels[key] !== undefined));
    return new Set(inDomain.map((labels) => JSON.stringify(keys.map((key) => labels[key])))).size;
  });
}

const compare = (a: number[], b: number[]): number =>
  a.map((value, i) => value - (b[i] ?? 0)).find((difference) => difference !== 0) ?? 0;

const label = fc.option(fc.constantFrom('a', 'b', 'c', 'd'), { nil: undefined, freq: 8 });
const node = fc.record({ zone: label, rack: label, row: label }).map((labels) => {
  const entries = Object.entries(labels).filter((entry) => entry[1] !== undefined);
  return Object.fromEntries(entries) as Labels;
});
const keys = fc.uniqueArray(fc.constantFrom('zone', 'rack', 'row'), { maxLength: 3 });

t.test('places are found if and only if there are any, and spread over most domains', async (t) => {
  const seen = { placed: 0, refused: 0 };
  fc.assert(
    fc.property(
      fc.array(node, { minLength: 1, maxLength: 9 }),
      fc.integer({ min: 1, max: 5 }),
      keys,
      keys.filter((list) => list.length > 0),
      fc.array(
        fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
        { maxLength: 9 },
      ),
      (nodes, replicas, required, preferred, down) => {
        const state = labelled(nodes, down);
        const able = nodes.filter((_, i) => down[i] !== true);
        const ways = combinations(able, replicas).filter((way) => keepsApart(way, required));
        const best = ways
          .map((way) => spreadOf(way, preferred))
          .reduce<number[] | null>((a, b) => (a && compare(a, b) >= 0 ? a : b), null);
        const rules = { required, preferred };
        if (!best) {
          seen.refused += 1;
          return /^FAILED_PRECONDITION: /.test(errorOf(() => nodesFor(state, replicas, rules)));
        }
        seen.placed += 1;
        const places = nodesFor(state, replicas, rules);
        const chosen = places.map((id) => nodes[Number(id.slice(1))] ?? {});
        return (
          new Set(places).size === replicas &&
          keepsApart(chosen, required) &&
          compare(spreadOf(chosen, preferred), best) === 0
        );
      },
    ),
    { numRuns: 1_500 },
  );
  t.ok(seen.placed > 300 && seen.refused > 300, JSON.stringify(seen));
});

t.test('one more replica shares no required domain and covers a new one', async () => {
  fc.assert(
    fc.property(
      fc.array(node, { minLength: 2, maxLength: 8 }),
      fc.integer({ min: 1, max: 3 }),
      keys,
      keys.filter((list) => list.length > 0),
      (nodes, there, required, preferred) => {
        const state = labelled(nodes);
        const on = nodes.slice(0, there).map((_, i) => `n${i}`);
        const volume = volumeOn(on);
        volume.spec.placement = { required, preferred };
        put(state, volume);
        const [segment] = volume.status.segments;
        if (!segment) return false;
        const found = placeAnother(state, sitesOf(segment, state), need({ required, preferred }));
        const fixed = nodes.slice(0, there);
        const isApart = (labels: Labels): boolean =>
          required.every(
            (key) =>
              labels[key] !== undefined && fixed.every((other) => other[key] !== labels[key]),
          );
        const able = nodes.slice(there).filter(isApart);
        if (!found.place) return able.length === 0 && found.refusals.length === nodes.length;
        const chosen = nodes[Number(found.place.nodeId.slice(1))] ?? {};
        const scores = able.map((labels) => spreadOf([...fixed, labels], preferred));
        const own = spreadOf([...fixed, chosen], preferred);
        return isApart(chosen) && scores.every((score) => compare(own, score) >= 0);
      },
    ),
    { numRuns: 500 },
  );
});

t.test('a choice one by one would fail: the freest node is in the way of the others', async (t) => {
  const state = labelled([
    { zone: 'a', rack: 'r1' },
    { zone: 'a', rack: 'r2' },
    { zone: 'b', rack: 'r1' },
  ]);
  const disk = state.disks.get('d-n0');
  if (disk) disk.value.freeBytes = 90 * gib;
  t.same(nodesFor(state, 2, { required: ['zone', 'rack'] }).sort(), ['n1', 'n2']);
  t.equal(
    errorOf(() => nodesFor(state, 3, { required: ['rack'] })),
    'FAILED_PRECONDITION: 3 replicas must be apart by rack, and the nodes that qualify allow 2: rack r1 (n0, n2), r2 (n1)',
  );
  const other = state.nodes.get('n1');
  if (other) other.value.labels = { zone: 'a' };
  t.match(
    errorOf(() => nodesFor(state, 2, { required: ['rack'] })),
    /allow 1: rack r1 \(n0, n2\); n1 has no label rack, by which replicas must be apart$/,
  );
  const full = state.disks.get('d-n2');
  if (full) full.value.freeBytes = 0;
  t.match(
    errorOf(() => nodesFor(state, 2, { required: ['zone'] })),
    /^NO_SPACE: 2 replicas must be apart by zone, .* allow 1: zone a \(n0, n1\); n2 has no disk with room/,
  );
});

t.test('zones are spread over without being asked, and racks in them', async (t) => {
  const zone = (name: string, rack: string): Labels => ({ zone: name, rack });
  const state = labelled([
    ...[zone('a', '1'), zone('a', '1'), zone('a', '2'), zone('b', '1'), zone('b', '1'), {}],
  ]);
  for (const id of ['d-n0', 'd-n1', 'd-n5']) {
    const disk = state.disks.get(id);
    if (disk) disk.value.freeBytes = 90 * gib;
  }
  t.same(nodesFor(state, 2, {}).sort(), ['n0', 'n3']);
  // the second in zone a lies in another rack, although there is more room beside the first
  t.same(nodesFor(state, 3, { preferred: ['zone', 'rack'] }).sort(), ['n0', 'n2', 'n3']);
  t.same(nodesFor(state, 3, { preferred: ['none'] }).sort(), ['n0', 'n1', 'n5']);
  t.match(
    errorOf(() => nodesFor(state, 2, { nodeSelector: { rack: '2' } })),
    /n0 is not rack=2 \(it has 1\); .* n5 is not rack=2 \(it has no such label\)/,
  );
});

t.test('volumes attract and repel each other', async (t) => {
  const state = labelled([{ zone: 'a' }, { zone: 'a' }, { zone: 'b' }, { zone: 'b' }]);
  const db = volumeOn(['n0'], { name: 'db' });
  db.metadata.labels = { app: 'db' };
  put(state, db);
  const away = (required: boolean, domain?: string): PlacementRules => ({
    preferred: ['none'],
    antiAffinity: [{ labels: { app: 'db' }, required, ...(domain ? { domain } : {}) }],
  });
  const other = { volumeId: 'v-other' };
  const on = (replicas: number, rules: PlacementRules, more = {}): string[] =>
    placeReplicas(state, replicas, need(rules, { ...other, ...more }))
      .map(({ nodeId }) => nodeId)
      .sort();
  t.same(on(3, away(true)), ['n1', 'n2', 'n3']);
  t.match(
    errorOf(() => on(4, away(true))),
    /n0 has a replica of volume db \(app=db\)/,
  );
  t.same(on(2, away(true, 'zone')), ['n2', 'n3']);
  t.match(
    errorOf(() => on(3, away(true, 'zone'))),
    /n1 is in the same zone \(a\) as a replica of volume db/,
  );
  t.same(on(4, away(false)), ['n0', 'n1', 'n2', 'n3'], 'taken when there is nothing else');
  t.same(on(3, away(false)), ['n1', 'n2', 'n3']);
  const beside = { affinity: [{ labels: { app: 'db' }, required: true }] };
  t.same(on(1, beside), ['n0']);
  t.match(
    errorOf(() => on(2, beside)),
    /1 node qualifies: n1 has no replica of a volume with app=db/,
  );
  const lonely = { affinity: [{ labels: { app: 'web' }, required: true }] };
  t.match(
    errorOf(() => on(1, lonely)),
    /n0 cannot be beside a volume with app=web: there is none/,
  );
  t.equal(on(1, lonely, { labels: { app: 'web' } }).length, 1, 'the first of its kind');
  // what keeps away from others is kept away from
  db.spec.placement = { antiAffinity: [{ labels: { app: 'web' }, required: true }] };
  put(state, db);
  t.same(on(3, {}, { labels: { app: 'web' } }), ['n1', 'n2', 'n3']);
  t.match(
    errorOf(() => on(4, {}, { labels: { app: 'web' } })),
    /n0 has a replica of volume db, which keeps away from app=web/,
  );
  t.same(on(3, { affinity: [{ labels: { app: 'db' }, required: false }] }).includes('n0'), true);
});

t.test('the node that asks gets one, but not at the price of a domain', async (t) => {
  const state = labelled([{ zone: 'a' }, { zone: 'a' }, { zone: 'b' }]);
  const full = state.disks.get('d-n1');
  if (full) full.value.freeBytes = 20 * gib;
  const on = (rules: PlacementRules, local: string): string[] =>
    placeReplicas(state, 2, need(rules, { local }))
      .map(({ nodeId }) => nodeId)
      .sort();
  t.same(on({}, 'n0'), ['n0', 'n2']);
  t.same(on({}, 'n1'), ['n1', 'n2']);
  const node = state.nodes.get('n1');
  if (node) node.value.labels = {};
  t.same(on({}, 'n1'), ['n0', 'n2'], 'it is in no zone');
  t.same(on({ required: ['zone'] }, 'n1'), ['n0', 'n2']);
});

t.test('what was just placed counts for the next one', async (t) => {
  const state = labelled([{}, {}]);
  const board = new PlacementBoard(state);
  const rules = { antiAffinity: [{ labels: { app: 'x' }, required: true }] };
  const one = need(rules, { volumeId: 'v-1', labels: { app: 'x' } });
  const two = need(rules, { volumeId: 'v-2', labels: { app: 'x' } });
  t.equal(placeReplicas(board, 2, two).length, 2);
  const [place] = placeReplicas(board, 1, one);
  if (!place) throw new Error('no place');
  board.note(place, one);
  t.not(placeReplicas(board, 1, two)[0]?.nodeId, place.nodeId);
  t.equal(board.useOf(place.diskId).provisionedBytes, gib);
});
