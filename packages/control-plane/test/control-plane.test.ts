import { hasCode, StorError } from '@stor/protocol';
import t from 'tap';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { clusterId, Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('volumes through the API', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const create = (name: string, replicas = 3, sizeBytes = gib) =>
    rig.during(client.createVolume({ name, sizeBytes, replicas, labels: {} }));

  await t.test('create, get, list, delete', async (t) => {
    const volume = await create('db', 0, 10_000);
    t.match(volume, {
      metadata: { name: 'db' },
      spec: { sizeBytes: 12_288, replicas: 3 },
      status: { health: 'healthy', message: '', primary: null, epoch: 0, setRevision: 1 },
    });
    t.same(volume.status.replicas.map((replica) => replica.node).sort(), ['n1', 'n2', 'n3']);
    t.equal(volume.status.nbdUri, 'nbd://10.0.0.1:7003/db');
    for (const node of rig.nodes) t.equal(node.agent.replicaList.size, 1, 'on its disk');
    t.same(await client.getVolume({ name: 'db' }), volume);
    t.same(await client.getVolume({ name: volume.metadata.id }), volume, 'by id');
    // a list asks no replica what it takes
    const listed = { ...volume, status: { ...volume.status, space: null } };
    t.same(await client.listVolumes({}), { volumes: [listed] });
    t.same(await rig.node(1).control.volumeNames(10), ['db']);
    t.match(await rig.node(1).control.volumeInfo('db'), { name: 'db', sizeBytes: 12_288 });

    await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
    t.match(await codeOf(client.getVolume({ name: 'db' })), /^NOT_FOUND: there is no volume "db"/);
    await rig.until(() => rig.nodes.every((node) => node.agent.replicaList.size === 0));
    await rig.until(async () => {
      const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/');
      return items.every((item) => !/deleted|replica-status|volume/.test(item.key));
    });
    t.pass('nothing is left in the store');
  });

  await t.test('bad requests', async (t) => {
    await create('taken', 1);
    t.match(await codeOf(create('taken')), /^ALREADY_EXISTS: there is a volume taken already/);
    t.match(await codeOf(create('bad name')), /^INVALID_ARGUMENT: volume name "bad name"/);
    t.match(await codeOf(create('zero', 3, 0)), /^INVALID_ARGUMENT: size 0 is not valid/);
    t.match(await codeOf(create('minus', 3, -1)), /^INVALID_ARGUMENT: size -1/);
    t.match(await codeOf(create('huge', 3, 2 ** 50)), /^INVALID_ARGUMENT: size 1PiB is too large/);
    t.match(await codeOf(create('six', 6)), /^INVALID_ARGUMENT: 6 replicas/);
    t.match(
      await codeOf(create('four', 4)),
      /^FAILED_PRECONDITION: 4 replicas need as many nodes, and the cluster has 3 nodes/,
    );
    t.match(
      await codeOf(
        client.createVolume({ name: 'l', sizeBytes: 1, replicas: 1, labels: { '?': '' } }),
      ),
      /^INVALID_ARGUMENT: label key/,
    );
    t.match(await codeOf(client.deleteVolume({ name: 'none', keepMs: 0 })), /^NOT_FOUND/);
    t.match(await codeOf(client.attachVolume({ name: 'taken', node: 'n9' })), /^NOT_FOUND.*n1, n2/);
    t.match(await codeOf(client.getNode({ name: 'n9' })), /^NOT_FOUND: there is no node "n9"/);
    t.same(
      (await client.listVolumes({})).volumes.map((volume) => volume.metadata.name),
      ['taken'],
      'nothing half-created',
    );
    await rig.during(client.deleteVolume({ name: 'taken', keepMs: 0 }));
  });

  await t.test('a failed creation leaves nothing behind', async (t) => {
    const bad = rig.node(2);
    bad.agent.createError = new StorError('NO_SPACE', 'only 4 MiB are free');
    t.equal(
      await codeOf(create('full')),
      'NO_SPACE: volume full was not created: disk /disks/d-0000000000000003 of node n3 could not take its replica: only 4 MiB are free',
    );
    bad.agent.createError = null;
    await rig.until(() => rig.nodes.every((node) => node.agent.replicaList.size === 0));
    t.equal((await create('full')).status.health, 'healthy', 'the name is free');
    await rig.during(client.deleteVolume({ name: 'full', keepMs: 0 }));
  });

  await t.test('a request sent twice makes one volume', async (t) => {
    const request = { name: 'once', sizeBytes: gib, replicas: 2, labels: {}, requestId: 'abc' };
    const both = [client.createVolume(request), rig.client().createVolume(request)];
    const [first, second] = await rig.during(Promise.all(both));
    t.same(first, second);
    t.match(await codeOf(create('once')), /^ALREADY_EXISTS/, 'another request is another one');
    await rig.during(client.deleteVolume({ name: 'once', keepMs: 0 }));
  });

  await t.test('nodes, disks, cluster', async (t) => {
    const { nodes } = await client.listNodes({});
    t.match(nodes, [
      { metadata: { name: 'n1' }, status: { state: 'up', raftRole: 'leader' } },
      { metadata: { name: 'n2' }, status: { state: 'up', raftRole: 'voter' } },
      { metadata: { name: 'n3' } },
    ]);
    const labelled = await client.labelNode({
      name: 'n2',
      set: { zone: 'a', rack: '1' },
      remove: [],
    });
    t.same(labelled.metadata.labels, { zone: 'a', rack: '1' });
    await client.labelNode({ name: 'n2', set: {}, remove: ['rack'] });
    t.same((await client.getNode({ name: 'n2' })).metadata.labels, { zone: 'a' });
    t.match(
      await codeOf(client.labelNode({ name: 'n2', set: { zone: '{}' }, remove: [] })),
      /^INVALID_ARGUMENT: value/,
    );
    const disk = await client.addDisk({ node: 'n3', path: '/mnt/fast', tag: 'ssd' });
    t.match(disk, { spec: { path: '/mnt/fast', tag: 'ssd' }, status: { state: 'online' } });
    t.match(
      await codeOf(client.addDisk({ node: 'n3', path: '/mnt/fast', tag: '' })),
      /^ALREADY_EXISTS: the node already has a disk/,
    );
    t.match(await client.getClusterStatus({}), {
      clusterId: 'c-00000000000000c1',
      name: 'test',
      leader: { node: 'n1' },
      quorum: true,
      nodes: { total: 3, up: 3 },
      disks: { total: 4, online: 4 },
      volumes: { total: 0 },
    });
    rig.cluster.setLeader(null);
    t.match(await client.getClusterStatus({}), { leader: null, quorum: false });
    t.match(await codeOf(client.listVolumes({})), /^UNAVAILABLE/);
    t.match(rig.node(0).control.readiness(), { ready: false, reason: /no leader/ });
    rig.cluster.setLeader(rig.node(1).id);
    t.match(await client.getClusterStatus({}), { leader: { node: 'n2' }, quorum: true });
  });
});

