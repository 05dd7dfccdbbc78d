import { StorError } from '@stor/protocol';
import type { NodeIntent, NodeVerb } from '@stor/protocol';
import t from 'tap';
import { changedIntent } from '../src/core/node/change-intent.ts';
import {
  cordonOf,
  isDrained,
  isEvacuated,
  isInMaintenance,
  takesAttachments,
  takesReplicas,
  withIntent,
} from '../src/core/node/node-intent.ts';
import { placeReplicas } from '../src/core/placement/place-replicas.ts';
import { decodeNode, encodeRecord } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';
import { clusterOf } from './volume-fixture.ts';

const node = (spec?: NodeIntent) => ({ name: 'n1', ...(spec ? { spec } : {}) });

function said(run: () => unknown): string {
  try {
    return JSON.stringify(run());
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('what a node takes and gives away follows from what is wanted of it', async (t) => {
  const sinceMs = 5;
  const rows: [NodeIntent, string | null, boolean, boolean][] = [
    [{}, null, false, false],
    [{ cordoned: { sinceMs, reason: '' } }, 'is cordoned', false, false],
    [{ cordoned: { sinceMs, reason: 'old' } }, 'is cordoned (old)', false, false],
    [{ drain: { sinceMs } }, 'is drained', true, false],
    [{ evacuate: { sinceMs } }, 'is being evacuated', false, true],
    [{ maintenance: { sinceMs, untilMs: 9 } }, 'is in maintenance', false, false],
    [{ decommission: { sinceMs } }, 'is being decommissioned', true, true],
  ];
  for (const [spec, cordon, drained, evacuated] of rows) {
    const known = node(spec);
    t.equal(cordonOf(known), cordon);
    t.same([takesReplicas(known), takesAttachments(known)], [cordon === null, cordon === null]);
    t.same([isDrained(known), isEvacuated(known)], [drained, evacuated]);
  }
  t.ok(takesReplicas(undefined), 'a node of an older version');
  const inMaintenance = node({ maintenance: { sinceMs, untilMs: 9 } });
  t.same([isInMaintenance(inMaintenance, 8), isInMaintenance(inMaintenance, 9)], [true, false]);
});

t.test('cordon and uncordon', async (t) => {
  const order = (verb: string, reason = '') => ({ verb: verb as NodeVerb, reason });
  const cordoned = changedIntent(node(), order('cordon', 'old'), 7);
  t.same(cordoned, { cordoned: { sinceMs: 7, reason: 'old' } });
  t.equal(changedIntent(node(cordoned ?? {}), order('cordon'), 9), null, 'again');
  t.same(changedIntent(node(cordoned ?? {}), order('cordon', 'new'), 9), {
    cordoned: { sinceMs: 7, reason: 'new' },
  });
  t.equal(changedIntent(node(), order('uncordon'), 9), null);
  const all = { ...cordoned, drain: { sinceMs: 1 }, evacuate: { sinceMs: 1 } };
  const maintenance = { sinceMs: 1, untilMs: 2 };
  t.same(changedIntent(node({ ...all, maintenance }), order('uncordon'), 9), { maintenance });
  const leaving = node({ decommission: { sinceMs: 1 } });
  t.match(
    said(() => changedIntent(leaving, order('uncordon'), 9)),
    /^FAILED_PRE.*--cancel/,
  );
  t.match(
    said(() => changedIntent(node(), order('cordon', 'x'.repeat(201)), 9)),
    /at most 200/,
  );
  t.match(
    said(() => changedIntent(node(), order('melt'), 9)),
    /^INVALID_ARGUMENT: verb "melt"/,
  );
  t.same(withIntent(node(all), {}), node(), 'nothing is left of it in the record');
});

t.test('a record keeps what a newer version wants of the node', async (t) => {
  const state = clusterOf({ a: {} });
  const known = state.nodes.get('a')?.value;
  const record = {
    ...known,
    spec: { drain: { sinceMs: 1, pace: 'slow' }, hibernate: { deep: true } },
  };
  t.same(decodeNode('/stor/nodes/a', encodeRecord(record)), record);
});

t.test('placement passes over a cordoned node and says so', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const known = state.nodes.get('b');
  if (!known) throw new Error('no node');
  const spec = { cordoned: { sinceMs: 1, reason: 'new disks' } };
  state.nodes.set('b', { ...known, value: { ...known.value, spec } });
  t.same(
    placeReplicas(state, 2).map(({ nodeId }) => nodeId),
    ['a', 'c'],
  );
  t.match(
    said(() => placeReplicas(state, 3)),
    /2 nodes qualify: b is cordoned \(new disks\)/,
  );
});

t.test('a cordon is recorded, obeyed, and outlives the agent', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const planned = await client.orderNode({ name: 'n2', verb: 'cordon', plan: true });
  t.match(planned, { verb: 'cordon', safe: true, reasons: [], moves: [] });
  t.equal((await client.getNode({ name: 'n2' })).spec.cordoned, null, 'a plan changes nothing');
  const { node: before } = planned;
  const done = await client.orderNode({ name: 'n2', verb: 'cordon', reason: 'old' });
  t.match(done.node.spec, { cordoned: { reason: 'old' } });
  const again = await client.orderNode({ name: 'n2', verb: 'cordon' });
  t.equal(again.node.metadata.resourceVersion, done.node.metadata.resourceVersion);
  t.match(
    await client
      .orderNode({
        name: 'n2',
        verb: 'uncordon',
        resourceVersion: before.metadata.resourceVersion,
      })
      .catch((error: unknown) => error),
    { code: 'CONFLICT', message: /has changed since version/ },
  );
  await client.createVolume({ name: 'db', sizeBytes: 2 ** 30, replicas: 2, labels: {} });
  const { status } = await client.getVolume({ name: 'db' });
  t.same(status.replicas.map((replica) => replica.node).sort(), ['n1', 'n3']);
  const old = rig.node(1);
  await rig.kill(old);
  rig.nodes[1] = await rig.start(1, old.agent);
  await rig.until(() => rig.node(1).control.readiness().ready);
  t.match((await client.getNode({ name: 'n2' })).spec, { cordoned: { reason: 'old' } });
  const freed = await client.orderNode({ name: 'n2', verb: 'uncordon' });
  t.equal(freed.node.spec.cordoned, null);
  await client.createVolume({ name: 'next', sizeBytes: 2 ** 30, replicas: 3, labels: {} });
  t.match(await client.orderNode({ name: 'n9', verb: 'cordon' }).catch((error: unknown) => error), {
    code: 'NOT_FOUND',
  });
});
