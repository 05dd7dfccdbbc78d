import { StorError } from '@stor/protocol';
import t from 'tap';
import { TrashKeeper, trashNoteMs } from '../src/core/controllers/trash-keeper.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { Rig } from './control-plane-rig.ts';
import { volumeOn } from './volume-fixture.ts';

const dayMs = 24 * 3_600_000;

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('a deleted volume stays in the trash with its snapshots, and comes back', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const create = (name: string) =>
    rig.during(client.createVolume({ name, sizeBytes: 2 ** 30, replicas: 3, labels: { a: 'b' } }));
  const db = await create('db');
  const { id } = db.metadata;
  await rig.during(client.attachVolume({ name: 'db', node: 'n1' }));
  rig.node(0).agent.write(id, 'data');
  await rig.during(
    client.createSnapshot({ volume: 'db', selector: {}, name: 'monday', labels: {} }),
  );
  t.match(await codeOf(rig.during(client.deleteVolume({ name: 'db' }))), /^FAILED_PRECONDITION/);
  await rig.during(client.detachVolume({ name: 'db' }));
  const nowMs = rig.clock.wallMs();
  const { keptUntilMs } = await rig.during(client.deleteVolume({ name: 'db' }));
  t.ok(keptUntilMs >= nowMs + dayMs && keptUntilMs < nowMs + dayMs + 10_000);
  t.match(await codeOf(client.getVolume({ name: 'db' })), /^NOT_FOUND/);
  t.match(await codeOf(client.getSnapshot({ name: 'db@monday' })), /^NOT_FOUND/);
  t.match(await codeOf(rig.during(client.attachVolume({ name: id, node: 'n1' }))), /^NOT_FOUND/);
  const { volumes } = await client.listTrash({});
  t.match(volumes, [
    {
      metadata: { id, name: 'db', labels: { a: 'b' } },
      spec: { sizeBytes: 2 ** 30, replicas: 3 },
      status: { keptUntilMs, snapshots: 1, nodes: ['n1', 'n2', 'n3'], allocatedBytes: 5120 },
    },
  ]);
  // its replicas are nobody's orphans, and nothing happens to them
  for (let i = 0; i < 3_000; i++) await rig.turn();
  for (const { agent, control } of rig.nodes) {
    t.equal(agent.replicaList.size, 1);
    t.equal(control.orphanReplicas, 0);
  }
  t.equal((await create('db')).status.health, 'healthy', 'the name is free');
  t.match(
    await codeOf(client.undeleteVolume({ name: 'db', newName: '' })),
    /^ALREADY_EXISTS: there is a volume db already: .*undelete db --as NAME/,
  );
  t.match(await codeOf(client.undeleteVolume({ name: 'x', newName: '' })), /^NOT_FOUND: .* "x" in/);
  t.match(await codeOf(client.undeleteVolume({ name: 'db', newName: '!' })), /^INVALID_ARGUMENT/);
  const back = await rig.during(client.undeleteVolume({ name: 'db', newName: 'old' }));
  t.match(back, { metadata: { id, name: 'old' }, status: { health: 'healthy' } });
  t.same((await client.listTrash({})).volumes, []);
  t.match(await client.getSnapshot({ name: 'old@monday' }), { status: { state: 'ready' } });
  await rig.during(client.attachVolume({ name: 'old', node: 'n2' }));
  t.same(
    rig
      .node(1)
      .agent.membersOf(id)
      .map(({ image }) => image),
    ['data', 'data', 'data'],
  );
});

t.test('the trash is emptied by order, and when the time is over', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const trash = async (name: string, keepMs?: number): Promise<void> => {
    await rig.during(client.createVolume({ name, sizeBytes: 4096, replicas: 1, labels: {} }));
    await rig.during(client.createSnapshot({ volume: name, selector: {}, name: 's', labels: {} }));
    const request = keepMs === undefined ? { name } : { name, keepMs };
    await rig.during(client.deleteVolume(request));
  };
  const replicas = (): number =>
    rig.nodes.reduce((sum, { agent }) => sum + agent.replicaList.size, 0);
  for (const name of ['a', 'b', 'b', 'c']) await trash(name);
  await trash('now', 0);
  await rig.until(() => replicas() === 4);
  t.match(await codeOf(client.deleteVolume({ name: 'x', keepMs: -1 })), /^INVALID_ARGUMENT/);
  t.match(
    await codeOf(client.emptyTrash({ name: 'b' })),
    /^FAILED_PRECONDITION: 2 volumes in the trash were named b: give the id/,
  );
  const emptied = await rig.during(client.emptyTrash({ name: 'a' }));
  t.match(emptied.volumes, [{ metadata: { name: 'a' } }]);
  await rig.until(() => replicas() === 3);
  const rest = await rig.during(client.emptyTrash({ name: '' }));
  t.same(
    rest.volumes.map(({ metadata }) => metadata.name),
    ['c', 'b', 'b'],
    'newest first',
  );
  await rig.until(() => replicas() === 0);
  await trash('soon', 90_000);
  const sinceMs = rig.clock.monotonicMs();
  await rig.until(() => replicas() === 0);
  t.ok(rig.clock.monotonicMs() - sinceMs >= 89_000);
  await rig.until(async () => {
    const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/');
    return items.every(({ key }) => !/deleted|trash|snapshot|replica-status/.test(key));
  });
  t.pass('nothing is left in the store');
});

