// What a newer version has written into records is still there after this one has rewritten them.
import t from 'tap';
import { rootPrefix } from '../src/resources/keys.ts';
import { Rig } from './control-plane-rig.ts';

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Free tables of names and values, in which a field of its own would be another entry. */
const tables = new Set(['labels', 'replicaBytes']);
/** Keys whose value is a text, and leases, which each start of an agent makes anew. */
const unmarked = /^\/stor\/(volume-names|snapshot-names|node-names|node-leases|replica-status)\//;

/** Adds a field that nobody knows to each object, however deep. */
function marked(value: unknown, name = ''): unknown {
  if (Array.isArray(value)) return value.map((each) => marked(each));
  if (!isObject(value) || tables.has(name)) return value;
  const inner = Object.entries(value).map(([key, each]) => [key, marked(each, key)]);
  return { ...(Object.fromEntries(inner) as Json), xNext: { kept: [1, { deep: true }] } };
}

/**
 * Where a mark is gone though the object is still there. Members of lists are told apart by their id
 * or index; what has become null, or was taken out, is no loss.
 */
function lost(before: unknown, after: unknown, path: string): string[] {
  if (Array.isArray(before) && Array.isArray(after)) {
    const idOf = (each: unknown): unknown =>
      isObject(each) ? (each['id'] ?? each['runId'] ?? each['index']) : undefined;
    return before.flatMap((each: unknown) => {
      const id = idOf(each);
      if (id === undefined) return [];
      const now: unknown = after.find((other) => idOf(other) === id);
      return now === undefined ? [] : lost(each, now, `${path}[${JSON.stringify(id)}]`);
    });
  }
  if (!isObject(before) || !isObject(after)) return [];
  // another grant is no change of the old one; and how an agent is reached only it says, at each start
  if (path.endsWith('.attachment') && before['epoch'] !== after['epoch']) return [];
  if (path.endsWith('.addresses')) return [];
  const here =
    JSON.stringify(before['xNext']) === JSON.stringify(after['xNext']) ? [] : [path || '(record)'];
  return [
    ...here,
    ...Object.keys(before)
      .filter((key) => key !== 'xNext')
      .flatMap((key) => lost(before[key], after[key], `${path}.${key}`)),
  ];
}

async function records(rig: Rig): Promise<Map<string, { json: Json; modRevision: number }>> {
  const { items } = await rig.cluster.store(rig.node(0).id).list(rootPrefix, { local: true });
  const found = items.filter(({ key }) => !unmarked.test(key));
  return new Map(
    found.map(({ key, value, modRevision }) => {
      const json = JSON.parse(new TextDecoder().decode(value)) as Json;
      return [key, { json, modRevision }];
    }),
  );
}

/** As though a newer version had written them all. */
async function markAll(rig: Rig): Promise<void> {
  for (const [key, { json }] of await records(rig)) {
    const value = new TextEncoder().encode(JSON.stringify(marked(json)));
    const operation = { type: 'put' as const, key, value };
    await rig.cluster.store(rig.node(0).id).transact({ compare: [], operations: [operation] });
  }
}

t.test('fields that this version does not know outlive every change that it makes', async (t) => {
  const rig = await Rig.open(4);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  const client = rig.client();
  const during = <T>(promise: Promise<T>): Promise<T> => rig.during(promise);
  await during(client.createVolume({ name: 'db', sizeBytes: 2 ** 30, replicas: 3, labels: {} }));
  await during(client.createVolume({ name: 'old', sizeBytes: 2 ** 30, replicas: 2, labels: {} }));
  await during(client.attachVolume({ name: 'db', node: 'n1' }));
  await during(client.createSnapshot({ volume: 'db', selector: {}, name: 'one', labels: {} }));
  await during(client.setPool({ repairReservePercent: 11 }));
  await during(client.setScrub({ everyMs: 0 }));
  await during(client.startScrub({ volume: 'db' }));

  const steps: [string, () => Promise<unknown>][] = [
    ['label', () => client.labelNode({ name: 'n2', set: { rack: 'a' }, remove: [] })],
    ['cordon', () => client.orderNode({ name: 'n2', verb: 'cordon' })],
    ['uncordon', () => client.orderNode({ name: 'n2', verb: 'uncordon' })],
    ['pool', () => client.setPool({ repairReservePercent: 12 })],
    ['scrub settings', () => client.setScrub({ rateBytesPerSecond: 2 ** 20 })],
    ['scrub paused', () => client.pauseScrub({ volume: 'db', paused: true })],
    ['scrub stopped', () => client.stopScrub({ volume: 'db' })],
    ['policy', () => client.updateVolume({ name: 'db', policy: { ioTimeoutMs: 9_000 } })],
    ['fewer', () => client.updateVolume({ name: 'db', replicas: 2 })],
    ['more', () => client.updateVolume({ name: 'db', replicas: 3 })],
    ['growth', () => client.resizeVolume({ name: 'db', sizeBytes: 2 ** 31 })],
    ['move', () => client.movePrimary({ name: 'db', node: 'n3' })],
    ['detach', () => client.detachVolume({ name: 'db' })],
    ['fence', () => client.fenceVolume({ name: 'db' })],
    ['disk', () => client.evacuateDisk({ disk: 'd-0000000000000004', force: true })],
    ['snapshot', () => client.deleteSnapshot({ name: 'db@one' })],
  ];
  for (const [name, step] of steps) {
    await markAll(rig);
    const before = await records(rig);
    await during(step());
    // controllers, reports and nodes have their turn too
    for (let i = 0; i < 30; i++) await rig.turn();
    const after = await records(rig);
    let rewritten = 0;
    for (const [key, { json, modRevision }] of before) {
      const now = after.get(key);
      if (now && now.modRevision !== modRevision) rewritten += 1;
      t.same(now ? lost(json, now.json, '') : [], [], `${name}: ${key}`);
    }
    t.ok(rewritten > 0 || after.size !== before.size, `${name} writes something`);
  }

  await t.test('through the trash and back, and through the loss of a node', async (t) => {
    await markAll(rig);
    const { id } = (await client.getVolume({ name: 'old' })).metadata;
    const before = (await records(rig)).get(`/stor/volumes/${id}`);
    await during(client.deleteVolume({ name: 'old' }));
    const trashed = (await records(rig)).get(`/stor/trash/${id}`);
    t.same(lost(before?.json, trashed?.json, ''), []);
    await during(client.undeleteVolume({ name: 'old', newName: '' }));
    t.same(lost(before?.json, (await records(rig)).get(`/stor/volumes/${id}`)?.json, ''), []);
    const all = await records(rig);
    const dead = rig.node(3);
    await rig.kill(dead);
    rig.nodes[3] = await rig.start(3, dead.agent);
    await rig.until(() => rig.node(3).control.readiness().ready);
    const now = await records(rig);
    for (const [key, { json }] of all) t.same(lost(json, now.get(key)?.json, ''), [], key);
  });
});

t.test('a field that is dropped is seen', async (t) => {
  const record = { spec: { a: 1 }, list: [{ id: 'x' }], labels: { k: 'v' } };
  const before = marked(record) as Json;
  t.same(lost(before, before, ''), []);
  t.same(lost(before, { ...before, spec: { a: 2 } }, ''), ['.spec']);
  t.same(lost(before, { ...before, list: [{ id: 'x' }] }, ''), ['.list["x"]']);
  t.same(lost(before, { ...record, spec: before['spec'], list: before['list'] }, ''), ['(record)']);
});
