import { StorError } from '@stor/protocol';
import type { ApiClient, Snapshot } from '@stor/protocol';
import t, { type Test } from 'tap';
import { hiddenPatienceMs, takePatienceMs } from '../src/core/controllers/snapshot-keeper.ts';
import { snapshotKey, snapshotNameKey, snapshotsPrefix, volumeKey } from '../src/resources/keys.ts';
import { decodeSnapshot, encodeRecord } from '../src/resources/records.ts';
import type { FakeAgent } from '../src/testing/fake-agent.ts';
import { Rig } from './control-plane-rig.ts';
import type { RigNode } from './control-plane-rig.ts';

const gib = 2 ** 30;

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

/** A rig with volume `db` that clients of node 1 use; `more` are others with their labels. */
async function opened(
  t: Test,
  more: Record<string, Record<string, string>> = {},
): Promise<{ rig: Rig; client: ApiClient; ids: Record<string, string> }> {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const ids: Record<string, string> = {};
  for (const [name, labels] of Object.entries({ db: {}, ...more })) {
    const request = { name, sizeBytes: gib, replicas: 3, labels };
    ids[name] = (await rig.during(client.createVolume(request))).metadata.id;
  }
  return { rig, client, ids };
}

function take(
  { rig, client }: { rig: Rig; client: ApiClient },
  volume: string,
  name: string,
  more: { requestId?: string; selector?: Record<string, string>; volumes?: string[] } = {},
): Promise<{ snapshots: Snapshot[] }> {
  return rig.during(client.createSnapshot({ volume, selector: {}, name, labels: {}, ...more }));
}

/** The node whose agent is primary of a volume. */
function primaryOf(rig: Rig, volumeId: string): RigNode {
  const found = rig.nodes.find(({ agent }) => agent.attached.has(volumeId));
  if (!found) throw new Error('no primary');
  return found;
}

function imagesOf(rig: Rig, volumeId: string, snapshotId: string): (string | undefined)[] {
  return replicasOf(rig, volumeId).map(({ snapshots }) => snapshots.get(snapshotId)?.image);
}

function replicasOf(rig: Rig, volumeId: string) {
  return rig.nodes
    .flatMap(({ agent }) => [...agent.replicaList.values()])
    .filter((replica) => replica.volumeId === volumeId);
}

async function keysLeft(rig: Rig): Promise<string[]> {
  const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/snapshot');
  return items.map(({ key }) => key);
}

t.test('a snapshot of a volume in use', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const { agent } = rig.node(0);
  t.ok(agent.write(id, 'one'));
  const [monday] = (await take(all, 'db', 'monday')).snapshots;
  t.match(monday, {
    metadata: { name: 'db@monday' },
    spec: { volumeId: id, sizeBytes: gib, groupId: '' },
    status: { volume: 'db', state: 'ready', message: '', pausedMs: 1 },
  });
  const snapshotId = monday?.metadata.id ?? '';
  agent.write(id, 'two');
  t.same(imagesOf(rig, id, snapshotId), ['one', 'one', 'one']);
  await rig.until(() =>
    replicasOf(rig, id).every(({ snapshots }) => snapshots.get(snapshotId)?.state === 'ready'),
  );
  t.ok(agent.attached.has(id), 'it stays attached');
  const { snapshots } = await client.listSnapshots({ volume: 'db' });
  t.match(snapshots, [{ metadata: { name: 'db@monday' }, status: { ownBytes: 1024 } }]);
  t.same(await client.listSnapshots({ volume: '' }), { snapshots });
  t.same(await client.getSnapshot({ name: 'db@monday' }), snapshots[0]);
  t.same(await client.getSnapshot({ name: snapshotId }), snapshots[0]);
  t.match(
    await codeOf(take(all, 'db', 'monday')),
    /^ALREADY_EXISTS: there is a snapshot db@monday/,
  );
  t.match(await codeOf(take(all, 'db', 'a b')), /^INVALID_ARGUMENT: snapshot name/);
  t.match(await codeOf(take(all, 'none', 'x')), /^NOT_FOUND: there is no volume "none"/);
  t.match(await codeOf(take(all, '', 'x')), /^INVALID_ARGUMENT: name one volume/);
  t.match(
    await codeOf(client.getSnapshot({ name: 'none@x' })),
    /^NOT_FOUND: there is no volume "none"/,
  );
  t.match(
    await codeOf(client.getSnapshot({ name: 'db@x' })),
    /^NOT_FOUND: there is no snapshot "db@x"/,
  );
});

