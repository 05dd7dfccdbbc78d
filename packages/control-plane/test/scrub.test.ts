/** When scrubs begin, who is asked to do them, and what is kept of them. */
import type { ScrubOrder, ScrubProgress } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { Controllers } from '../src/core/controllers/controllers.ts';
import type { Action } from '../src/core/controllers/controllers.ts';
import { maxScheduledScrubs, scrubAttachDelayMs } from '../src/core/scrub/scrub-planner.ts';
import {
  begun,
  defaultScrubSettings,
  describeScrub,
  ended,
  fractionOf,
  maxScrubHistory,
  nextDueMs,
  pausedTo,
  progressed,
} from '../src/core/scrub/scrub-record.ts';
import type { ScrubRecord } from '../src/core/scrub/scrub-record.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { Rig } from './control-plane-rig.ts';
import { clusterOf, volumeOn } from './volume-fixture.ts';

const day = 86_400_000;
const noCounts = { bytes: 0, found: 0, repaired: 0, kept: 0, diverged: 0 };

function progress(runId: string, change: Partial<ScrubProgress> = {}): ScrubProgress {
  return {
    runId,
    state: 'running',
    message: '',
    position: { segment: 0, chunk: 7 },
    counts: { ...noCounts, bytes: 100, found: 1 },
    bytesRemaining: 300,
    bytesPerSecond: 50,
    ...change,
  };
}

t.test('the first scrubs are spread over the period, evenly', (t) => {
  const ids = Array.from({ length: 1_000 }, (_, i) => `v-${i.toString(16).padStart(16, '0')}`);
  const tenths = new Array<number>(10).fill(0);
  for (const id of ids) {
    const tenth = Math.floor(fractionOf(id) * 10);
    tenths[tenth] = (tenths[tenth] ?? 0) + 1;
  }
  for (const count of tenths) t.ok(count > 60 && count < 150, `${count} of 100`);
  t.end();
});

t.test('a run begins, is paused, goes on and ends', (t) => {
  const volume = volumeOn(['a', 'b', 'c']);
  const { id } = volume.metadata;
  const first = begun(null, id, { reason: 'schedule', nowWallMs: 5 });
  t.match(first, { volumeId: id, run: { paused: false, reason: 'schedule', startedAtMs: 5 } });
  const { run } = first;
  if (!run) throw new Error('no run');
  t.equal(nextDueMs(first, volume, defaultScrubSettings), null);
  const held = pausedTo(first, true);
  if (!held) throw new Error('not paused');
  t.equal(pausedTo(held, true), null);
  t.match(describeScrub(volume, held, defaultScrubSettings), { state: 'paused' });
  t.match(begun(held, id, { reason: 'order', nowWallMs: 9 }).run, { id: run.id, paused: false });
  t.equal(progressed(first, progress('another'), 7), null);
  const seen = progressed(first, progress(run.id), 7);
  t.match(seen?.run, { position: { chunk: 7 }, counts: { bytes: 100 }, seenAtMs: 7 });
  const over = progressed(first, progress(run.id, { state: 'finished' }), 8);
  t.match(over, { run: null, history: [{ complete: true, endedAtMs: 8, counts: { found: 1 } }] });
  t.equal(nextDueMs(over, volume, defaultScrubSettings), 5 + 7 * day);
  t.equal(nextDueMs(over, volume, { ...defaultScrubSettings, everyMs: 0 }), null);
  t.end();
});

t.test('the last ends are remembered', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 30 }), (count) => {
      let record: ScrubRecord | null = null;
      for (let i = 0; i < count; i++) {
        record = ended(begun(record, 'v', { reason: 'order', nowWallMs: i }), i % 2 === 0, i + 1);
      }
      const started = record?.history.map(({ startedAtMs }) => startedAtMs) ?? [];
      const wanted = Array.from({ length: count }, (_, i) => i).slice(-maxScrubHistory);
      return JSON.stringify(started) === JSON.stringify(wanted);
    }),
  );
  t.end();
});

