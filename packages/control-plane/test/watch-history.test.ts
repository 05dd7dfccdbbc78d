import assert from 'node:assert/strict';
import { WatchFold, watchKinds } from '@stor/protocol';
import type { WatchBatch, WatchedChange, WatchEvent, WatchKind } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { diskUses } from '../src/core/placement/disk-use.ts';
import { describeDisk } from '../src/core/disk/describe-disk.ts';
import { describePolicy, usersOf } from '../src/core/qos/policy-rules.ts';
import { describeNode } from '../src/core/volume/describe-cluster.ts';
import type { StoreRoles } from '../src/core/volume/describe-cluster.ts';
import { describeSnapshot } from '../src/core/volume/describe-snapshot.ts';
import { describeVolume } from '../src/core/volume/describe-volume.ts';
import { WatchCursor } from '../src/core/watch/watch-cursor.ts';
import { WatchHistory } from '../src/core/watch/watch-history.ts';
import { applyChange, emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import {
  diskKey,
  nodeKey,
  nodeLeaseKey,
  policyKey,
  snapshotKey,
  trashKey,
  volumeKey,
} from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';

type Change = { key: string; record: object | null };
const names = ['a', 'b', 'c'];
const name = fc.constantFrom(...names);
const addresses = { api: 'h:1', http: 'h:2', peers: ['h:3'], nbd: ['h:4'], nbdUnix: [] };
const orGone = <T extends object>(record: fc.Arbitrary<T>) => fc.option(record, { freq: 3 });

const nodeRecord = (id: string, renamed: boolean) => ({
  id: `n-000000000000000${id}`,
  name: renamed ? `${id}-anew` : id,
  labels: {},
  createdAtMs: 0,
  addresses,
  agentInstance: `i-${id}`,
  bootId: 'b',
  version: '1',
  computeOnly: true,
});
const nodeId = (id: string) => `n-000000000000000${id}`;

const volumeRecord = fc
  .record({
    id: name,
    nodes: fc.subarray(names),
    inSync: fc.subarray(names),
    holder: fc.option(name),
    wanted: fc.integer({ min: 1, max: 3 }),
    about: fc.option(name),
    policy: fc.option(name),
  })
  .map(({ id, nodes, inSync, holder, wanted, about, policy }) => {
    const volume = volumeOn(nodes, {
      name: id,
      replicas: wanted,
      inSync: inSync.filter((each) => nodes.includes(each)),
      of: Object.fromEntries(nodes.map((each) => [each, { nodeId: nodeId(each) }])),
      ...(holder === null ? {} : { holder: { nodeId: nodeId(holder) } }),
    });
    // a message may name any node, also one that has nothing to do with the volume
    if (about !== null) volume.status.message = `node ${nodeId(about)} has no room`;
    if (policy !== null) volume.spec.policyName = policy;
    return volume;
  });

const change: fc.Arbitrary<Change> = fc.oneof(
  fc.tuple(name, fc.boolean(), fc.boolean()).map(([id, isThere, renamed]) => ({
    key: nodeKey(nodeId(id)),
    record: isThere ? nodeRecord(id, renamed) : null,
  })),
  fc.tuple(name, fc.boolean()).map(([id, isUp]) => ({
    key: nodeLeaseKey(nodeId(id)),
    record: isUp ? { agentInstance: `i-${id}`, bootId: 'b', addresses } : null,
  })),
  fc
    .tuple(name, orGone(fc.record({ on: name, usedBytes: fc.nat({ max: 2 }) })))
    .map(([id, disk]) => ({
      key: diskKey(`d-${id}`),
      record: disk && {
        id: `d-${id}`,
        nodeId: nodeId(disk.on),
        path: `/${id}`,
        tag: '',
        createdAtMs: 0,
        state: 'online',
        message: '',
        capacityBytes: 100,
        usedBytes: disk.usedBytes,
        freeBytes: 50,
      },
    })),
  volumeRecord.map((record) => ({ key: volumeKey(record.metadata.id), record })),
  fc.tuple(fc.constantFrom(volumeKey, trashKey), name).map(([key, id]) => ({
    key: key(`v-${id}`),
    record: null,
  })),
  volumeRecord.map((record) => {
    const trash = { deletedAtMs: 0, keptUntilMs: 1 };
    return { key: trashKey(record.metadata.id), record: { ...record, trash } };
  }),
  fc
    .tuple(name, orGone(fc.record({ weight: fc.integer({ min: 1, max: 2 }) })))
    .map(([id, qos]) => ({
      key: policyKey(id),
      record: qos && { id: `p-${id}`, name: id, createdAtMs: 0, qos },
    })),
  fc
    .tuple(name, fc.constantFrom('1', '2'), orGone(fc.record({ isHidden: fc.boolean() })))
    .map(([id, n, snapshot]) => ({
      key: snapshotKey(`v-${id}`, `s-${id}${n}`),
      record: snapshot && {
        id: `s-${id}${n}`,
        volumeId: `v-${id}`,
        name: `at-${n}`,
        labels: {},
        createdAtMs: Number(n),
        sizeBytes: 1,
        state: 'ready',
        groupId: '',
        pausedMs: 0,
        message: '',
        requestId: '',
        isHidden: snapshot.isHidden,
        dropped: [],
      },
    })),
);

type Objects = Record<string, unknown>;

/** All objects of a state, the plain way: what every watcher must have come to. */
function listed(state: ClusterState, roles: StoreRoles, kinds: readonly WatchKind[]): Objects {
  const uses = diskUses(state);
  const all: Record<WatchKind, [string, unknown][]> = {
    node: [...state.nodes].map(([id, node]) => [id, describeNode(node, state, roles)]),
    disk: [...state.disks].map(([id, disk]) => [id, describeDisk(disk, state, uses)]),
    volume: [...state.volumes].map(([id, each]) => [id, describeVolume(each, state, null, '')]),
    policy: [],
    snapshot: [...state.snapshots].flatMap(([volumeId, table]) => {
      const volume = state.volumes.get(volumeId);
      const shown = volume ? [...table].filter(([, { value }]) => !value.isHidden) : [];
      const of = volume?.value.metadata.name ?? '';
      return shown.map(([id, each]) => [id, describeSnapshot(each, of, null)] as [string, unknown]);
    }),
  };
  all.policy = [...state.policies].map(([id, each]) => {
    return [id, describePolicy(each, usersOf(state, id).length)];
  });
  const entries = kinds.flatMap((kind) => all[kind].map(([id, o]) => [`${kind} ${id}`, o]));
  return JSON.parse(JSON.stringify(Object.fromEntries(entries))) as Objects;
}

/** One node: it applies what is committed at its own pace. */
class Node {
  readonly state = emptyState();
  readonly history: WatchHistory;
  roles: StoreRoles = { leaderId: nodeId('a') };
  #begun = false;

  constructor(changes: number, chars = 1_000_000) {
    this.history = new WatchHistory('raft:1', { changes, chars });
  }

  apply(revision: number, changes: readonly Change[]): void {
    for (const { key, record } of changes) {
      const value = record === null ? null : encodeRecord(record);
      assert.equal(applyChange(this.state, { key, value, modRevision: revision }), null);
    }
    this.state.revision = revision;
    if (this.#begun) this.history.apply(this.state, [...new Set(changes.map(({ key }) => key))]);
  }

  begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    this.history.fill(this.state, this.history.begin(this.state, this.roles));
    this.history.ready(this.state);
  }

  lead(roles: StoreRoles): void {
    this.roles = roles;
    if (this.#begun) this.history.look(this.state, roles);
  }
}

/** Folds events as any client would, and holds each against what was before. */
class Watcher {
  readonly objects: Objects = {};
  isSynced = false;

  take(events: readonly WatchEvent[]): void {
    for (const event of events) {
      if (event.type === 'SYNCED') {
        assert.equal(this.isSynced, false, 'synced once');
        this.isSynced = true;
      } else if (event.type !== 'BOOKMARK') this.#take(event);
    }
  }

  #take({ type, kind, id, object }: WatchedChange): void {
    const key = `${kind} ${id}`;
    const known = this.objects[key];
    const now = JSON.parse(JSON.stringify(object)) as unknown;
    assert.equal(known !== undefined, type !== 'ADDED', `${type} of ${key}`);
    if (type === 'MODIFIED') assert.notDeepEqual(now, known, `${key} is told once`);
    if (type === 'DELETED') delete this.objects[key];
    else this.objects[key] = now;
  }
}

type Step =
  | { do: 'commit'; changes: Change[] }
  | { do: 'apply'; node: number }
  | { do: 'lead'; node: number; leader: string }
  | { do: 'read'; batches: number }
  | { do: 'hop'; node: number };

const node = fc.nat({ max: 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('commit' as const),
      changes: fc.array(change, { minLength: 1, maxLength: 4 }),
    }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('apply' as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('lead' as const), node, leader: name }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('read' as const),
      batches: fc.integer({ min: 1, max: 6 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('hop' as const), node }) },
);

