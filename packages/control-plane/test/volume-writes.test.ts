import { SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import type { Test } from 'tap';
import { writeVolumes } from '../src/agent/volume-writes.ts';
import type { VolumeWrite } from '../src/agent/volume-writes.ts';
import type { Transaction } from '../src/cluster-store.ts';
import { checkEtcdTransaction } from '../src/core/etcd/etcd-values.ts';
import { FreezableStore } from '../src/store-move/index.ts';
import { Controllers } from '../src/core/controllers/controllers.ts';
import { volumeKey } from '../src/resources/keys.ts';
import { decodeVolume, encodeRecord } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { MemoryClusterStore } from '../src/testing/index.ts';
import { planAt } from './plan-at.ts';
import { clusterOf, put, volumeOn } from './volume-fixture.ts';

async function storeOf(t: Test, volumes: StoredVolume[]) {
  const store = MemoryClusterStore.open({ random: new SeededRandom(1) });
  t.teardown(() => store.close());
  const read = async (name: string): Promise<StoredVolume> => {
    const key = volumeKey(`v-${name}`);
    const item = await store.get(key);
    return decodeVolume(key, item?.value ?? new Uint8Array());
  };
  for (const volume of volumes) {
    const key = volumeKey(volume.metadata.id);
    const operations = [{ type: 'put' as const, key, value: encodeRecord(volume) }];
    await store.transact({ compare: [], operations });
  }
  const write = async (record: StoredVolume, what: (at: StoredVolume) => StoredVolume) => {
    const item = await store.get(volumeKey(record.metadata.id));
    const volume = { value: record, modRevision: item?.modRevision ?? 0 };
    return { volume, record: what(record), forgotten: [], written: () => {} } satisfies VolumeWrite;
  };
  return { store, read, write };
}

const says =
  (message: string) =>
  (volume: StoredVolume): StoredVolume => ({
    ...volume,
    status: { ...volume.status, message },
  });

t.test('a look that plans two changes of a volume keeps no other from being written', async (t) => {
  // the node is decommissioned, the volume is wanted there and held by nobody
  const state = clusterOf({ a: {}, b: {}, c: {}, d: {} });
  const node = state.nodes.get('a');
  if (!node) throw new Error('no node');
  const spec = { decommission: { sinceMs: 1 } };
  state.nodes.set('a', { value: { ...node.value, spec }, modRevision: 2 });
  const wanted = volumeOn(['a', 'b', 'c'], { name: 'wanted' });
  const volume = { ...wanted, spec: { ...wanted.spec, attachTo: 'a' } };
  put(state, volume);
  const changes = planAt(new Controllers(), state, 1_000).flatMap((action) =>
    action.type === 'change-replicas' ? [action] : [],
  );
  t.equal(changes.length, 2, 'a replica is placed, and it is wanted on another node');

  const other = volumeOn(['b', 'c'], { name: 'other' });
  const { store, read, write } = await storeOf(t, [volume, other]);
  const both = await Promise.all(changes.map(({ change }) => write(volume, () => change.record)));
  await writeVolumes(store, [...both, await write(other, says('changed'))]);
  t.equal((await read('other')).status.message, 'changed');
  t.same(await read('wanted'), changes[0]?.change.record, 'the first one, and it alone');
});

t.test('what is wrong with one write keeps no other from being written', async (t) => {
  const volumes = ['v0', 'v1', 'v2'].map((name) => volumeOn(['a'], { name }));
  const { store, read, write } = await storeOf(t, volumes);
  const texts = ['one', 'x'.repeat(2 ** 21), 'three'];
  const writes = await Promise.all(
    volumes.map((volume, at) => write(volume, says(texts[at] ?? ''))),
  );
  await t.rejects(writeVolumes(store, writes), { code: 'INVALID_ARGUMENT' });
  t.equal((await read('v0')).status.message, 'one');
  t.equal((await read('v1')).status.message, '');
  t.equal((await read('v2')).status.message, 'three');
});

t.test(
  'many records are written as etcd takes them, also behind the guard of a move',
  async (t) => {
    const volumes = Array.from({ length: 300 }, (_, i) => volumeOn(['a'], { name: `v${i}` }));
    const { store, read, write } = await storeOf(t, volumes);
    const sizes: number[] = [];
    const limited = new Proxy(store, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        if (name !== 'transact') return value.bind(target) as unknown;
        return (transaction: Transaction) => {
          checkEtcdTransaction(transaction, '');
          sizes.push(transaction.operations.length);
          return store.transact(transaction);
        };
      },
    });
    const writes = await Promise.all(volumes.map((volume) => write(volume, says('new'))));
    await writeVolumes(new FreezableStore(limited), writes);
    t.same(sizes, [100, 100, 100]);
    t.equal((await read('v299')).status.message, 'new');
  },
);

t.test('one that has changed meanwhile is left out', async (t) => {
  const volumes = ['v0', 'v1'].map((name) => volumeOn(['a'], { name }));
  const { store, read, write } = await storeOf(t, volumes);
  const writes = await Promise.all(volumes.map((volume) => write(volume, says('late'))));
  const [first] = volumes;
  if (!first) throw new Error('no volume');
  await writeVolumes(store, [await write(first, says('early'))]);
  await writeVolumes(store, writes);
  t.equal((await read('v0')).status.message, 'early');
  t.equal((await read('v1')).status.message, 'late');
});