t.test('attachments', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(
    client.createVolume({ name: 'db', sizeBytes: gib, replicas: 3, labels: { tier: 'gold' } }),
  );
  const [n1, n2, n3] = [rig.node(0), rig.node(1), rig.node(2)];
  const waitMs = 8_000;

  await t.test('the first attachment is clean, and names where the replicas are', async (t) => {
    const grant = await n1.control.acquire('db', 'auto', { waitMs });
    t.match(grant, { name: 'db', sizeBytes: gib, epoch: 1, mode: 'auto', previousReleased: true });
    const segment = grant.segments[0];
    t.same(segment?.replicas.map((replica) => `${replica.host}:${replica.port}`).sort(), [
      '10.0.0.1:7002',
      '10.0.0.2:7002',
      '10.0.0.3:7002',
    ]);
    t.equal(segment?.inSync.length, 3);
    await n1.agent.attach(grant);
    const seen = await client.getVolume({ name: 'db' });
    t.match(seen.status, { primary: { node: 'n1', mode: 'auto' }, epoch: 1, allocatedBytes: 4096 });
  });

  await t.test('a holder with clients keeps it; an idle one gives it up', async (t) => {
    const held = n1.agent.attached.get(seenId(n1));
    if (held) held.connections = 1;
    const refused = await codeOf(n2.control.acquire('db', 'auto', { waitMs }));
    t.match(
      refused,
      /^ATTACHED_ELSEWHERE: volume db is attached on node n1 since \d{4}-.*Z .*storctl volume detach db/,
    );
    t.match(
      await codeOf(client.deleteVolume({ name: 'db', keepMs: 0 })),
      /^FAILED_PRECONDITION.* node n1 /,
    );
    if (held) held.connections = 0;
    const grant = await n2.control.acquire('db', 'auto', { waitMs });
    t.match(grant, { epoch: 2, previousReleased: true });
    t.equal(n1.agent.attached.size, 0);
    await n2.agent.attach(grant);
  });

  await t.test('release works twice, and says whether it was clean', async (t) => {
    const volumeId = seenId(n2);
    n2.agent.attached.clear();
    await n2.control.release(volumeId, 2, { clean: false });
    await n2.control.release(volumeId, 2, { clean: true });
    t.match(await n3.control.acquire('db', 'auto', { waitMs }), {
      epoch: 3,
      previousReleased: false,
    });
    await n3.control.release(volumeId, 1, { clean: true });
    t.match(
      (await client.getVolume({ name: 'db' })).status.primary,
      { node: 'n3' },
      'an older epoch releases nothing',
    );
    await n3.control.release(volumeId, 3, { clean: true });
  });

  await t.test('one of three wins, and epochs never repeat', async (t) => {
    for (let round = 0; round < 10; round++) {
      const tries = await rig.during(
        Promise.allSettled(
          rig.nodes.map(async (node) => {
            const grant = await node.control.acquire('db', 'manual', { waitMs });
            await node.agent.attach(grant);
            return { node, grant };
          }),
        ),
      );
      const won = tries.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      t.equal(won.length, 1, 'one winner');
      t.equal(won[0]?.grant.epoch, 4 + round);
      for (const result of tries) {
        if (result.status === 'rejected') t.ok(hasCode(result.reason, 'ATTACHED_ELSEWHERE'));
      }
      const winner = won[0];
      if (winner) await winner.node.agent.detach(winner.grant.volumeId, winner.grant.epoch, false);
    }
  });

  await t.test('attach and detach through the API', async (t) => {
    const attached = await client.attachVolume({ name: 'db', node: 'n2' });
    t.match(attached.status.primary, { node: 'n2', mode: 'manual' });
    const again = await client.attachVolume({ name: 'db', node: 'n2' });
    t.equal(again.status.epoch, attached.status.epoch, 'attaching twice is the same attachment');
    t.match(await codeOf(client.attachVolume({ name: 'db', node: 'n1' })), /^ATTACHED_ELSEWHERE/);
    t.match(await codeOf(n1.control.acquire('db', 'auto', { waitMs })), /^ATTACHED_ELSEWHERE/);
    t.match(
      await codeOf(client.deleteVolume({ name: 'db', keepMs: 0 })),
      /^FAILED_PRECONDITION.* by hand/,
    );
    t.equal((await client.detachVolume({ name: 'db' })).status.primary, null);
    t.equal((await client.detachVolume({ name: 'db' })).status.primary, null, 'works twice');
    t.equal(n2.agent.attached.size, 0);

    const grant = await n3.control.acquire('db', 'auto', { waitMs });
    await n3.agent.attach(grant);
    const held = await client.attachVolume({ name: 'db', node: 'n3' });
    t.match(held.status, { epoch: grant.epoch, primary: { mode: 'manual' } }, 'changed in place');
    t.equal(n3.agent.attached.get(grant.volumeId)?.grant.mode, 'manual');
    await client.detachVolume({ name: 'db' });
  });

  await t.test('a node that cannot attach gives the attachment back', async (t) => {
    n1.agent.attachError = new StorError('UNAVAILABLE', 'no in-sync replica can be reached');
    t.equal(
      await codeOf(client.attachVolume({ name: 'db', node: 'n1' })),
      'UNAVAILABLE: no in-sync replica can be reached',
    );
    n1.agent.attachError = null;
    t.equal((await client.getVolume({ name: 'db' })).status.primary, null);
    const next = await n2.control.acquire('db', 'auto', { waitMs });
    t.equal(next.previousReleased, false, 'the next primary waits: it may have come half-way');
    await n2.control.release(next.volumeId, next.epoch, { clean: true });
  });

  await t.test('an attachment that its holder does not know is cleared', async (t) => {
    const lost = await n1.control.acquire('db', 'auto', { waitMs });
    // not at once: the grant may still be on its way to the data path
    for (let i = 0; i < 500; i++) await rig.turn();
    const grant = await rig.during(n2.control.acquire('db', 'auto', { waitMs: 20_000 }));
    t.match(grant, { epoch: lost.epoch + 1, previousReleased: false });
    await n2.control.release(grant.volumeId, grant.epoch, { clean: true });
  });

  await t.test('in-sync sets change by compare-and-set only', async (t) => {
    const grant = await n1.control.acquire('db', 'auto', { waitMs });
    await n1.agent.attach(grant);
    const { volumeId, epoch } = grant;
    const [a, b, c] = grant.segments[0]?.replicas.map((replica) => replica.id) ?? [];
    t.ok(a && b && c);
    const propose = (setRevision: number, inSync: (string | undefined)[], other = epoch) =>
      n1.control.proposeSet({
        volumeId,
        segment: 0,
        epoch: other,
        setRevision,
        inSync: inSync.filter((id) => id !== undefined),
      });
    t.same(await propose(1, [a, b]), { outcome: 'committed', setRevision: 2 });
    t.same(await propose(1, [b, a]), { outcome: 'committed', setRevision: 2 }, 'repeated');
    t.match(await propose(1, [a, c]), { outcome: 'superseded', reason: /revision 2, not 1/ });
    t.match(await propose(2, [a], epoch - 1), { outcome: 'superseded' }, 'an older epoch');
    t.match(await propose(2, [a], epoch + 1), { outcome: 'superseded' }, 'an epoch of the future');
    t.match(await codeOf(propose(2, [])), /^INVALID_ARGUMENT.*never empty/);
    t.match(await codeOf(propose(2, [a, a])), /^INVALID_ARGUMENT/);
    t.match(await codeOf(propose(2, ['r-9999999999999999', a])), /^INVALID_ARGUMENT/);
    const { status } = await client.getVolume({ name: 'db' });
    t.match(status, { health: 'degraded', setRevision: 2 });
    t.match(status.message, /2 of 3 replicas in sync: the replica on n\d is out of sync/);
    t.same(await propose(2, [a, b, c]), { outcome: 'committed', setRevision: 3 });
    // the store went back in time: replicas remember revision 9
    const inSync = [a ?? '', b ?? ''];
    const shrunk = { volumeId, segment: 0, epoch, setRevision: 3, rememberedRevision: 9, inSync };
    const above = { outcome: 'committed', setRevision: 10 };
    t.same(await n1.control.proposeSet(shrunk), above);
    t.same(await n1.control.proposeSet(shrunk), above, 'repeated');
    await n1.agent.detach(volumeId, epoch, false);
    t.match(await propose(10, [a]), { outcome: 'superseded' }, 'after the release');
  });
});