t.test('what a watcher folds is the list at that revision, wherever it watches', (t) => {
  const seen = { compacted: 0, slow: 0, behind: 0, resumed: 0, compared: 0 };
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 10, maxLength: 80 }),
      fc.subarray([...watchKinds], { minLength: 1 }),
      fc.integer({ min: 3, max: 40 }),
      (steps, kinds, kept) => {
        const nodes = [new Node(kept), new Node(kept)] as const;
        const commits: Change[][] = [];
        const fold = new WatchFold();
        const watcher = new Watcher();
        let at = 0;
        /** the newest revision of which it has been told at least a part */
        let told = 0;
        let cursor: WatchCursor | null = null;
        const applyOne = (index: number): void => {
          const here = nodes[index] as Node;
          const changes = commits[here.state.revision];
          if (changes) here.apply(here.state.revision + 1, changes);
        };
        const compare = (): void => {
          const here = nodes[at] as Node;
          if (fold.position?.revision !== here.state.revision) return;
          // one that went to a node that is behind, in the middle of a revision, knows more than that node
          if (told > here.state.revision) return;
          assert.deepEqual(watcher.objects, listed(here.state, here.roles, kinds));
          seen.compared += 1;
        };
        const failed = (error: unknown): void => {
          const { code } = error as { code: string };
          cursor = null;
          if (code === 'COMPACTED') seen.compacted += 1;
          else if (code === 'TOO_SLOW') seen.slow += 1;
          else if (code === 'UNAVAILABLE') seen.behind += 1;
          else throw error;
          if (code !== 'UNAVAILABLE') fold.expire();
        };
        const read = (): boolean => {
          const here = nodes[at] as Node;
          try {
            if (!cursor) {
              here.begin();
              fold.begin();
              const after = fold.position;
              const start = { kinds, name: '', after, listAgain: fold.needsList };
              cursor = new WatchCursor(here.history, start, 2);
              if (after && !start.listAgain) seen.resumed += 1;
            }
            const batch: WatchBatch | null = cursor.next();
            const before = fold.position?.revision ?? 0;
            const taken = batch ?? cursor.bookmark();
            watcher.take(fold.apply(taken));
            told = Math.max(told, taken.revision);
            assert.ok((fold.position?.revision ?? 0) >= before, 'never goes back');
            if (batch === null) compare();
            return batch !== null;
          } catch (error) {
            failed(error);
            return true;
          }
        };
        for (const each of steps) {
          if (each.do === 'commit') commits.push(each.changes);
          else if (each.do === 'apply') applyOne(each.node);
          else if (each.do === 'lead') {
            (nodes[each.node] as Node).lead({ leaderId: nodeId(each.leader) });
          } else if (each.do === 'read') for (let i = 0; i < each.batches; i++) read();
          else {
            at = each.node;
            cursor = null;
          }
        }
        for (const index of [0, 1]) for (const _ of commits) applyOne(index);
        let reads = 0;
        while (read()) assert.ok(++reads < 1_000, 'it comes to an end');
        assert.equal(fold.position?.revision, commits.length);
        compare();
      },
    ),
    { numRuns: 300 },
  );
  for (const [what, count] of Object.entries(seen)) t.ok(count > 0, `${what}: ${count} times`);
  t.end();
});

