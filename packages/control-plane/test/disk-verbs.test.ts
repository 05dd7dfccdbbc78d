import { StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import { Rig, type RigNode } from './control-plane-rig.ts';

const gib = 2 ** 30;

async function openRig(t: Test, nodes: number): Promise<Rig> {
  const rig = await Rig.open(nodes);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  return rig;
}

const diskOf = (node: RigNode): string => node.agent.diskList[0]?.diskId ?? '';
const create = { name: 'db', sizeBytes: gib, replicas: 2, labels: {} };

async function said(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'done';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

const nodesOf = (volume: Volume): string[] => volume.status.replicas.map((r) => r.node).sort();

t.test('a disk is evacuated, taken out, and given back', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  // the third node's disk comes into play only when it must
  await client.evacuateDisk({ disk: diskOf(rig.node(2)) });
  await client.createVolume(create);
  t.same(nodesOf(await client.getVolume({ name: 'db' })), ['n1', 'n2']);
  const id = diskOf(rig.node(0));
  t.match(
    await said(client.evacuateDisk({ disk: id })),
    /^NO_SPACE: disk n1:.* 1 of 1 replicas can go nowhere; that of volume db: n1 .*; n3 has only disk .* which is being evacuated.*--plan/,
  );
  const blocked = await client.evacuateDisk({ disk: id, plan: true });
  t.match(blocked, { moves: [], blocked: [{ volume: 'db' }], disk: { spec: { evacuate: false } } });
  t.match(
    await said(client.removeDisk({ disk: id })),
    /has replicas of db: run "storctl disk evacuate/,
  );

  await client.evacuateDisk({ disk: diskOf(rig.node(2)), cancel: true });
  const plan = await client.evacuateDisk({ disk: 'n1:/disks/d-0000000000000001', plan: true });
  t.match(plan, { moves: [{ volume: 'db', toNode: 'n3' }], blocked: [] });
  await client.evacuateDisk({ disk: id });
  t.match(await client.inspectDisk({ disk: id }), {
    disk: { spec: { evacuate: true } },
    next: [/because it is being evacuated/],
  });
  const isEmpty = async (): Promise<boolean> =>
    (await client.inspectDisk({ disk: id })).replicas.length === 0;
  await rig.until(isEmpty);
  const moved = await client.getVolume({ name: 'db' });
  t.same(nodesOf(moved), ['n2', 'n3']);
  t.equal(moved.status.health, 'healthy');
  await rig.until(async () => (await said(client.removeDisk({ disk: id }))) === 'done');
  t.same(rig.node(0).agent.diskList, []);
  t.same((await client.listDisks({})).disks.map(({ metadata }) => metadata.id).sort(), [
    diskOf(rig.node(1)),
    diskOf(rig.node(2)),
  ]);
  t.match(await said(client.inspectDisk({ disk: id })), /^NOT_FOUND/);
  // the reports of the node go on, and do not bring it back
  for (let i = 0; i < 3_000; i++) await rig.turn();
  t.equal((await client.listDisks({})).disks.length, 2);
  t.match(
    await said(client.createVolume({ ...create, name: 'next', replicas: 3 })),
    /n1 has no disk/,
  );
  await client.addDisk({ node: 'n1', path: '/new', tag: 'ssd', labels: { shelf: '3' } });
  t.match((await client.listDisks({})).disks[0], {
    metadata: { name: 'n1:/new', labels: { shelf: '3' } },
    spec: { tag: 'ssd' },
  });
});

t.test('a disk with errors is left by itself; the last copy stays', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.evacuateDisk({ disk: diskOf(rig.node(2)) });
  await client.createVolume(create);
  const disk = rig.node(0).agent.diskList[0];
  if (!disk) throw new Error('no disk');
  disk.trouble = 'it had errors with a replica';
  const seen = async () => client.inspectDisk({ disk: disk.diskId });
  await rig.until(async () => (await seen()).disk.status.state === 'failing');
  for (let i = 0; i < 1_000; i++) await rig.turn();
  t.match(await seen(), {
    replicas: [{ volume: 'db', state: 'in-sync', leaving: false, otherCopies: 1 }],
    next: [/because it had errors/, /can go nowhere/],
  });
  t.equal((await client.getVolume({ name: 'db' })).status.health, 'healthy', 'it still serves');
  const { next } = await client.explainVolume({ name: 'db' });
  t.match(next.join(), /node n1 moves away from disk .*: it had errors.*no node can take it: /);
  await client.evacuateDisk({ disk: diskOf(rig.node(2)), cancel: true });
  await rig.until(async () => (await seen()).replicas.length === 0);
  t.same(nodesOf(await client.getVolume({ name: 'db' })), ['n2', 'n3']);
});