t.test('a volume that is attached nowhere is attached for the order', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  const [taken] = (await take(all, 'db', 'monday')).snapshots;
  t.equal(taken?.status.state, 'ready');
  t.notOk(rig.nodes.some(({ agent }) => agent.attached.has(id)));
  t.equal((await client.getVolume({ name: 'db' })).status.primary, null);
  t.same(imagesOf(rig, id, taken?.metadata.id ?? ''), ['', '', '']);
});

t.test('a request that is sent again finds its own snapshot', async (t) => {
  const all = await opened(t);
  const first = await take(all, 'db', 'monday', { requestId: 'r1' });
  t.same(await take(all, 'db', 'monday', { requestId: 'r1' }), first);
  t.match(await codeOf(take(all, 'db', 'monday', { requestId: 'r2' })), /^ALREADY_EXISTS/);
  const both = await Promise.all([
    take(all, 'db', 'tuesday', { requestId: 'r3' }),
    take(all, 'db', 'tuesday', { requestId: 'r3' }),
  ]);
  t.same(both[0], both[1]);
  t.equal((await all.client.listSnapshots({ volume: 'db' })).snapshots.length, 2);
});

t.test(
  'a deleted snapshot frees its name at once, and its record when all have dropped it',
  async (t) => {
    const all = await opened(t);
    const { rig, client, ids } = all;
    const id = ids['db'] ?? '';
    const [monday] = (await take(all, 'db', 'monday')).snapshots;
    const dropped = monday?.metadata.id ?? '';
    const slow = rig.node(2).agent;
    const drop = slow.dropSnapshots.bind(slow);
    let tries = 0;
    slow.dropSnapshots = async () => {
      tries += 1;
      throw new StorError('UNAVAILABLE', 'not now');
    };
    await rig.during(client.deleteSnapshot({ name: 'db@monday' }));
    await rig.during(client.deleteSnapshot({ name: dropped }));
    await rig.until(
      () => imagesOf(rig, id, dropped).filter((image) => image !== undefined).length === 1,
    );
    await rig.until(() => tries > 0);
    t.match(await client.getSnapshot({ name: dropped }), { status: { state: 'deleting' } });
    t.equal(
      (await take(all, 'db', 'monday')).snapshots[0]?.status.state,
      'ready',
      'the name is free',
    );
    t.match(await client.getSnapshot({ name: 'db@monday' }), { status: { state: 'ready' } });
    slow.dropSnapshots = drop;
    await rig.until(async () => (await keysLeft(rig)).length === 2);
    t.same(imagesOf(rig, id, dropped), [undefined, undefined, undefined]);
    t.match(
      await codeOf(client.deleteSnapshot({ name: 'db@other' })),
      /^NOT_FOUND: there is no snapshot/,
    );
  },
);

t.test('a snapshot that is ready stays, although who took it was not told so', async (t) => {
  const all = await opened(t);
  const { rig, ids } = all;
  const store = rig.cluster.store(rig.node(0).id);
  const transact = store.transact.bind(store);
  const get = store.get.bind(store);
  const states: string[] = [];
  let lost = 0;
  store.transact = async (transaction, options) => {
    const result = await transact(transaction, options);
    const written = transaction.operations.flatMap((operation) =>
      operation.type === 'put' && operation.key.startsWith(snapshotsPrefix)
        ? [decodeSnapshot(operation.key, operation.value).state]
        : [],
    );
    states.push(...written);
    if (lost > 0 || !written.includes('ready')) return result;
    // the quorum is away for as long as one more look
    store.get = async (key, more) => {
      if (key !== volumeKey(ids['db'] ?? '')) return get(key, more);
      store.get = get;
      throw new StorError('UNAVAILABLE', 'no quorum');
    };
    lost += 1;
    throw new StorError('OUTCOME_UNKNOWN', 'the answer was lost');
  };
  const [taken] = (await take(all, 'db', 'monday', { requestId: 'r1' })).snapshots;
  t.equal(lost, 1);
  t.equal(taken?.status.state, 'ready');
  t.same(imagesOf(rig, ids['db'] ?? '', taken?.metadata.id ?? ''), ['', '', '']);
  t.match(await all.client.getSnapshot({ name: 'db@monday' }), { status: { state: 'ready' } });
  t.same(states, ['creating', 'ready'], 'others may have been told of it');
});

