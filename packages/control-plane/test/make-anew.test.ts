import path from 'node:path';
import { hasCode } from '@stor/protocol';
import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import t from 'tap';
import { decodeBackup, encodeBackup } from '../src/embedded/backup-file.ts';
import { freezeKey } from '../src/core/store-move/move-records.ts';
import { isBackedUp, isKept, raisedEpoch, raisedItems } from '../src/core/members/raise-epochs.ts';
import { EmbeddedClusterStore, makeStoreAnew, readMemberState } from '../src/embedded/index.ts';
import { grpcTransport } from '../src/rpc/grpc-transport.ts';
import { EmbeddedCluster, clusterId, tickMs } from './embedded-cluster.ts';

const text = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const json = (value: Uint8Array | undefined): unknown =>
  JSON.parse(new TextDecoder().decode(value ?? new Uint8Array()));

const nowMs = Date.UTC(2026, 0, 1);
const attachment = { nodeId: 'n1', epoch: 7 };
const publications = [{ id: 'u-1', nodeId: 'n1' }];
const status = { epoch: 7, attachment, publications, cleanRelease: true };
const volume = { metadata: { id: 'v' }, status };

t.test('a survivor goes on alone, and no member of the old store is heard', async (t) => {
  const cluster = await EmbeddedCluster.open(t);
  const store = cluster.store(cluster.leaderId());
  const { leaseId } = await store.grantLease(60_000);
  const put = (key: string, value: unknown, lease = '') => {
    return { type: 'put' as const, key, value: text(value), leaseId: lease };
  };
  const operations = [
    put('/stor/volumes/v', volume),
    put('/stor/settings', { voters: 3 }),
    put('/stor/members/n9', {}),
    put('/stor/tokens/1', {}),
    put('/stor/node-leases/n1', {}, leaseId),
  ];
  await store.transact({ compare: [], operations });
  const { revision } = store.status();
  for (const id of ['n2', 'n3']) await cluster.stop(id);
  await cluster.stop('n1');

  const from = await readMemberState(cluster.folderOf('n1'));
  t.ok(from.revision >= 1 && from.revision <= revision);
  const dataPath = path.join(t.testdir(), 'raft');
  await t.rejects(readMemberState(dataPath), { code: 'NOT_FOUND' });
  const identity = { clusterId, id: 'n1', storeId: 's2' };
  await makeStoreAnew({ dataPath, identity, from, nowMs });
  await cluster.start('n2');
  await cluster.start('n3');
  const server = await grpcTransport().createServer();
  const port = Number(cluster.members[0]?.address.split(':')[1]);
  await server.listen('127.0.0.1', port);
  const anew = await EmbeddedClusterStore.open({
    clusterId,
    id: 'n1',
    members: cluster.members.map(({ id, address }) => ({ id, address })),
    voters: [],
    dataPath,
    server,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
    tickMs,
  });
  t.teardown(async () => {
    server.forceShutdown();
    await anew.close();
  });
  const { items } = await anew.list('', { timeoutMs: 15_000 });
  t.same(
    items.map(({ key }) => key),
    ['/stor/settings', '/stor/volumes/v'],
    'leases, members and tokens stay behind',
  );
  const epoch = raisedEpoch(7, nowMs);
  // a publication that ended since would be one that there is again
  t.same(json(items[1]?.value), {
    metadata: { id: 'v' },
    status: { epoch, attachment: null, cleanRelease: false },
  });
  t.ok(anew.status().revision > revision);
  await anew.transact({ compare: [], operations: [put('/only-here', 1)] });
  t.equal(anew.members.storeId, 's2');
  t.same(anew.members.local(), { voters: ['n1'], learners: [] });
  await cluster.ready();
  t.equal(
    await cluster.store('n2').get('/only-here'),
    null,
    'two stores, and no word between them',
  );

  const other = { clusterId, id: 'n1', storeId: 's3' };
  const again = makeStoreAnew({ dataPath, identity: other, from, nowMs });
  const error: unknown = await again.catch((reason: unknown) => reason);
  t.ok(hasCode(error, 'FOREIGN_DATA'), 'what is there is not overwritten');
});

t.test('epochs are above those of any store before', async (t) => {
  const first = raisedEpoch(7, nowMs);
  t.ok(first > 7);
  t.ok(raisedEpoch(7, nowMs + 1_000) > first, 'also when it is made from the same state again');
  t.ok(raisedEpoch(first + 5, nowMs + 60_000) > first + 5, 'or from one of its own');
  t.ok(raisedEpoch(2 ** 40, nowMs) > 2 ** 40, 'or from one that has outrun the time');
});

t.test('what was in the trash is kept there for its whole time again', async (t) => {
  const trash = { deletedAtMs: 5, keptUntilMs: 1_005, agedMs: 999 };
  const value = text({ ...volume, trash });
  const item = { key: '/stor/trash/v', value, createRevision: 1, modRevision: 1, leaseId: '' };
  const [raised] = raisedItems([item], nowMs);
  t.match(json(raised?.value), { status: { attachment: null }, trash: { ...trash, agedMs: 0 } });
});

t.test('backups', async (t) => {
  const item = {
    key: '/stor/x',
    value: text({ a: 'ä' }),
    createRevision: 1,
    modRevision: 1,
    leaseId: '',
  };
  const head = { clusterId, clusterName: 'test', revision: 12, takenAtMs: nowMs };
  const file = encodeBackup(head, [item]);
  t.same(decodeBackup(file), { head, items: [item] });
  const frozen = { ...item, key: freezeKey };
  t.notOk(isBackedUp(frozen));
  const same = decodeBackup(encodeBackup(head, [item, frozen]));
  t.same(same.items, [item], 'a store that was being left when it was backed up');
  const refused = { code: 'INVALID_ARGUMENT' };
  const lines = file.trim().split('\n');
  t.throws(() => decodeBackup(lines.slice(0, -1).join('\n')), refused, 'cut off');
  t.throws(() => decodeBackup([lines[0], lines[2]].join('\n')), refused, 'a line is missing');
  t.throws(() => decodeBackup(''), refused);
  t.throws(() => decodeBackup('hello'), refused);
  t.throws(() => decodeBackup(file.replace('"version":1', '"version":2')), refused);
  t.notOk(isKept({ key: '/stor/tokens/1', leaseId: '' }));
  t.notOk(isKept({ key: '/stor/nodes/1', leaseId: 'l' }));
});