function planned(controllers: Controllers, state: ClusterState, nowMs: number): Action[] {
  const now = { monotonicMs: nowMs, wallMs: nowMs };
  return controllers
    .plan(state, now, () => 'r-new')
    .filter(({ type }) => ['put-scrub', 'forget-scrub', 'ask-attach'].includes(type));
}

function put(state: ClusterState, action: Action): void {
  if (action.type !== 'put-scrub') return;
  state.scrubs.set(action.record.volumeId, { value: action.record, modRevision: 1 });
}

t.test('due scrubs begin, the latest first, a few at a time', (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  for (let i = 0; i < 10; i++) {
    const volume = volumeOn(['a', 'b', 'c']);
    const metadata = {
      ...volume.metadata,
      id: `v-${i}`,
      name: `v${i}`,
      createdAtMs: -i * 30 * day,
    };
    state.volumes.set(metadata.id, { modRevision: 1, value: { ...volume, metadata } });
  }
  const controllers = new Controllers();
  const first = planned(controllers, state, 8 * day);
  t.equal(first.length, maxScheduledScrubs);
  t.match(first[0], { type: 'put-scrub', modRevision: 0, record: { volumeId: 'v-9' } });
  for (const action of first) put(state, action);
  t.notOk(planned(controllers, state, 8 * day + 1).some(({ type }) => type === 'put-scrub'));
  const done = state.scrubs.get('v-9')?.value;
  if (done) state.scrubs.set('v-9', { value: ended(done, true, 8 * day), modRevision: 2 });
  const next = planned(controllers, state, 8 * day + 2).filter(({ type }) => type === 'put-scrub');
  t.match(next, [{ record: { volumeId: 'v-5' } }]);
  state.scrubSettings = { modRevision: 1, value: { ...defaultScrubSettings, everyMs: 0 } };
  t.notOk(
    planned(controllers, state, 99 * day).some(({ type }) => type === 'put-scrub'),
    'off',
  );
  state.volumes.delete('v-9');
  const gone = planned(controllers, state, 99 * day).filter(({ type }) => type === 'forget-scrub');
  t.match(gone, [{ volumeId: 'v-9', modRevision: 2 }]);
  t.end();
});

t.test('a volume that is attached nowhere is attached for its scrub', (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const volume = volumeOn(['a', 'b', 'c']);
  const { id } = volume.metadata;
  state.volumes.set(id, { modRevision: 1, value: volume });
  const run = begun(null, id, { reason: 'order', nowWallMs: 0 });
  state.scrubs.set(id, { value: run, modRevision: 1 });
  const controllers = new Controllers();
  t.same(planned(controllers, state, 0), [], 'clients come first');
  const asked = planned(controllers, state, scrubAttachDelayMs);
  t.match(asked, [{ type: 'ask-attach', nodeId: 'a', mode: 'repair', onlyIfWanted: false }]);
  t.same(planned(controllers, state, scrubAttachDelayMs + 1_000), []);
  t.match(
    planned(controllers, state, scrubAttachDelayMs + 5_000),
    [{ nodeId: 'b' }],
    'another one',
  );
  state.scrubs.set(id, { value: pausedTo(run, true) ?? run, modRevision: 2 });
  t.same(planned(controllers, state, 60_000), [], 'not while it is paused');
  state.scrubs.set(id, { value: run, modRevision: 3 });
  const attachment = {
    nodeId: 'c',
    agentInstance: 'i-c',
    epoch: 1,
    mode: 'auto' as const,
    sinceMs: 0,
  };
  const status = { ...volume.status, attachment };
  state.volumes.set(id, { modRevision: 2, value: { ...volume, status } });
  t.same(planned(controllers, state, 120_000), [], 'nor when somebody has it');
  state.leases.delete('c');
  t.same(planned(controllers, state, 121_000), []);
  t.match(planned(controllers, state, 123_000), [{ type: 'ask-attach' }], 'but when he has died');
  t.end();
});

t.test('nothing is planned for an empty cluster', (t) => {
  t.same(planned(new Controllers(), emptyState(), 99 * day), []);
  t.end();
});

