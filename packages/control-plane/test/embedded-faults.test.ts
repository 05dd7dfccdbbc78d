import path from 'node:path';
import { RpcEndpoint, hasCode } from '@stor/protocol';
import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import t from 'tap';
import type { ClusterStore, Operation, TransactionResult } from '../src/cluster-store.ts';
import { encodeCommand } from '../src/core/kv/kv-command.ts';
import { decodeResult } from '../src/core/kv/kv-result.ts';
import { EmbeddedClusterStore } from '../src/embedded/index.ts';
import { grpcTransport } from '../src/rpc/grpc-transport.ts';
import { callMetadata, raftServiceDefinition } from '../src/embedded/raft-rpc.ts';
import { EmbeddedCluster, clusterId, until } from './embedded-cluster.ts';

const metadataOf = (cluster: string, id: string, to: string): Record<string, string> =>
  callMetadata({ clusterId: cluster, storeId: '', id, address: '' }, to);

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const put = (key: string, value: string, leaseId = ''): Operation => {
  return { type: 'put', key, value: text(value), leaseId };
};
const write = (
  store: ClusterStore,
  operations: Operation[],
  timeoutMs = 15_000,
): Promise<TransactionResult> => store.transact({ compare: [], operations }, { timeoutMs });

async function valueOf(store: ClusterStore, key: string): Promise<string | null> {
  const item = await store.get(key, { timeoutMs: 15_000 });
  return item && new TextDecoder().decode(item.value);
}

t.test('any one member dead', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  for (const id of [cluster.followerIds()[0] as string, cluster.leaderId()]) {
    await cluster.stop(id);
    // at once: the first call finds the dead member still named as leader
    for (const store of cluster.stores()) {
      const { succeeded } = await write(store, [put(`without ${id}`, 'x')]);
      t.ok(succeeded, `a write without ${id}`);
    }
    for (const store of cluster.stores()) t.equal(await valueOf(store, `without ${id}`), 'x');
    await cluster.start(id);
    t.equal(await valueOf(cluster.store(id), `without ${id}`), 'x', `${id} is back`);
    await cluster.ready();
  }
});

t.test('no quorum: calls fail in time, and go on when it is back', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  const store = cluster.store(cluster.leaderId());
  const seen: boolean[] = [];
  store.onLeadership((isLeader) => seen.push(isLeader));
  const { revision } = await write(store, [put('a', '1')]);
  const down = cluster.followerIds();
  await Promise.all(down.map((id) => cluster.stop(id)));

  // still leader for a moment: what it took may or may not be done later
  const unsure: unknown = await write(store, [put('a', '2')], 200).catch((e: unknown) => e);
  t.ok(hasCode(unsure, 'OUTCOME_UNKNOWN', 'UNAVAILABLE'), String(unsure));
  await until(() => store.status().leaderId === null);
  t.same(seen, [false], 'a leader without a quorum steps down');
  await t.rejects(write(store, [put('b', '1')], 100), { code: 'UNAVAILABLE' });
  await t.rejects(store.get('a', { timeoutMs: 100 }), { code: 'UNAVAILABLE' });
  await t.rejects(store.grantLease(1_000, { timeoutMs: 100 }), { code: 'UNAVAILABLE' });
  await t.rejects(store.renewLease('none', { timeoutMs: 100 }), { code: 'UNAVAILABLE' });
  t.match(await store.get('a', { local: true }), { modRevision: revision });

  const waiting = write(store, [put('c', '1')]);
  for (const id of down) await cluster.start(id);
  t.ok((await waiting).succeeded, 'a call that waited goes through');
  t.equal(await valueOf(store, 'b'), null, 'UNAVAILABLE means that nothing happened');
  t.ok(['1', '2'].includes((await valueOf(store, 'a')) ?? ''));
});

t.test('all members restart: everything is there, leases run on', async (t) => {
  const cluster = await EmbeddedCluster.open(t, { snapshotEntries: 20 });
  const store = cluster.store('n1');
  const { leaseId } = await store.grantLease(400);
  await write(store, [put('/leased', 'x', leaseId)]);
  for (let i = 0; i < 50; i++) await write(store, [put(`k${i}`, `${i}`)]);
  const before = await store.list('k');
  await cluster.close();
  for (const { id } of cluster.members) await cluster.start(id);
  await cluster.ready();
  const after = await cluster.store('n2').list('k');
  t.same(after.items, before.items);
  await until(async () => (await valueOf(cluster.store('n3'), '/leased')) === null);
  await t.rejects(cluster.store('n1').renewLease(leaseId), { code: 'NOT_FOUND' });
});

t.test('a member far behind gets a snapshot, in pieces', async (t) => {
  const cluster = await EmbeddedCluster.open(t, { snapshotEntries: 20 });
  const [late] = cluster.followerIds() as [string];
  const early = cluster.store('n1');
  const { revision } = await write(early, [put('first', '')]);
  await cluster.stop(late);
  const store = cluster.store(cluster.followerIds()[0] as string);
  const value = new Uint8Array(700 * 1024).fill(7);
  for (let i = 0; i < 40; i++) {
    await write(store, [i % 10 === 0 ? { type: 'put', key: `k${i}`, value } : put(`k${i}`, '')]);
  }
  await cluster.start(late);
  const expected = await store.list('');
  const caughtUp = cluster.store(late);
  t.same(await caughtUp.list(''), expected);
  const watch = caughtUp.watch('', revision, new AbortController().signal);
  await t.rejects(watch[Symbol.asyncIterator]().next(), { code: 'FAILED_PRECONDITION' });
  const next = caughtUp.watch('', expected.revision, new AbortController().signal);
  await write(store, [put('last', '')]);
  for await (const [event] of next) {
    t.match(event, { key: 'last', revision: expected.revision + 1 });
    break;
  }
});

