import t from 'tap';
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
  await client.deleteVolume({ name: 'big' });
  // little more than before, but it decides whether there is room
  await settled(async () => (await seen()) === 65 * 2 ** 20);
  await client.createVolume({ ...request, name: 'next' });
  t.equal(rig.clock.monotonicMs(), before, 'no time has passed');

  // a store that counts its free space only now and then says it a little later
  freed.freeBytes = 60 * 2 ** 20;
  await settled(async () => (await seen()) === 60 * 2 ** 20);
  await client.deleteVolume({ name: 'next' });
  await settled(async () => agent.replicaList.size === 0);
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  disk.freeBytes = 50 * gib;
  rig.clock.advance(2_000);
  await settled(async () => (await seen()) === 50 * gib);
  t.equal(rig.clock.monotonicMs(), before + 2_000);
});

t.test('looks of one node do not undo each other', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const client = rig.client();
  const { agent, control } = rig.node(0);
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  const failure = { diskId: disk.diskId, replicaId: null, reason: 'x' };
  // each is reported before the member has seen the one before
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      disk.freeBytes = (i + 1) * gib;
      await control.reportFailure(failure);
    }),
  );
  const [seen] = (await client.listDisks({})).disks;
  t.match(seen?.status, { state: 'online', freeBytes: 20 * gib });
});