t.test('nodes that die', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume({ name: 'db', sizeBytes: gib, replicas: 3, labels: {} }));
  const [n1, n2, n3] = [rig.node(0), rig.node(1), rig.node(2)];
  const grant = await n3.control.acquire('db', 'auto', { waitMs: 8_000 });
  await n3.agent.attach(grant);
  const { leaseUntilMs } = n3.agent;
  await rig.kill(n3);

  const second = await rig.during(n2.control.acquire('db', 'auto', { waitMs: 8_000 }));
  t.match(second, { epoch: 2, previousReleased: false }, 'another node gets it');
  t.ok(rig.clock.monotonicMs() >= leaseUntilMs, 'and not before the lease of the first has ended');
  const held = await client.getVolume({ name: 'db' });
  t.match(held.status, { health: 'degraded', message: /node n3 is down/, primary: { node: 'n2' } });
  t.match(
    await n3.control.proposeSet({
      volumeId: grant.volumeId,
      segment: 0,
      epoch: 1,
      setRevision: 1,
      inSync: [grant.segments[0]?.inSync[0] ?? ''],
    }),
    { outcome: 'superseded' },
  );
  t.match(await client.listDisks({}), { disks: [{}, {}, { status: { state: 'offline' } }] });
  t.match(
    await codeOf(
      rig.during(client.createVolume({ name: 'three', sizeBytes: 1, replicas: 3, labels: {} })),
    ),
    /^FAILED_PRECONDITION: 3 replicas need as many nodes.*; 2 nodes qualify: n3 is down/,
  );

  await t.test('a set that shrank is repaired when the node is back', async (t) => {
    await n2.agent.attach(second);
    const segment = second.segments[0];
    const alive = segment?.replicas.filter((replica) => replica.nodeId !== n3.id) ?? [];
    const { volumeId, epoch } = second;
    const inSync = alive.map((replica) => replica.id);
    await n2.control.proposeSet({ volumeId, segment: 0, epoch, setRevision: 1, inSync });
    await n2.agent.detach(volumeId, epoch, false);
    for (let i = 0; i < 500; i++) await rig.turn();
    t.equal((await client.getVolume({ name: 'db' })).status.epoch, 2, 'nothing can be done yet');

    rig.nodes[2] = await rig.start(2, n3.agent);
    n3.agent.attached.clear();
    await rig.until(() => n1.agent.attached.size + n2.agent.attached.size === 1);
    const repairer = n1.agent.attached.size === 1 ? n1 : n2;
    const held = repairer.agent.attached.get(volumeId);
    t.match(held?.grant, { mode: 'repair', epoch: 3 });
    const all = held?.grant.segments[0]?.replicas.map((replica) => replica.id) ?? [];
    await repairer.control.proposeSet({
      volumeId,
      segment: 0,
      epoch: 3,
      setRevision: 2,
      inSync: all,
    });
    await repairer.agent.detach(volumeId, 3, false);
    for (let i = 0; i < 500; i++) await rig.turn();
    const { status } = await client.getVolume({ name: 'db' });
    t.match(status, { health: 'healthy', epoch: 3, primary: null }, 'and asked no more');
  });

  await t.test('a manual attachment comes back with its node', async (t) => {
    const n3 = rig.node(2);
    const attached = await client.attachVolume({ name: 'db', node: 'n3' });
    await rig.kill(n3);
    n3.agent.attached.clear();
    rig.nodes[2] = await rig.start(2, n3.agent);
    await rig.until(() => n3.agent.attached.size === 1);
    t.match([...n3.agent.attached.values()][0]?.grant, {
      mode: 'manual',
      epoch: attached.status.epoch + 1,
      previousReleased: false,
    });
    await client.detachVolume({ name: 'db' });
  });

  await t.test('detach and delete do not wait for the dead for ever', async (t) => {
    const n3 = rig.node(2);
    await client.attachVolume({ name: 'db', node: 'n3' });
    await rig.kill(n3);
    t.equal((await rig.during(client.detachVolume({ name: 'db' }))).status.primary, null);
    await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
    t.match(
      await codeOf(client.getVolume({ name: 'db' })),
      /^NOT_FOUND/,
      'the name is free at once',
    );
    await rig.until(() => n1.agent.replicaList.size + n2.agent.replicaList.size === 0);
    t.equal(n3.agent.replicaList.size, 1);
    rig.nodes[2] = await rig.start(2, n3.agent);
    await rig.until(() => n3.agent.replicaList.size === 0);
    t.pass('the dead node removes its replica when it is back');
  });
});