t.test('a group is frozen at one instant', async (t) => {
  const label = { app: 'shop' };
  const all = await opened(t, { log: label, data: label, other: {} });
  const { rig, client, ids } = all;
  const group = [ids['log'] ?? '', ids['data'] ?? ''];
  for (const name of ['log', 'data']) {
    await rig.during(client.attachVolume({ name, node: name === 'log' ? 'n1' : 'n2' }));
  }
  // a client that writes data only after its log, whenever it is let
  let n = 0;
  let written = true;
  const write = (): void => {
    const [log, data] = group.map((id) => primaryOf(rig, id).agent);
    if (written) written = !(log?.write(group[0] ?? '', `${n + 1}`) ?? false);
    if (written || !(data?.write(group[1] ?? '', `${n + 1}`) ?? false)) return;
    written = true;
    n += 1;
  };
  for (const { agent } of rig.nodes) agent.onOrder = write;
  const { snapshots } = await take(all, '', 'friday', { selector: label });
  t.same(
    snapshots.map(({ metadata }) => metadata.name),
    ['data@friday', 'log@friday'],
  );
  t.equal(new Set(snapshots.map(({ spec }) => spec.groupId)).size, 1);
  t.not(snapshots[0]?.spec.groupId, '');
  const image = (name: string): number => {
    const of = snapshots.find(({ status }) => status.volume === name);
    return Number(imagesOf(rig, ids[name] ?? '', of?.metadata.id ?? '')[0] ?? 0);
  };
  const ahead = image('log') - image('data');
  t.ok(ahead === 0 || ahead === 1, `log ${image('log')}, data ${image('data')}`);
  t.ok(n > 0, 'the client wrote meanwhile');
  t.same((await client.listSnapshots({ volume: 'other' })).snapshots, []);
  const none = take(all, '', 'x', { selector: { app: 'none' } });
  t.match(await codeOf(none), /^NOT_FOUND: no volume has the label app=none/);
  t.same(await take(all, '', 'friday', { selector: label, requestId: 'g' }).catch(() => 0), 0);
});

t.test('a group may be named, by names and ids', async (t) => {
  const all = await opened(t, { log: {}, data: {} });
  const volumes = ['log', all.ids['data'] ?? '', 'log'];
  const { snapshots } = await take(all, '', 'friday', { volumes, requestId: 'g1' });
  t.same(
    snapshots.map(({ metadata }) => metadata.name),
    ['data@friday', 'log@friday'],
  );
  t.equal(new Set(snapshots.map(({ spec }) => spec.groupId)).size, 1);
  t.not(snapshots[0]?.spec.groupId, '');
  t.same((await take(all, '', 'friday', { volumes, requestId: 'g1' })).snapshots, snapshots);
  const unknown = take(all, '', 'x', { volumes: ['log', 'nobody'] });
  t.match(await codeOf(unknown), /^NOT_FOUND: there is no volume "nobody"/);
  const both = take(all, '', 'x', { volumes: ['log'], selector: { app: 'shop' } });
  t.match(await codeOf(both), /^INVALID_ARGUMENT/);
  t.match(await codeOf(take(all, 'db', 'x', { volumes: ['log'] })), /^INVALID_ARGUMENT/);
  t.match(await codeOf(take(all, '', 'x')), /^INVALID_ARGUMENT/);
});