t.test('a disk that failed for good is replaced at once and taken out as lost', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.evacuateDisk({ disk: diskOf(rig.node(2)) });
  await client.createVolume(create);
  await client.evacuateDisk({ disk: diskOf(rig.node(2)), cancel: true });
  const { control, agent } = rig.node(0);
  const disk = agent.diskList[0];
  if (!disk) throw new Error('no disk');
  const { diskId } = disk;
  t.match(await said(client.removeDisk({ disk: diskId, lost: true })), /has replicas of db/);
  const brokenMs = rig.clock.monotonicMs();
  Object.assign(disk, { state: 'failed', isLost: true, message: 'the journal failed' });
  await rig.during(
    control.reportFailure({ diskId, replicaId: null, reason: 'the journal failed' }),
  );
  await rig.until(async () => {
    const volume = await client.getVolume({ name: 'db' });
    return volume.status.health === 'healthy' && nodesOf(volume).join() === 'n2,n3';
  });
  t.ok(rig.clock.monotonicMs() - brokenMs < 60_000, 'the replacement wait is ten minutes');
  t.match(await said(client.removeDisk({ disk: diskId })), /is failed: give --lost/);
  t.match(await client.inspectDisk({ disk: diskId }), {
    disk: { status: { state: 'failed', message: 'the journal failed' } },
    advice: [/storctl disk rm .* --lost/],
  });
  await client.removeDisk({ disk: diskId, lost: true });
  t.equal((await client.listDisks({})).disks.length, 2);
  await client.deleteVolume({ name: 'db', keepMs: 0 });
  await rig.until(
    async () => (await rig.cluster.store(rig.node(1).id).list('/stor/deleted/')).items.length === 0,
  );
});

t.test('what is in the trash lies on disks too', async (t) => {
  const rig = await openRig(t, 3);
  const client = rig.client();
  await client.createVolume({ ...create, replicas: 1 });
  const [replica] = (await client.getVolume({ name: 'db' })).status.replicas;
  const disk = replica?.diskId ?? '';
  await client.deleteVolume({ name: 'db' });
  t.match(await client.inspectDisk({ disk }), {
    disk: { status: { replicas: 1, provisionedBytes: gib } },
    replicas: [{ volume: 'db', state: 'in-trash' }],
  });
  t.match(
    await said(client.evacuateDisk({ disk })),
    /^NO_SPACE: .*volume db: it is of volume db in the trash.*storctl trash empty db/,
  );
  t.match(
    await said(client.removeDisk({ disk })),
    /^FAILED_PRECONDITION: .*a replica of volume db in the trash.*"storctl trash empty db".*"storctl volume undelete db"/,
    'both ways out are named',
  );
  await client.emptyTrash({ name: '' });
  await rig.until(async () => (await said(client.removeDisk({ disk }))) === 'done');
});

t.test('pools and limits', async (t) => {
  const rig = await openRig(t, 2);
  const client = rig.client();
  await client.addDisk({ node: 'n1', path: '/fast', tag: 'ssd' });
  t.match(await client.listPools({}), {
    pools: [
      { tag: 'any', disks: { total: 2, online: 2 }, nodes: 2, capacityBytes: 200 * gib },
      { tag: 'ssd', disks: { total: 1, online: 1 }, provisionLimitBytes: 1_000 * gib },
    ],
    settings: { overprovisionPercent: 1_000, repairReservePercent: 10 },
  });
  t.match(
    await said(client.createVolume({ ...create, diskTag: 'ssd' })),
    /1 node qualifies: n2 has no disk with tag ssd/,
  );
  await client.setPool({ overprovisionPercent: 300 });
  t.match(await client.listPools({}), {
    settings: { overprovisionPercent: 300, repairReservePercent: 10 },
  });
  t.match(
    await said(
      client.createVolume({ ...create, sizeBytes: 301 * gib, replicas: 1, diskTag: 'ssd' }),
    ),
    /^NO_SPACE: .*301GiB would be promised on \/fast, and 300GiB may be \(300% of its 100GiB\).*pool set/,
  );
  await client.createVolume({ ...create, sizeBytes: 299 * gib, replicas: 1, diskTag: 'ssd' });
  t.match(
    await said(
      client.createVolume({
        ...create,
        name: 'b',
        sizeBytes: 2 * gib,
        replicas: 1,
        diskTag: 'ssd',
      }),
    ),
    /^NO_SPACE/,
  );
  const [, ssd] = (await client.listPools({})).pools;
  t.match(ssd, { provisionedBytes: 299 * gib, outlook: [/199GiB more are promised/] });
  t.match(
    await said(client.setPool({ overprovisionPercent: 99 })),
    /^INVALID_ARGUMENT: .*from 100%/,
  );
  t.match(await said(client.setPool({ repairReservePercent: 51 })), /^INVALID_ARGUMENT/);
  const disk = rig.node(0).agent.diskList[1];
  if (!disk) throw new Error('no disk');
  disk.freeBytes = 10 * gib;
  await rig.until(async () => (await client.listPools({})).pools[1]?.space === 'nearly-full');
  disk.freeBytes = gib;
  await rig.until(async () => (await client.listPools({})).pools[1]?.space === 'full');
  t.match((await client.inspectDisk({ disk: '/fast' })).next, [
    /it takes no more|new volumes are placed elsewhere/,
    /ENOSPC/,
  ]);
});