t.test('a watch of one object hears of no other', (t) => {
  const state = clusterOf({ a: {}, b: {} });
  put(state, volumeOn(['a'], { name: 'one' }));
  put(state, volumeOn(['b'], { name: 'two' }));
  state.revision = 7;
  const history = new WatchHistory('raft:1');
  const roles = { leaderId: 'a' };
  history.fill(state, history.begin(state, roles));
  history.ready(state);
  const start = { kinds: ['volume' as const], name: 'one', after: null, listAgain: true };
  const cursor = new WatchCursor(history, start);
  t.match(cursor.next(), { complete: true, listing: true, changes: [{ id: 'v-one' }] });
  const lose = (id: string, revision: number): void => {
    applyChange(state, { key: nodeLeaseKey(id), value: null, modRevision: revision });
    state.revision = revision;
    history.apply(state, [nodeLeaseKey(id)]);
  };
  lose('b', 8);
  t.equal(cursor.next(), null);
  lose('a', 9);
  const batch = cursor.next();
  t.match(batch, {
    revision: 9,
    complete: true,
    changes: [{ type: 'MODIFIED', object: { status: { health: 'unavailable' } } }],
  });
  t.equal(batch?.changes.length, 1);
  t.end();
});

t.test('positions of another count of revisions are not gone on from', (t) => {
  const state = clusterOf({ a: {} });
  state.revision = 7;
  const history = new WatchHistory('raft:1');
  history.fill(state, history.begin(state, { leaderId: 'a' }));
  history.ready(state);
  const begin = (after: { history: string; revision: number }, listAgain = false) =>
    new WatchCursor(history, { kinds: ['volume'], name: '', after, listAgain });
  t.throws(() => begin({ history: 'raft:2', revision: 7 }), { code: 'COMPACTED' });
  t.throws(() => begin({ history: 'raft:2', revision: 99 }), { code: 'COMPACTED' });
  t.ok(begin({ history: 'raft:2', revision: 99 }, true).next()?.listing);
  t.throws(() => begin({ history: 'raft:1', revision: 6 }), { code: 'COMPACTED' });
  t.equal(begin({ history: 'raft:1', revision: 7 }).next(), null);
  t.throws(() => begin({ history: 'raft:1', revision: 8 }), { code: 'UNAVAILABLE' });
  t.throws(() => begin({ history: 'raft:1', revision: 8 }, true), { code: 'UNAVAILABLE' });
  t.end();
});