t.test('one that fails drops the whole group, and leaves nothing behind', async (t) => {
  const label = { app: 'shop' };
  const all = await opened(t, { log: label, data: label });
  const { rig, client, ids } = all;
  for (const step of ['flush', 'hold', 'prepare', 'release', 'seal'] as const) {
    for (const { agent } of rig.nodes) {
      agent.onOrder = ({ type }, volumeId) => {
        if (type === step && volumeId === ids['data'])
          throw new StorError('NO_SPACE', `no ${step}`);
      };
    }
    t.equal(await codeOf(take(all, '', 'x', { selector: label })), `NO_SPACE: no ${step}`);
    await rig.until(async () => (await keysLeft(rig)).length === 0);
    const left = ['log', 'data'].flatMap((name) => replicasOf(rig, ids[name] ?? ''));
    t.ok(
      left.every(({ snapshots }) => snapshots.size === 0),
      `after ${step}`,
    );
  }
  for (const { agent } of rig.nodes) agent.onOrder = () => {};
  t.equal(
    (await take(all, '', 'x', { selector: label })).snapshots.length,
    2,
    'the names are free',
  );
  t.same(
    (await client.listVolumes({})).volumes.map(({ status }) => status.primary),
    [null, null, null],
  );
});

t.test('a pause that would be too long is tried again, and then reported', async (t) => {
  const label = { app: 'shop' };
  const all = await opened(t, { log: label, data: label });
  const { rig, ids } = all;
  let slow = 2;
  const agents: FakeAgent[] = rig.nodes.map(({ agent }) => agent);
  for (const agent of agents) {
    agent.onOrder = ({ type }, volumeId) => {
      if (type !== 'release' || volumeId !== ids['log'] || slow-- <= 0) return;
      // it went on by itself
      for (const each of agents) each.holds.delete(volumeId);
    };
  }
  const { snapshots } = await take(all, '', 'x', { selector: label });
  t.equal(snapshots.length, 2, 'the third try was in time');
  slow = 100;
  t.match(
    await codeOf(take(all, '', 'y', { selector: label })),
    /^TIMEOUT: no snapshot of .*: it would have paused I\/O for more than 100 ms, 6 times \(volume log could not be held/,
  );
  for (const agent of agents) {
    agent.onOrder = ({ type }) => {
      if (type === 'take') throw new StorError('TIMEOUT', 'it took 120 ms');
    };
  }
  t.match(await codeOf(take(all, 'db', 'z')), /^TIMEOUT: no snapshot of db: .* \(it took 120 ms\)/);
  await rig.until(async () => (await keysLeft(rig)).length === 4);
});

t.test(
  'a new primary during the order makes it begin anew: it has dropped what was prepared',
  async (t) => {
    const all = await opened(t);
    const { rig, client, ids } = all;
    const id = ids['db'] ?? '';
    await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
    const first = rig.node(0);
    const prepare = first.agent.orderPrimary.bind(first.agent);
    const prepared: string[] = [];
    first.agent.orderPrimary = async (volumeId, epoch, order) => {
      const answer = await prepare(volumeId, epoch, order);
      if (order.type === 'take' && prepared.length === 0) {
        prepared.push(order.snapshotId);
        await client.fenceVolume({ name: 'db' });
      }
      return answer;
    };
    const asked = { rig, client: rig.client([rig.node(0).api]) };
    const [taken] = (await take(asked, 'db', 'monday')).snapshots;
    t.equal(prepared.length, 1);
    t.not(taken?.metadata.id, prepared[0], 'what was prepared before counts for nothing');
    await rig.until(async () => (await keysLeft(rig)).length === 2);
    t.ok(replicasOf(rig, id).every(({ snapshots }) => snapshots.size === 1));
  },
);

t.test('what a dead node left behind is given up by the leader', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  let letGo = (): void => {};
  // n3 answers the call, and dies when everything is prepared
  const third = rig.node(2);
  const orderPrimary = rig.node(0).agent.orderPrimary.bind(rig.node(0).agent);
  const died = new Promise<void>((resolve) => {
    rig.node(0).agent.orderPrimary = async (volumeId, epoch, order) => {
      const answer = await orderPrimary(volumeId, epoch, order);
      if (order.type !== 'take') return answer;
      resolve();
      return new Promise((answered) => {
        letGo = () => {
          answered(answer);
        };
      });
    };
  });
  const asked = rig.client([third.api]).createSnapshot({
    volume: 'db',
    selector: {},
    name: 'monday',
    labels: {},
  });
  asked.catch(() => {});
  await rig.during(died);
  t.ok(replicasOf(rig, id).every(({ snapshots }) => snapshots.size === 1));
  rig.node(0).agent.orderPrimary = orderPrimary;
  // a dead process writes nothing either
  const store = rig.cluster.store(third.id);
  store.transact = () => Promise.reject(new StorError('UNAVAILABLE', 'dead'));
  await rig.kill(third);
  letGo();
  const sinceMs = rig.clock.monotonicMs();
  let looks = 0;
  await rig.until(async () => {
    // a look costs more than a turn of fake time
    if (looks++ % 50 !== 0) return false;
    const list = await client.listSnapshots({ volume: 'db' });
    return list.snapshots.every(
      ({ status }) => status.state === 'deleting' && status.message.includes('not finished'),
    );
  });
  t.ok(rig.clock.monotonicMs() - sinceMs >= takePatienceMs - 1_000);
  const alive = () =>
    replicasOf(rig, id).filter((r) => rig.node(2).agent.replicaList.get(r.replicaId) !== r);
  await rig.until(() => alive().every(({ snapshots }) => snapshots.size === 0));
  t.ok(hiddenPatienceMs > takePatienceMs);
});