t.test('one node id, two agents', async (t) => {
  const rig = await Rig.open(2);
  t.teardown(() => rig.close());
  const other = await rig.start(1, rig.node(1).agent, 'another-host');
  await rig.until(() => /another agent/.test(other.control.readiness().reason));
  for (let i = 0; i < 1_000; i++) await rig.turn();
  t.match(other.control.readiness(), { ready: false, reason: /holds the lease of node n2/ });
  t.ok(rig.node(1).control.readiness().ready, 'the first one goes on');
  rig.nodes.push(other);
  const namesake = await rig.start(2, FakeAgent.withDisk('d-3'), 'b', clusterId, 'n1');
  rig.nodes.push(namesake);
  await rig.until(() => /has the name n1 too/.test(namesake.control.readiness().reason));
});

t.test('replicas that no volume knows are counted, never deleted', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const n1 = rig.node(0);
  await n1.agent.createReplica('d-0000000000000001', {
    replicaId: 'r-000000000000dead',
    volumeId: 'v-000000000000dead',
    segment: 0,
    sizeBytes: 4096,
  });
  await rig.until(() => n1.control.orphanReplicas === 1);
  t.equal(n1.agent.replicaList.size, 1);
});

t.test('a failed replica is marked, and not repaired', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const volume = await rig.during(
    client.createVolume({ name: 'db', sizeBytes: gib, replicas: 3, labels: {} }),
  );
  const replica = volume.status.replicas.find((candidate) => candidate.node === 'n2');
  await rig.node(1).control.reportFailure({
    diskId: replica?.diskId ?? '',
    replicaId: null,
    reason: 'fdatasync failed with EIO',
  });
  await rig.until(
    async () => (await client.getVolume({ name: 'db' })).status.health === 'degraded',
  );
  const { status } = await client.getVolume({ name: 'db' });
  t.equal(status.message, '2 of 3 replicas in sync: the replica on n2 failed');
  for (let i = 0; i < 500; i++) await rig.turn();
  t.equal((await client.getVolume({ name: 'db' })).status.epoch, 0, 'nobody was asked to attach');
  const other = volume.status.replicas.find((candidate) => candidate.node === 'n3');
  const { diskId = '', id: replicaId = '' } = other ?? {};
  await rig.node(0).control.reportFailure({ diskId, replicaId, reason: 'a write failed' });
  await rig.until(async () => {
    const now = await client.getVolume({ name: 'db' });
    return now.status.replicas.filter((candidate) => candidate.state === 'failed').length === 2;
  });
});

function seenId(node: { agent: { attached: Map<string, unknown> } }): string {
  return [...node.agent.attached.keys()][0] ?? '';
}
