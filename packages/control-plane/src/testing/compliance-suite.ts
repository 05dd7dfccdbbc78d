import { setTimeout as pause } from 'node:timers/promises';
import { hasCode } from '@stor/protocol';
import type { Test } from 'tap';
import type { ClusterStore, Operation, WatchEvent } from '../cluster-store.ts';
import { kvLimits } from '../core/kv/kv-limits.ts';
import { watchedObjects } from './watch-compliance.ts';

/** What an implementation gives to the suite. */
export interface ComplianceTarget {
  /**
   * A new cluster of three members that have a leader, as stores of its members; `t.teardown` ends
   * it. Time is real.
   */
  open(t: Test): Promise<[ClusterStore, ClusterStore, ClusterStore]>;
  /** what a transaction may have; default: that of `kvLimits` */
  maxTransactionItems?: number;
  /**
   * Has the store forget the changes up to now, when it does not by itself after
   * `kvLimits.maxHistoryChanges`. Such a store may still tell a watch that is open of them.
   */
  forget?(): Promise<void>;
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const string = (value: Uint8Array | null | undefined): string | null =>
  value ? new TextDecoder().decode(value) : null;

function put(key: string, value: string, leaseId = ''): Operation {
  return { type: 'put', key, value: text(value), leaseId };
}

async function write(store: ClusterStore, ...operations: Operation[]): Promise<number> {
  return (await store.transact({ compare: [], operations })).revision;
}

/** Rejects unless the promise rejects with the code; asserts for the suite. */
async function rejectsWith(
  t: Test,
  promise: Promise<unknown>,
  code: Parameters<typeof hasCode>[1],
): Promise<void> {
  const error: unknown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  t.ok(hasCode(error, code), `${code}, got ${String(error)}`);
}

/** Reads batches of a watch until one of them satisfies `last`. */
async function watchUntil(
  watch: AsyncIterable<WatchEvent[]>,
  last: (batch: WatchEvent[]) => boolean,
): Promise<WatchEvent[][]> {
  const batches: WatchEvent[][] = [];
  for await (const batch of watch) {
    batches.push(batch);
    if (last(batch)) break;
  }
  return batches;
}

/** Every implementation of `ClusterStore` passes this. */
export function clusterStoreComplianceSuite(t: Test, target: ComplianceTarget): void {
  t.test('transactions', (t) => transactions(t, target));
  t.test('bad input', (t) => badInput(t, target));
  t.test('listing', (t) => listing(t, target));
  t.test('reads and races', (t) => readsAndRaces(t, target));
  t.test('watch', (t) => watching(t, target));
  t.test('watch of changes no longer kept', (t) => compaction(t, target));
  t.test('watch of the objects of the API', async (t) => watchedObjects(t, await target.open(t)));
  t.test('leases', (t) => leases(t, target));
  t.test('leadership, abort and close', (t) => lifecycle(t, target));
}

async function transactions(t: Test, target: ComplianceTarget): Promise<void> {
  const [store] = await target.open(t);
  t.equal(await store.get('a'), null);
  const first = await write(store, put('a', '1'));
  t.match(await store.get('a'), { key: 'a', createRevision: first, modRevision: first });

  const second = await write(store, put('a', '2'), put('b', 'x'));
  t.equal(second, first + 1, 'a transaction is one revision');
  const a = await store.get('a');
  t.match(a, { createRevision: first, modRevision: second, leaseId: '' });
  t.equal(string(a?.value), '2');

  const lost = await store.transact({
    compare: [
      { key: 'a', modRevision: second },
      { key: 'b', modRevision: first },
    ],
    operations: [put('a', 'lost'), { type: 'delete', key: 'b' }],
  });
  t.same(lost, { succeeded: false, revision: second }, 'one compare fails: nothing is done');
  t.equal(string((await store.get('a'))?.value), '2');

  const absent = { compare: [{ key: 'c', modRevision: 0 }], operations: [put('c', '1')] };
  t.same(await store.transact(absent), { succeeded: true, revision: second + 1 });
  t.same(await store.transact(absent), { succeeded: false, revision: second + 1 });

  const nothing = await store.transact({
    compare: [{ key: 'a', modRevision: second }],
    operations: [{ type: 'delete', key: 'none' }],
  });
  t.same(nothing, { succeeded: true, revision: second + 1 }, 'no change, no revision');

  await write(store, { type: 'delete', key: 'a' });
  t.equal(await store.get('a'), null);
  const again = await write(store, put('a', '3'));
  t.match(await store.get('a'), { createRevision: again, modRevision: again });

  const value = text('mine');
  await write(store, { type: 'put', key: 'd', value });
  value.fill(0);
  const read = await store.get('d');
  t.equal(string(read?.value), 'mine', 'the store keeps a copy');
  read?.value.fill(0);
  t.equal(string((await store.get('d'))?.value), 'mine', 'and gives a copy');
}

async function badInput(t: Test, target: ComplianceTarget): Promise<void> {
  const [store] = await target.open(t);
  const before = await store.list('');
  const bad = (operations: Operation[]): Promise<void> =>
    rejectsWith(t, store.transact({ compare: [], operations }), 'INVALID_ARGUMENT');
  await bad([put('', 'x')]);
  await bad([put('k'.repeat(kvLimits.maxKeyBytes + 1), 'x')]);
  await bad([put('ä', 'x')]);
  await bad([put('a', '1'), put('a', '2')]);
  await bad([{ type: 'put', key: 'a', value: new Uint8Array(kvLimits.maxValueBytes + 1) }]);
  await bad(Array.from({ length: kvLimits.maxTransactionItems + 1 }, (_, i) => put(`k${i}`, '')));
  const half = new Uint8Array(kvLimits.maxValueBytes);
  await bad(['a', 'b', 'c'].map((key) => ({ type: 'put', key, value: half })));
  const compare = [{ key: 'a', modRevision: -1 }];
  await rejectsWith(t, store.transact({ compare, operations: [] }), 'INVALID_ARGUMENT');
  await rejectsWith(t, store.grantLease(0), 'INVALID_ARGUMENT');
  await rejectsWith(t, store.grantLease(1.5 * kvLimits.maxLeaseMs), 'INVALID_ARGUMENT');
  await rejectsWith(t, store.get(''), 'INVALID_ARGUMENT');
  t.same(await store.list(''), { revision: before.revision, items: [] }, 'nothing was done');

  await write(store, { type: 'put', key: 'large', value: half });
  t.equal((await store.get('large'))?.value.length, half.length, 'the largest value is taken');
}

async function listing(t: Test, target: ComplianceTarget): Promise<void> {
  const [store, other] = await target.open(t);
  const { revision: start } = await store.list('');
  const keys = ['/b/2', '/a/10', '/a/1', '/a', '/a/2', '/b', '/a0'];
  for (const key of keys) await write(store, put(key, key));
  const all = await other.list('');
  t.same(
    all.items.map((item) => item.key),
    [...keys].sort(),
  );
  t.equal(all.revision, start + keys.length);
  const some = await other.list('/a/');
  t.same(
    some.items.map((item) => [item.key, string(item.value)]),
    ['/a/1', '/a/10', '/a/2'].map((key) => [key, key]),
  );
  t.same((await other.list('/c')).items, []);
  t.same((await store.list('/b/', { local: true })).revision <= start + keys.length, true);
}

async function readsAndRaces(t: Test, target: ComplianceTarget): Promise<void> {
  const stores = await target.open(t);
  for (let i = 0; i < 30; i++) {
    const writer = stores[i % 3] as ClusterStore;
    const revision = await write(writer, put('key', `${i}`));
    const values = await Promise.all(stores.map((store) => store.get('key')));
    t.same(
      values.map((item) => [string(item?.value), item?.modRevision]),
      stores.map(() => [`${i}`, revision]),
      'every member sees the last write',
    );
  }
  const won = await Promise.all(
    Array.from({ length: 12 }, (_, i) =>
      (stores[i % 3] as ClusterStore).transact({
        compare: [{ key: 'race', modRevision: 0 }],
        operations: [put('race', `${i}`)],
      }),
    ),
  );
  const winners = won.flatMap(({ succeeded }, i) => (succeeded ? [`${i}`] : []));
  t.equal(winners.length, 1, 'exactly one wins');
  t.equal(string((await stores[0].get('race'))?.value), winners[0]);
}

/** Adds one to a counter with compare-and-set. */
async function increment(store: ClusterStore, key: string): Promise<void> {
  for (;;) {
    const old = await store.get(key);
    const next = Number(string(old?.value) ?? '0') + 1;
    const { succeeded } = await store.transact({
      compare: [{ key, modRevision: old?.modRevision ?? 0 }],
      operations: [put(key, `${next}`)],
    });
    if (succeeded) return;
  }
}

async function watching(t: Test, target: ComplianceTarget): Promise<void> {
  const stores = await target.open(t);
  const abort = new AbortController();
  const total = 45;
  const watches = stores.map((store) =>
    watchUntil(
      store.watch('/count', 0, abort.signal),
      (batch) => string(batch[0]?.value) === `${total}`,
    ),
  );
  await Promise.all(
    stores.map(async (store) => {
      for (let i = 0; i < total / 3; i++) {
        await increment(store, '/counter');
        await write(store, put(`/other/${i}`, ''));
      }
    }),
  );
  const expected = Array.from({ length: total }, (_, i) => `${i + 1}`);
  for (const watch of watches) {
    const events = (await watch).flat();
    t.same(
      events.map((event) => string(event.value)),
      expected,
      'every change once and in order',
    );
  }
  const revision = await write(
    stores[0],
    put('/w/1', 'a'),
    put('/w/2', 'b'),
    put('/count', 'other prefix'),
  );
  await write(stores[1], { type: 'delete', key: '/w/1' });
  const late = await watchUntil(
    stores[2].watch('/w/', revision - 1, abort.signal),
    (batch) => batch[0]?.type === 'delete',
  );
  t.same(
    late.map((batch) =>
      batch.map(({ type, key, value, revision: at }) => [type, key, string(value), at - revision]),
    ),
    [
      [
        ['put', '/w/1', 'a', 0],
        ['put', '/w/2', 'b', 0],
      ],
      [['delete', '/w/1', null, 1]],
    ],
    'a batch is one revision, restricted to the prefix',
  );
  const endless = watchUntil(stores[0].watch('/none', 0, abort.signal), () => false);
  const closed = watchUntil(stores[1].watch('/none', 0, new AbortController().signal), () => false);
  abort.abort();
  t.same(await endless, [], 'an abort ends a watch');
  await stores[1].close();
  t.same(await closed, [], 'and so does close');
}

async function compaction(t: Test, target: ComplianceTarget): Promise<void> {
  const [store] = await target.open(t);
  const start = await write(store, put('first', ''));
  const { signal } = new AbortController();
  const slow = store.watch('', start - 1, signal)[Symbol.asyncIterator]();
  t.equal((await slow.next()).done, false);
  const size = target.maxTransactionItems ?? kvLimits.maxTransactionItems;
  const many = Array.from({ length: size }, (_, i) => put(`k${i}`, ''));
  if (target.forget) {
    const written = [await write(store, ...many), await write(store, ...many)];
    await target.forget();
    const told = [(await slow.next()).value, (await slow.next()).value] as WatchEvent[][];
    t.same(
      told.map((batch) => [batch[0]?.revision, batch.length]),
      written.map((revision) => [revision, size]),
      'a watch that was open goes on without a gap',
    );
    await slow.return?.();
  } else {
    for (let written = 0; written <= kvLimits.maxHistoryChanges + size; written += size) {
      await write(store, ...many);
    }
    await rejectsWith(t, slow.next(), 'FAILED_PRECONDITION');
  }
  const again = store.watch('', start, signal)[Symbol.asyncIterator]();
  await rejectsWith(t, again.next(), 'FAILED_PRECONDITION');
  const { revision, items } = await store.list('');
  t.equal(items.length, size + 1);
  const kept = store.watch('', revision - 1, signal)[Symbol.asyncIterator]();
  const last = (await kept.next()).value as WatchEvent[];
  t.equal(last[0]?.revision, revision, 'later changes are kept');
  await kept.return?.();
}

async function leases(t: Test, target: ComplianceTarget): Promise<void> {
  const stores = await target.open(t);
  const [one, two, three] = stores;
  const ttlMs = 600;
  const { signal } = new AbortController();
  await rejectsWith(t, write(one, put('x', '', 'nolease')), 'NOT_FOUND');
  await rejectsWith(t, one.renewLease('nolease'), 'NOT_FOUND');
  await one.revokeLease('nolease');

  const kept = await one.grantLease(ttlMs);
  const ended = await two.grantLease(ttlMs);
  t.not(kept.leaseId, ended.leaseId);
  await write(one, put('/kept', '1', kept.leaseId), put('/moved', '1', ended.leaseId));
  const revision = await write(
    two,
    put('/ended/b', '1', ended.leaseId),
    put('/ended/a', '1', ended.leaseId),
    put('/moved', '2'),
  );
  t.equal((await three.get('/kept'))?.leaseId, kept.leaseId);

  // the renewals come from all members, until another lease of the same length has ended twice
  let renewing = true;
  const renewals = (async () => {
    for (let i = 0; renewing; i++) {
      await (stores[i % 3] as ClusterStore).renewLease(kept.leaseId);
      await pause(10);
    }
  })();
  const gone = await watchUntil(three.watch('/ended/', revision, signal), () => true);
  t.same(
    gone.map((batch) => batch.map(({ type, key, leaseId }) => [type, key, leaseId])),
    [['/ended/a', '/ended/b'].map((key) => ['delete', key, ended.leaseId])],
    'the keys of an ended lease go in one revision',
  );
  t.equal(string((await one.get('/moved'))?.value), '2', 'a key put again without it stays');
  await rejectsWith(t, one.renewLease(ended.leaseId), 'NOT_FOUND');
  await rejectsWith(t, write(one, put('x', '', ended.leaseId)), 'NOT_FOUND');

  const second = await two.grantLease(ttlMs);
  const at = await write(two, put('/second', '1', second.leaseId));
  await watchUntil(one.watch('/second', at, signal), () => true);
  renewing = false;
  await renewals;
  t.equal(string((await three.get('/kept'))?.value), '1', 'a renewed lease lives on');

  await three.revokeLease(kept.leaseId);
  t.equal(await one.get('/kept'), null, 'a revoked lease takes its keys along');
  await rejectsWith(t, two.renewLease(kept.leaseId), 'NOT_FOUND');
}

async function lifecycle(t: Test, target: ComplianceTarget): Promise<void> {
  const stores = await target.open(t);
  const leader = stores.find((store) => store.status().isLeader);
  t.ok(leader, 'one member leads');
  t.equal(stores.filter((store) => store.status().isLeader).length, 1);
  const aborted = AbortSignal.abort();
  await rejectsWith(t, stores[0].get('a', { signal: aborted }), 'ABORTED');
  const operations = [put('a', '1')];
  await rejectsWith(
    t,
    stores[0].transact({ compare: [], operations }, { signal: aborted }),
    'ABORTED',
  );
  t.equal(await stores[1].get('a'), null);

  const others = stores.filter((store) => store !== leader);
  const roles: [string, boolean][] = [];
  leader?.onLeadership((isLeader) => roles.push(['old', isLeader]));
  const elected = Promise.race(
    others.map((store) => new Promise((resolve) => store.onLeadership(resolve))),
  );
  await leader?.close();
  await leader?.close();
  t.equal(await elected, true, 'another member leads');
  t.same(roles, [['old', false]]);
  await rejectsWith(t, (leader as ClusterStore).get('a'), 'UNAVAILABLE');
  const [first, second] = others as [ClusterStore, ClusterStore];
  await write(first, put('b', '1'));
  t.equal(string((await second.get('b'))?.value), '1', 'two of three go on');
}