t.test('ordered, driven, counted and remembered', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const created = client.createVolume({ name: 'db', sizeBytes: 2 ** 20, replicas: 3, labels: {} });
  const { metadata } = await rig.during(created);
  const orders: ScrubOrder[] = [];
  let bytes = 0;
  for (const node of rig.nodes) {
    node.agent.scrubs.set(metadata.id, (order) => {
      orders.push(order);
      if (!order.paused) bytes += 10;
      const isOver = bytes > 60;
      return progress(order.runId, {
        state: isOver ? 'finished' : order.paused ? 'paused' : 'running',
        counts: { ...noCounts, bytes, found: 2, repaired: 2 },
        bytesRemaining: isOver ? 0 : 100,
      });
    });
  }
  t.match(await rig.during(client.listScrubs({ volume: 'db' })), {
    settings: defaultScrubSettings,
    scrubs: [{ volume: 'db', state: 'idle', startedAtMs: null, history: [] }],
  });
  t.match(await rig.during(client.startScrub({ volume: 'db' })), {
    scrubs: [{ state: 'waiting' }],
  });
  await rig.until(() => orders.length > 2);
  t.match(orders[0], { position: { segment: 0, chunk: 0 }, paused: false, counts: noCounts });
  t.equal(orders[0]?.rateBytesPerSecond, defaultScrubSettings.rateBytesPerSecond);
  const scrub = async () => (await rig.during(client.listScrubs({ volume: 'db' }))).scrubs[0];
  t.match(await scrub(), { state: 'running', nextDueMs: null, counts: { found: 2 } });
  await rig.during(client.setScrub({ rateBytesPerSecond: 2 ** 21 }));
  await rig.during(client.pauseScrub({ volume: '', paused: true }));
  await rig.until(() => orders.at(-1)?.paused === true);
  t.match(await scrub(), { state: 'paused' });
  t.equal(orders.at(-1)?.rateBytesPerSecond, 2 ** 21);
  await rig.during(client.pauseScrub({ volume: 'db', paused: false }));
  await rig.until(async () => (await scrub())?.state === 'idle');
  t.match(await scrub(), {
    history: [{ complete: true, reason: 'order', counts: { found: 2, repaired: 2 } }],
  });
  await rig.until(async () => {
    const { events } = await client.listEvents({ volume: 'db', afterRevision: 0, limit: 0 });
    return events.some(({ reason, type }) => reason === 'scrub-finished' && type === 'warning');
  });
  bytes = 0;
  await rig.during(client.startScrub({ volume: metadata.id }));
  await rig.during(client.stopScrub({ volume: 'db' }));
  t.match((await scrub())?.history, [{ complete: true }, { complete: false }]);
  await t.rejects(rig.during(client.startScrub({ volume: 'none' })), { code: 'NOT_FOUND' });
  await t.rejects(rig.during(client.setScrub({ everyMs: 5 })), { code: 'INVALID_ARGUMENT' });
  await t.rejects(rig.during(client.setScrub({ rateBytesPerSecond: 5 })), {
    code: 'INVALID_ARGUMENT',
  });
  t.match(await rig.during(client.setScrub({ everyMs: 0 })), { everyMs: 0 });
  t.match(await scrub(), { nextDueMs: null });
});

t.test('a failed replica is an event', async (t) => {
  const rig = await Rig.open();
  t.teardown(() => rig.close());
  const client = rig.client();
  const created = client.createVolume({ name: 'db', sizeBytes: 2 ** 20, replicas: 3, labels: {} });
  const volume = await rig.during(created);
  const [replica] = volume.status.replicas;
  const node = rig.nodes.find(({ id }) => id === replica?.nodeId);
  if (!replica || !node) throw new Error('no replica');
  const { id: replicaId, diskId } = replica;
  await rig.during(node.control.reportFailure({ diskId, replicaId, reason: 'write: EIO' }));
  await rig.until(async () => {
    const { events } = await client.listEvents({ volume: '', afterRevision: 0, limit: 0 });
    return events.some(({ reason }) => reason === 'replica-failed');
  });
  const { events } = await rig.during(
    client.listEvents({ volume: 'db', afterRevision: 0, limit: 0 }),
  );
  t.match(events, [{ reason: 'replica-failed', volume: 'db', type: 'warning', count: 1 }]);
});