/** A volume that was deleted at 0 and is kept for a day. */
function trashed(agedMs?: number): ClusterState {
  const state = emptyState();
  const aged = agedMs === undefined ? {} : { agedMs };
  const trash = { deletedAtMs: 0, keptUntilMs: dayMs, ...aged };
  state.trash.set('v-1', { value: { ...volumeOn(['a']), trash }, modRevision: 1 });
  return state;
}

t.test('a wall clock that is wrong by years empties nothing', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  await rig.during(client.createVolume({ name: 'db', sizeBytes: 4096, replicas: 1, labels: {} }));
  await rig.during(client.deleteVolume({ name: 'db' }));
  rig.clock.wallAheadMs = 1_000 * dayMs;
  const untilMs = rig.clock.monotonicMs() + 120_000;
  await rig.until(() => rig.clock.monotonicMs() >= untilMs);
  t.equal((await client.listTrash({})).volumes.length, 1);
  const back = await rig.during(client.undeleteVolume({ name: 'db', newName: '' }));
  t.equal(back.metadata.name, 'db');
});

t.test('time in the trash is counted over changes of leader', (t) => {
  let state = trashed();
  let nowMs = 5_000_000;
  let looks = 0;
  let keeper = new TrashKeeper();
  let noted = 0;
  const look = (stepMs: number): string => {
    nowMs += stepMs;
    looks += 1;
    const [action] = keeper.plan(state, nowMs);
    if (action?.type === 'note-trash-age') {
      noted = action.agedMs;
      state = trashed(noted);
    }
    return action?.type ?? '';
  };
  t.equal(look(0), '');
  t.equal(look(dayMs), '', 'a look that comes late counts for little');
  t.equal(keeper.plan(state, nowMs).length, 0);
  while (noted < dayMs / 2) look(30_000);
  t.ok(noted < dayMs / 2 + 2 * trashNoteMs, 'what is noted is not counted twice');
  // what this one had counted and not noted is forgotten
  look(30_000);
  keeper = new TrashKeeper();
  looks = 0;
  while (look(30_000) !== 'empty-trash') if (looks > 10_000) throw new Error('never');
  const countedMs = (looks - 1) * 30_000;
  t.ok(countedMs >= dayMs / 2 - 2 * trashNoteMs && countedMs <= dayMs / 2 + 60_000);
  t.end();
});

t.test('a node that was away deletes what was deleted for good meanwhile', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const snapshot = { volume: 'db', selector: {}, name: 's', labels: {} };
  for (const how of ['keep 0', 'trash empty']) {
    await rig.during(client.createVolume({ name: 'db', sizeBytes: 4096, replicas: 3, labels: {} }));
    await rig.during(client.createSnapshot(snapshot));
    const away = rig.node(2);
    await rig.kill(away);
    if (how === 'keep 0') await rig.during(client.deleteVolume({ name: 'db', keepMs: 0 }));
    else {
      await rig.during(client.deleteVolume({ name: 'db' }));
      await rig.during(client.emptyTrash({ name: 'db' }));
    }
    const left = (): number[] => rig.nodes.map(({ agent }) => agent.replicaList.size);
    await rig.until(() => left()[0] === 0 && left()[1] === 0);
    t.equal(left()[2], 1, 'it is there, with its snapshots');
    rig.nodes[2] = await rig.start(2, away.agent);
    await rig.until(() => left()[2] === 0);
    await rig.until(async () => {
      const { items } = await rig.cluster.store(rig.node(0).id).list('/stor/');
      return items.every(({ key }) => !/deleted|trash|snapshot|replica-status/.test(key));
    });
    t.pass(how);
  }
});

t.test('an undelete when the time is just over brings all of it back, or nothing', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const keepMs = 5_000;
  const outcomes = new Set<string>();
  for (let early = 0; early < 12; early++) {
    const name = `v${early}`;
    await rig.during(client.createVolume({ name, sizeBytes: 4096, replicas: 1, labels: {} }));
    await rig.during(client.createSnapshot({ volume: name, selector: {}, name: 's', labels: {} }));
    await rig.during(client.deleteVolume({ name, keepMs }));
    const untilMs = rig.clock.monotonicMs() + keepMs - 600 + early * 150;
    await rig.until(() => rig.clock.monotonicMs() >= untilMs);
    const outcome = await codeOf(rig.during(client.undeleteVolume({ name, newName: '' })));
    outcomes.add(outcome.split(':')[0] ?? '');
    for (let turns = 0; turns < 200; turns++) await rig.turn();
    const replicas = rig.nodes.flatMap(({ agent }) => [...agent.replicaList.values()]);
    if (outcome === 'no error') {
      t.equal((await client.listSnapshots({ volume: name })).snapshots.length, 1);
      t.equal(replicas[0]?.snapshots.size, 1);
      await rig.during(client.deleteVolume({ name, keepMs: 0 }));
    }
    await rig.until(() => rig.nodes.every(({ agent }) => agent.replicaList.size === 0));
  }
  t.same([...outcomes].sort(), ['NOT_FOUND', 'no error'], 'both sides of the border were met');
});
