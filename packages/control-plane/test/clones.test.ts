import { StorError } from '@stor/protocol';
import t, { type Test } from 'tap';
import { Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

async function opened(t: Test, nodes = 3) {
  const rig = await Rig.open(nodes);
  t.teardown(() => rig.close());
  const client = rig.client();
  const db = await rig.during(
    client.createVolume({ name: 'db', sizeBytes: gib, replicas: 3, labels: { a: 'b' } }),
  );
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const { id } = db.metadata;
  const { agent } = rig.node(0);
  agent.write(id, 'one');
  await rig.during(client.createSnapshot({ volume: 'db', selector: {}, name: 's', labels: {} }));
  agent.write(id, 'two');
  const clone = (more: {
    snapshot?: string;
    name?: string;
    sizeBytes?: number;
    requestId?: string;
  }) =>
    rig.during(
      client.cloneVolume({
        source: 'db',
        snapshot: 's',
        name: 'copy',
        sizeBytes: 0,
        labels: {},
        ...more,
      }),
    );
  const images = (volumeId: string): string[] =>
    rig.nodes
      .flatMap(({ agent: each }) => [...each.replicaList.values()])
      .filter((replica) => replica.volumeId === volumeId)
      .map(({ image }) => image);
  return { rig, client, id, agent, clone, images, db };
}

t.test('a clone of a snapshot lies beside the replicas of its source', async (t) => {
  const { rig, client, id, clone, images, db } = await opened(t);
  const copy = await clone({});
  t.match(copy, {
    metadata: { name: 'copy', labels: {} },
    spec: { sizeBytes: gib, replicas: 3 },
    status: { health: 'healthy', origin: { volumeId: id, volume: 'db', snapshot: 's' } },
  });
  t.same(images(copy.metadata.id), ['one', 'one', 'one']);
  const disks = (volume: typeof copy): string[] =>
    volume.status.replicas.map(({ diskId }) => diskId).sort();
  t.same(disks(copy), disks(db));
  // the source may be deleted first
  await rig.during(client.detachVolume({ name: 'db' }));
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  t.same(images(copy.metadata.id), ['one', 'one', 'one']);
  t.match((await client.getVolume({ name: 'copy' })).status.origin, { volume: 'db' });
});

t.test('a clone waits for a source that is not confirmed on its disk yet', async (t) => {
  const { rig, id, agent, clone, images } = await opened(t);
  const source = [...rig.node(1).agent.replicaList.values()].find((each) => each.volumeId === id);
  const lose = (): void => {
    for (const snapshot of source?.snapshots.values() ?? []) snapshot.state = 'prepared';
  };
  // the word of the primary has not arrived there
  const create = rig.node(1).agent.createReplica.bind(rig.node(1).agent);
  let tries = 0;
  rig.node(1).agent.createReplica = (diskId, replica) => {
    if (++tries < 4) lose();
    else for (const snapshot of source?.snapshots.values() ?? []) snapshot.state = 'ready';
    return create(diskId, replica);
  };
  const copy = await clone({});
  t.same(images(copy.metadata.id), ['one', 'one', 'one']);
  t.equal(tries, 4);
  // but not for ever
  tries = -1_000_000;
  const sinceMs = rig.clock.monotonicMs();
  t.match(
    await codeOf(clone({ name: 'other' })),
    /the snapshot is prepared: wait until it is ready/,
  );
  t.ok(rig.clock.monotonicMs() - sinceMs < 30_000);
  t.ok(agent.attached.has(id));
});

t.test('a clone of a live volume is made of a hidden snapshot, which goes', async (t) => {
  const { rig, client, clone, images } = await opened(t);
  const copy = await clone({ snapshot: '', sizeBytes: 2 * gib });
  t.equal(copy.spec.sizeBytes, 2 * gib);
  t.same(images(copy.metadata.id), ['two', 'two', 'two']);
  t.match(copy.status.origin, { volume: 'db', snapshot: '' });
  const { snapshots } = await client.listSnapshots({ volume: 'db' });
  t.same(
    snapshots.map(({ metadata }) => metadata.name),
    ['db@s'],
    'nobody sees it',
  );
  await rig.until(async () => {
    const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/snapshots/');
    return items.length === 1;
  });
});

t.test('a request that is sent again finds its own clone', async (t) => {
  const { rig, client, clone } = await opened(t);
  const first = await clone({ requestId: 'r1' });
  t.equal((await clone({ requestId: 'r1' })).metadata.id, first.metadata.id);
  t.match(await codeOf(clone({ requestId: 'r2' })), /^ALREADY_EXISTS: there is a volume copy/);
  t.equal((await client.listVolumes({})).volumes.length, 2);
  await rig.during(client.deleteVolume({ name: 'copy', keepMs: 0 }));
});

t.test('bad requests leave nothing behind', async (t) => {
  const { rig, client, clone } = await opened(t);
  const small = /^INVALID_ARGUMENT: a clone cannot be smaller than what it is made of: 512MiB/;
  t.match(await codeOf(clone({ sizeBytes: gib / 2 })), small);
  t.match(await codeOf(clone({ snapshot: '', sizeBytes: gib / 2 })), small);
  t.match(
    await codeOf(clone({ snapshot: 'none' })),
    /^NOT_FOUND: volume db has no snapshot "none"/,
  );
  t.match(await codeOf(clone({ name: 'a b' })), /^INVALID_ARGUMENT/);
  t.match(await codeOf(clone({ name: 'db' })), /^ALREADY_EXISTS/);
  rig.node(1).agent.createError = new StorError('NO_SPACE', 'only 4 MiB are free');
  t.match(await codeOf(clone({ snapshot: '' })), /^NO_SPACE: volume copy was not created/);
  t.same(
    (await client.listVolumes({})).volumes.map(({ metadata }) => metadata.name),
    ['db'],
  );
  await rig.until(async () => {
    const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/');
    return items.filter(({ key }) => /deleted|snapshots/.test(key)).length === 1;
  });
});

t.test('what a clone lacks is filled like what any volume lacks', async (t) => {
  const { rig, client, clone, images } = await opened(t, 4);
  for (const { agent } of rig.nodes) agent.reaches = (nodeId) => rig.isAlive(nodeId);
  const away = rig.nodes.find(({ agent }) => agent.replicaList.size > 0 && !agent.attached.size);
  if (!away) throw new Error('no node to stop');
  await rig.kill(away);
  await rig.until(async () => {
    const { status } = await client.getVolume({ name: 'db' });
    return status.replicas.some(({ state }) => state === 'node-down');
  });
  const copy = await clone({});
  t.equal(copy.spec.replicas, 3);
  // a leader that is quick has placed the third one already, which is made of nothing
  t.same(
    images(copy.metadata.id).filter((image) => image !== ''),
    ['one', 'one'],
  );
  await rig.until(async () => {
    const { status } = await client.getVolume({ name: 'copy' });
    return status.replicas.filter(({ state }) => state === 'in-sync').length === 3;
  });
});