t.test('a lease that is renewed outlives its leader', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  const ttlMs = 1_500;
  const [holderId, witnessId] = cluster.followerIds() as [string, string];
  const holder = cluster.store(holderId);
  const witness = cluster.store(witnessId);
  const kept = await holder.grantLease(ttlMs);
  const lost = await holder.grantLease(ttlMs);
  const { revision } = await write(holder, [
    put('/kept', '', kept.leaseId),
    put('/lost', '', lost.leaseId),
  ]);
  const oldTerm = holder.status().term;
  await cluster.stop(cluster.leaderId());
  let ended = false;
  const renewals = (async () => {
    while (!ended) await holder.renewLease(kept.leaseId, { timeoutMs: 15_000 });
  })();
  for await (const events of witness.watch('/', revision, new AbortController().signal)) {
    t.same(
      events.map(({ type, key }) => [type, key]),
      [['delete', '/lost']],
    );
    break;
  }
  ended = true;
  await renewals;
  t.ok(witness.status().term > oldTerm);
  t.not(await valueOf(witness, '/kept'), null);
});

t.test('a request that is sent again is done once', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  const leader = cluster.members.find(({ id }) => id === cluster.leaderId());
  const endpoint = new RpcEndpoint(leader?.address ?? '', raftServiceDefinition);
  t.teardown(() => {
    endpoint.close();
  });
  const request = encodeCommand({
    type: 'transact',
    request: { id: 'same', since: 0 },
    transaction: { compare: [], operations: [put('a', '1')] },
  });
  const from = cluster.followerIds()[0] as string;
  const metadata = metadataOf(clusterId, from, leader?.id ?? '');
  const send = async (
    method: string,
    bytes: Uint8Array,
    as: Record<string, string> = metadata,
  ): Promise<Uint8Array> => {
    const outcome = await endpoint.call({
      method,
      request: bytes,
      timeoutMs: 5_000,
      connectTimeoutMs: 5_000,
      metadata: as,
    });
    if (outcome.type === 'refused') throw outcome.error;
    if (outcome.type !== 'answered') throw new Error(outcome.type);
    return outcome.response as Uint8Array;
  };
  const together = await Promise.all([send('Execute', request), send('Execute', request)]);
  const results = [...together, await send('Execute', request)].map(decodeResult);
  t.same(results, Array(3).fill({ status: 'done', succeeded: true, revision: 1 }));
  t.equal(leader?.store?.status().revision, 1);

  const refused = { code: 'PERMISSION_DENIED' };
  const { id } = leader as { id: string };
  await t.rejects(send('ReadIndex', request, metadataOf('c-other', from, id)), refused);
  await t.rejects(send('ReadIndex', request, metadataOf(clusterId, from, 'n9')), refused);
  await t.rejects(send('ReadIndex', request, metadataOf(clusterId, 'n9', id)), refused);
  await t.rejects(send('ReadIndex', request, {}), refused);
  const anew = { clusterId, storeId: 's2', id: from, address: '' };
  await t.rejects(send('ReadIndex', request, callMetadata(anew, id)), refused);
  await t.rejects(send('Execute', new Uint8Array([1, 2, 3])), { code: 'PROTOCOL' });
  t.ok(cluster.store(id).status().isLeader, 'garbage does no harm');
});

t.test('folders and members are checked', async (t) => {
  const cluster = await EmbeddedCluster.open(t, {}, 1);
  const [member] = cluster.members;
  const options = {
    clusterId,
    id: 'n1',
    members: [{ id: 'n1', address: member?.address ?? '' }],
    dataPath: cluster.folderOf('n1'),
    server: await grpcTransport().createServer(),
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
  };
  t.ok((await write(cluster.store('n1'), [put('a', '1')])).succeeded, 'a single member works');
  await t.rejects(EmbeddedClusterStore.open(options), { code: 'IN_USE' });
  const foreign = { code: 'FOREIGN_DATA' };
  await t.rejects(EmbeddedClusterStore.open({ ...options, clusterId: 'c-other' }), foreign);
  const other = { ...options, id: 'n2', members: [{ id: 'n2', address: '127.0.0.1:1' }] };
  await t.rejects(EmbeddedClusterStore.open(other), foreign);
  const invalid = { code: 'INVALID_ARGUMENT' };
  await t.rejects(EmbeddedClusterStore.open({ ...options, id: 'n2' }), invalid);
  const twice = [...options.members, ...options.members];
  await t.rejects(EmbeddedClusterStore.open({ ...options, members: twice }), invalid);
  const inFile = path.join(cluster.folderOf('n1'), 'identity.json', 'folder');
  await t.rejects(EmbeddedClusterStore.open({ ...options, dataPath: inFile }), {
    code: 'DISK_FAILED',
  });
  await cluster.stop('n1');
  await cluster.start('n1');
  t.equal(await valueOf(cluster.store('n1'), 'a'), '1');
  t.ok(
    cluster
      .store('n1')
      .commitLatency()
      .counts.every((count) => count === 0),
  );
  await write(cluster.store('n1'), [put('b', '1')]);
  const { counts, bounds } = cluster.store('n1').commitLatency();
  t.equal(
    counts.reduce((sum, count) => sum + count, 0),
    1,
  );
  t.equal(counts.length, bounds.length + 1);
});
