import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { hasCode } from '@stor/protocol';
import t from 'tap';
import type { ClusterStore } from '../src/cluster-store.ts';
import { forgottenKey } from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { FreezableStore } from '../src/store-move/index.ts';
import { EmbeddedCluster, until } from './embedded-cluster.ts';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

async function write(store: ClusterStore, key: string, timeoutMs = 15_000): Promise<void> {
  const operations = [{ type: 'put' as const, key, value: text(key) }];
  await store.transact({ compare: [], operations }, { timeoutMs });
}

async function has(store: ClusterStore, key: string): Promise<boolean> {
  return (await store.get(key, { timeoutMs: 15_000 })) !== null;
}

const rolesOf = async (store: ClusterStore): Promise<string> => {
  const members = (await store.members?.read({ timeoutMs: 15_000 })) ?? [];
  return members.map(({ id, role }) => `${id} ${role === 'leader' ? 'voter' : role}`).join(', ');
};

/** One member, and three that have joined it; the first three vote. */
async function formed(t: Parameters<typeof EmbeddedCluster.open>[0]): Promise<EmbeddedCluster> {
  const cluster = await EmbeddedCluster.open(t, {}, 1);
  for (const id of ['n2', 'n3', 'n4']) {
    // told by the newest one, which is told by those before it
    await cluster.join(id, cluster.members.at(-1)?.id ?? '');
    await cluster.record(id);
    await cluster.change({ type: 'addLearner', id });
    await until(() => cluster.store(id).status().leaderId !== null);
  }
  await cluster.change({ type: 'addVoter', id: 'n2' }, { type: 'addVoter', id: 'n3' });
  return cluster;
}

t.test('members join, become voters, and find each other after a restart', async (t) => {
  const cluster = await formed(t);
  for (const store of cluster.stores())
    await write(store, `by ${store.members.addresses().length}`);
  t.equal(await rolesOf(cluster.store('n4')), 'n1 voter, n2 voter, n3 voter, n4 learner');
  const members = await cluster.store('n2').members.read();
  t.ok(members.every(({ address }) => address !== ''));
  const guarded = new FreezableStore(cluster.store('n2'));
  t.equal(guarded.members, cluster.store('n2').members, 'a store that may be moved has them too');
  const addresses = cluster.store('n4').members.addresses();
  t.same(
    addresses,
    cluster.members.map(({ id, address }) => ({ id, address })),
  );

  // the only one that a configuration names is away, and the others know nothing but their folders
  for (const id of ['n1', 'n2', 'n3', 'n4']) await cluster.stop(id);
  for (const id of ['n2', 'n3', 'n4']) await cluster.start(id);
  await cluster.ready();
  await write(cluster.store('n4'), 'without n1');
  await cluster.start('n1');
  t.ok(await has(cluster.store('n1'), 'without n1'));
});

t.test('a member that has lost its addresses is told them by the others', async (t) => {
  const cluster = await formed(t);
  await cluster.stop('n3');
  writeFileSync(path.join(cluster.folderOf('n3'), 'members.json'), 'not json');
  await cluster.start('n3');
  await until(() => cluster.store('n3').status().leaderId !== null);
  await write(cluster.store('n3'), 'by n3');
  const file = readFileSync(path.join(cluster.folderOf('n3'), 'members.json'), 'utf8');
  t.match(JSON.parse(file), { format: 1, members: Array }, 'the file is whole again');
});

t.test('a member that was removed is heard no more', async (t) => {
  const cluster = await formed(t);
  const [gone = ''] = cluster.followerIds().filter((id) => id !== 'n4' && id !== 'n1');
  await cluster.change({ type: 'addVoter', id: 'n4' }, { type: 'addLearner', id: gone });
  await cluster.record(gone, { removedAtMs: 1 });
  await cluster.change({ type: 'remove', id: gone });
  const others = cluster.members.map(({ id }) => id).filter((id) => id !== gone);
  const call = write(cluster.store(gone), 'late', 600);
  const error: unknown = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  t.ok(hasCode(error, 'UNAVAILABLE', 'PERMISSION_DENIED'), String(error));
  for (const id of others) {
    t.notOk(await has(cluster.store(id), 'late'), `nothing came of it on ${id}`);
    t.equal(cluster.store(id).members.local().voters.join(), others.join());
  }
  await cluster.stop(gone);
  await cluster.start(gone);
  await write(cluster.store(others[0] ?? ''), 'after its return');
});

t.test('a member whose node was forgotten meanwhile is told so when it comes back', async (t) => {
  const cluster = await formed(t);
  // a learner calls for no election, so nobody would ever refuse it by itself
  for (const gone of ['n4', cluster.leaderId() === 'n3' ? 'n2' : 'n3']) {
    await cluster.stop(gone);
    const record = { id: gone, name: `name-${gone}`, atMs: 0, how: 'forgotten' };
    await cluster.store(cluster.leaderId()).transact({
      compare: [],
      operations: [{ type: 'put', key: forgottenKey(gone), value: encodeRecord(record) }],
    });
    await cluster.record(gone, { removedAtMs: 1 });
    if (gone !== 'n4') await cluster.change({ type: 'addLearner', id: gone });
    await cluster.change({ type: 'remove', id: gone });
    await cluster.start(gone);
    const told = `node name-${gone} (${gone}) was forgotten at 1970-01-01T00:00:00.000Z: start it with an empty data folder and a token`;
    await until(async () => {
      const call = cluster.store(gone).get('x', { timeoutMs: 400 });
      const error = await call.then(() => null).catch((reason: unknown) => reason as Error);
      return error?.message.includes(told) === true;
    });
    t.equal(await cluster.store(gone).get(forgottenKey(gone), { local: true }), null);
  }
});

t.test('the leader dies while a member joins', async (t) => {
  const cluster = await formed(t);
  await cluster.join('n5', 'n4');
  await cluster.record('n5');
  const leader = cluster.leaderId();
  const added = cluster
    .store(leader)
    .members.change([{ type: 'addVoter', id: 'n5' }], AbortSignal.timeout(10_000));
  added.catch(() => {});
  await cluster.stop(leader);
  await t.rejects(added);
  await until(() => cluster.leaderId() !== '');
  await cluster.change({ type: 'addLearner', id: 'n5' });
  await until(() => cluster.store('n5').status().leaderId !== null);
  await write(cluster.store('n5'), 'by n5');
  await cluster.start(leader);
  t.ok(await has(cluster.store(leader), 'by n5'));
});
