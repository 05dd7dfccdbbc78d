import { silentLogger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { DiskReporter } from '../src/agent/disk-reporter.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import { diskKey } from '../src/resources/keys.ts';
import { decodeDisk, encodeRecord } from '../src/resources/records.ts';
import type { StateCache } from '../src/resources/state-cache.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import { Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;
const request = { name: 'big', sizeBytes: gib, replicas: 1, labels: {} };

/** Waits for what needs no time to pass. */
async function settled(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 1_000; i++) {
    if (await condition()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error('the condition did not come true');
}

t.test('what a replica takes and frees is reported at once', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const client = rig.client();
  await client.setPool({ repairReservePercent: 0 });
  const { agent } = rig.node(0);
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  const seen = async (): Promise<number> =>
    (await client.listDisks({})).disks[0]?.status.freeBytes ?? -1;
  const create = agent.createReplica.bind(agent);
  agent.createReplica = async (...args) => {
    await create(...args);
    disk.freeBytes = 60 * 2 ** 20;
  };
  const remove = agent.deleteReplica.bind(agent);
  const freed = { freeBytes: 65 * 2 ** 20 };
  agent.deleteReplica = async (...args) => {
    await remove(...args);
    Object.assign(disk, freed);
  };
  const before = rig.clock.monotonicMs();
  await client.createVolume(request);
  await settled(async () => (await seen()) === 60 * 2 ** 20);
  await t.rejects(client.createVolume({ ...request, name: 'next' }), { code: 'NO_SPACE' });
  await client.deleteVolume({ name: 'big', keepMs: 0 });
  // little more than before, but it decides whether there is room
  await settled(async () => (await seen()) === 65 * 2 ** 20);
  await client.createVolume({ ...request, name: 'next' });
  t.equal(rig.clock.monotonicMs(), before, 'no time has passed');

  // a store that counts its free space only now and then says it a little later
  freed.freeBytes = 60 * 2 ** 20;
  await settled(async () => (await seen()) === 60 * 2 ** 20);
  await client.deleteVolume({ name: 'next', keepMs: 0 });
  await settled(async () => agent.replicaList.size === 0);
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  disk.freeBytes = 50 * gib;
  rig.clock.advance(2_000);
  await settled(async () => (await seen()) === 50 * gib);
  t.equal(rig.clock.monotonicMs(), before + 2_000);
});

t.test('a creation right after a deletion waits for the room that it gives back', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const client = rig.client();
  await client.setPool({ repairReservePercent: 0 });
  const { agent } = rig.node(0);
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  await client.createVolume(request);
  disk.freeBytes = 2 ** 20;
  await rig.until(async () => (await client.listDisks({})).disks[0]?.status.freeBytes === 2 ** 20);
  await t.rejects(client.createVolume({ ...request, name: 'more' }), { code: 'NO_SPACE' });
  await client.deleteVolume({ name: 'big', keepMs: 0 });
  const creating = client.createVolume(request);
  await settled(async () => agent.replicaList.size === 0);
  rig.clock.after(1_000, () => {
    disk.freeBytes = gib;
  });
  t.match(await rig.during(creating), { metadata: { name: 'big' }, status: { health: 'healthy' } });
  disk.freeBytes = 2 ** 20;
  await rig.until(async () => (await client.listDisks({})).disks[0]?.status.freeBytes === 2 ** 20);
  await client.deleteVolume({ name: 'big', keepMs: 0 });
  await t.rejects(rig.during(client.createVolume(request)), { code: 'NO_SPACE' }, 'none came');
});

t.test('a look does not depend on having seen the write of the one before', async (t) => {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['n-1'], clock, random: new SeededRandom(1) });
  t.teardown(() => cluster.close());
  const store = cluster.store('n-1');
  const agent = FakeAgent.withDisk('d-1');
  const reporter = new DiskReporter({
    store,
    // this member sees none of its writes
    cache: { state: emptyState() } as unknown as StateCache,
    agent,
    nodeId: 'n-1',
    clock,
    logger: silentLogger,
  });
  const recorded = async () => {
    const item = await store.get(diskKey('d-1'));
    return item && decodeDisk(item.key, item.value);
  };
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  await reporter.report();
  const createdAtMs = (await recorded())?.createdAtMs;
  clock.advance(1_000);
  disk.freeBytes = 1;
  await Promise.all([reporter.report(), reporter.report()]);
  t.match(await recorded(), { freeBytes: 1, createdAtMs });
  const other = { ...(await recorded()), nodeId: 'n-2', freeBytes: 5 };
  const put = { type: 'put' as const, key: diskKey('d-1'), value: encodeRecord(other) };
  await store.transact({ compare: [], operations: [put] });
  await reporter.report();
  t.match(await recorded(), { nodeId: 'n-2', freeBytes: 5 }, 'the disk of another node');
});