t.test('records from before a snapshot was ready do not delete it', async (t) => {
  const all = await opened(t);
  const { rig, ids } = all;
  const id = ids['db'] ?? '';
  const [monday] = (await take(all, 'db', 'monday')).snapshots;
  const snapshotId = monday?.metadata.id ?? '';
  const isWhole = (): boolean =>
    replicasOf(rig, id).every(({ snapshots }) => snapshots.get(snapshotId)?.state === 'ready');
  await rig.until(isWhole);
  // the records of a backup that was made while it was taken
  const store = rig.cluster.store(rig.node(0).id);
  const key = snapshotKey(id, snapshotId);
  const item = await store.get(key);
  const record = decodeSnapshot(key, item?.value ?? new Uint8Array());
  const value = encodeRecord({ ...record, state: 'creating' });
  await store.transact({ compare: [], operations: [{ type: 'put', key, value }] });
  await rig.until(async () => (await store.get(key)) === null);
  t.ok(isWhole(), 'given up, forgotten, and kept by all');
  await rig.during(all.client.attachVolume({ name: 'db', node: 'n2' }));
  t.ok(isWhole(), 'by a new primary too');

  // people see it, and take it over or delete it
  const { client } = all;
  const orphans = async (volume: string): Promise<Snapshot[]> =>
    (await client.listSnapshots({ volume, orphans: true })).snapshots;
  const full = `db@${snapshotId}`;
  t.match(await orphans('db'), [
    { metadata: { name: full }, spec: { sizeBytes: gib }, status: { state: 'orphan' } },
  ]);
  t.same(await orphans(''), await orphans('db'));
  t.same((await client.listSnapshots({ volume: 'db' })).snapshots, []);
  t.match(await client.getSnapshot({ name: full }), { status: { state: 'orphan' } });
  await take(all, 'db', 'taken');
  const adopt = (name: string, newName: string) =>
    codeOf(rig.during(client.adoptSnapshot({ name, newName })));
  t.match(await adopt(full, 'taken'), /^ALREADY_EXISTS: there is a snapshot db@taken already/);
  t.match(await adopt(full, 'a b'), /^INVALID_ARGUMENT/);
  t.match(await adopt('db@s-0000000000000000', 'x'), /^NOT_FOUND: there is no orphan/);
  const [first] = replicasOf(rig, id);
  const copy = first?.snapshots.get(snapshotId);
  first?.snapshots.delete(snapshotId);
  t.match(
    await adopt(full, 'monday'),
    /^FAILED_PRECONDITION: not every in-sync replica of volume db/,
  );
  if (copy) first?.snapshots.set(snapshotId, copy);
  t.equal(await adopt(full, 'monday'), 'no error');
  t.match(await client.getSnapshot({ name: 'db@monday' }), {
    metadata: { id: snapshotId },
    status: { state: 'ready' },
  });
  t.same(await orphans(''), []);
  t.match(await adopt(full, 'again'), /^NOT_FOUND/);
  // forgotten once more
  const gone = [key, snapshotNameKey(id, 'monday')];
  const operations = gone.map((each) => ({ type: 'delete' as const, key: each }));
  await store.transact({ compare: [], operations });
  await rig.until(async () => (await orphans('db')).length === 1);
  await rig.during(client.deleteSnapshot({ name: full }));
  await rig.until(() => replicasOf(rig, id).every(({ snapshots }) => !snapshots.has(snapshotId)));
  await rig.until(async () => (await store.get(key)) === null);
  t.match(await codeOf(client.deleteSnapshot({ name: full })), /^NOT_FOUND: there is no snapshot/);
});

t.test('roll back', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const { agent } = rig.node(0);
  agent.write(id, 'one');
  await take(all, 'db', 'monday');
  agent.write(id, 'two');
  const back = (more: { force?: boolean; safetySnapshot?: boolean; snapshot?: string } = {}) => {
    const request = { name: 'db', snapshot: 'monday', force: false, safetySnapshot: true, ...more };
    return rig.during(client.rollbackVolume(request));
  };
  const held = agent.attached.get(id);
  if (held) held.connections = 1;
  t.match(await codeOf(back()), /^FAILED_PRECONDITION: volume db is in use: 1 client is connected/);
  t.equal((await client.listSnapshots({ volume: 'db' })).snapshots.length, 1, 'nothing was taken');
  if (held) held.connections = 0;
  const { volume, safetySnapshot } = await back();
  t.equal(volume.metadata.name, 'db');
  t.match(safetySnapshot, /^db@before-rollback-\d{8}-\d{6}$/);
  t.same(
    replicasOf(rig, id).map(({ image }) => image),
    ['one', 'one', 'one'],
  );
  t.equal(
    (await back({ snapshot: safetySnapshot.slice(3), safetySnapshot: false })).safetySnapshot,
    '',
  );
  t.same(
    replicasOf(rig, id).map(({ image }) => image),
    ['two', 'two', 'two'],
  );
  t.match(await codeOf(back({ snapshot: 'none' })), /^NOT_FOUND: volume db has no snapshot "none"/);
  // refused by the primary itself, which looks last
  agent.onOrder = ({ type }) => {
    if (type !== 'rollback') return;
    const details = { untouched: 'true' };
    throw new StorError('FAILED_PRECONDITION', 'a client came', { details });
  };
  t.equal(await codeOf(back()), 'FAILED_PRECONDITION: a client came');
  await rig.until(
    async () => (await client.listSnapshots({ volume: 'db' })).snapshots.length === 2,
  );
  agent.onOrder = ({ type }) => {
    if (type === 'rollback') throw new StorError('UNAVAILABLE', 'a replica is away');
  };
  t.match(
    await codeOf(back()),
    /^UNAVAILABLE: the rollback of volume db is not finished: a replica is away\. It goes on by itself.*kept as db@before-/,
  );
});

t.test('what differs between two snapshots', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  const { agent } = rig.node(0);
  agent.write(id, 'aaaa');
  await take(all, 'db', 'a');
  agent.write(id, 'abba');
  await take(all, 'db', 'b');
  agent.write(id, 'abbb');
  const diff = async (from: string, to: string, offset = 0) => {
    const found = await rig.during(client.diffSnapshots({ volume: 'db', from, to, offset }));
    t.equal(found.nextOffset, null);
    return found.extents.map(({ offset: at }) => at / (256 * 1024));
  };
  t.same(await diff('a', 'b'), [1, 2]);
  t.same(await diff('a', 'b', 256 * 1024 + 1), [2]);
  t.same(await diff('b', ''), [3]);
  t.same(await diff('', 'a'), [0, 1, 2, 3]);
  t.match(await codeOf(diff('none', '')), /^NOT_FOUND: volume db has no snapshot "none"/);
  const extents = Array.from({ length: 10_001 }, (_, i) => ({ offset: i * 2, length: 1 }));
  agent.orderPrimary = async () => ({ pausedMs: 0, intact: true, extents });
  const page = await rig.during(client.diffSnapshots({ volume: 'db', from: 'a', to: 'b' }));
  t.equal(page.extents.length, 10_000);
  t.equal(page.nextOffset, 20_000);
});

t.test('snapshots of a volume that is deleted for good are forgotten', async (t) => {
  const all = await opened(t);
  const { rig, client } = all;
  for (let i = 0; i < 70; i++) await take(all, 'db', `s${i}`);
  t.equal((await rig.cluster.store(rig.node(0).id).list(snapshotsPrefix)).items.length, 70);
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  await rig.until(async () => (await keysLeft(rig)).length === 0);
  t.same((await client.listSnapshots({ volume: '' })).snapshots, []);
});

t.test('snapshots that had one name after another are forgotten with their volume', async (t) => {
  const all = await opened(t);
  const { rig, client } = all;
  // a replica that keeps what it has, so that the first record is still there
  rig.node(2).agent.dropSnapshots = async () => {
    throw new StorError('UNAVAILABLE', 'not now');
  };
  await take(all, 'db', 'monday');
  await rig.during(client.deleteSnapshot({ name: 'db@monday' }));
  await take(all, 'db', 'monday');
  t.equal((await keysLeft(rig)).length, 3, 'two records and one name');
  await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
  await rig.until(async () => (await keysLeft(rig)).length === 0);
});

t.test('each node notes once what all its replicas have dropped', async (t) => {
  const all = await opened(t);
  const { rig, client } = all;
  const segments = 64;
  const shape = { sizeBytes: gib, segmentBytes: gib / segments };
  await rig.during(client.createVolume({ name: 'wide', ...shape, replicas: 3, labels: {} }));
  const [taken] = (await take(all, 'wide', 'monday')).snapshots;
  const { id = '' } = taken?.metadata ?? {};
  const store = rig.cluster.store(rig.node(0).id);
  const { revision } = await store.list(snapshotsPrefix);
  const stop = new AbortController();
  const changes: string[] = [];
  const watching = (async () => {
    for await (const events of store.watch(snapshotsPrefix, revision, stop.signal)) {
      for (const { type, key } of events) if (key.endsWith(id)) changes.push(type);
    }
  })();
  await rig.during(client.deleteSnapshot({ name: id }));
  await rig.until(async () => (await keysLeft(rig)).length === 0);
  stop.abort();
  await watching;
  t.equal(changes.at(-1), 'delete');
  // one says that it is being deleted, and one comes from each node
  t.ok(changes.length <= 2 + 3, `${changes.length} changes for ${segments * 3} replicas`);
});

t.test('a volume whose record cannot be read keeps its snapshots', async (t) => {
  const all = await opened(t);
  const { rig, client, ids } = all;
  const id = ids['db'] ?? '';
  const [taken] = (await take(all, 'db', 'monday')).snapshots;
  const store = rig.cluster.store(rig.node(0).id);
  const known = await store.get(volumeKey(id));
  const put = async (value: Uint8Array): Promise<void> => {
    const operations = [{ type: 'put' as const, key: volumeKey(id), value }];
    await rig.during(store.transact({ compare: [], operations }));
  };
  // of a newer version, say
  await put(new TextEncoder().encode('{}'));
  for (let turns = 0; turns < 500; turns++) await rig.turn();
  t.equal((await keysLeft(rig)).length, 2, 'its record, and its name');
  await put(known?.value ?? new Uint8Array());
  await rig.turn();
  t.match((await client.listSnapshots({ volume: 'db' })).snapshots, [
    { metadata: { id: taken?.metadata.id }, status: { state: 'ready' } },
  ]);
});
