import type { EventNote } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import fc from 'fast-check';
import t from 'tap';
import type { Test } from 'tap';
import { EventLog } from '../src/agent/event-log.ts';
import {
  eventId,
  eventTimeMs,
  eventWindowMs,
  maxEventAgeMs,
  maxEvents,
  maxMessageLength,
  surplusEvents,
} from '../src/core/events/event-record.ts';
import { eventKey, eventsPrefix } from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { StateCache } from '../src/resources/state-cache.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import { nodeIds } from './control-plane-rig.ts';

const all = { volume: '', afterRevision: 0, limit: 0 };

function note(message: string, change: Partial<EventNote> = {}): EventNote {
  return {
    type: 'warning',
    reason: 'bad-block-found',
    object: { kind: 'replica', id: 'r-1' },
    volumeId: 'v-1',
    message,
    ...change,
  };
}

/** Logs of so many nodes over one cluster store in memory, in fake time. */
class Logs {
  readonly clock = new FakeClock();
  readonly cluster: MemoryCluster;
  readonly logs: EventLog[];

  constructor(t: Test, nodes: number) {
    const { clock } = this;
    const ids = nodeIds.slice(0, nodes);
    this.cluster = new MemoryCluster({ ids, clock, random: new SeededRandom(1) });
    const random = new SeededRandom(7);
    this.logs = ids.map((nodeId, index) => {
      const store = this.cluster.store(nodeId);
      const cache = new StateCache(store, clock, silentLogger);
      const node = { nodeId, nodeName: `n${index + 1}` };
      const log = new EventLog({ store, cache, ...node, clock, random, logger: silentLogger });
      t.teardown(async () => {
        await Promise.all([log.close(), cache.close()]);
      });
      return log;
    });
    t.teardown(() => {
      this.cluster.close();
    });
  }

  at(index: number): EventLog {
    const log = this.logs[index];
    if (!log) throw new Error(`no log ${index}`);
    return log;
  }

  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 500) {
      this.clock.advance(Math.min(left, 500));
      for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }
}

t.test('ids sort by time, and say it', (t) => {
  fc.assert(
    fc.property(
      fc.nat(2 ** 44),
      fc.nat(2 ** 44),
      fc.uint8Array({ minLength: 4 }),
      (a, b, bytes) => {
        const one = eventId(a, bytes.subarray(0, 2));
        const two = eventId(b, bytes.subarray(2, 4));
        return eventTimeMs(one) === a && (a === b || one < two === a < b);
      },
    ),
  );
  t.same(eventTimeMs('e-nonsense'), NaN);
  t.end();
});

t.test('what is surplus: the oldest, and what is older than a week', (t) => {
  const at = (ms: number): string => eventId(ms, Uint8Array.of(0, 0));
  const now = maxEventAgeMs * 2;
  const old = [at(1), at(now - maxEventAgeMs - 1)];
  const kept = Array.from({ length: 10 }, (_, i) => at(now - 10 + i));
  t.same(surplusEvents([...old, ...kept], now), old);
  const many = Array.from({ length: maxEvents + 3 }, (_, i) => at(now - maxEvents + i));
  t.same(surplusEvents(many, now), many.slice(0, 3));
  t.end();
});

t.test('the same thing counts up, on whatever node it is seen', async (t) => {
  const logs = new Logs(t, 2);
  const { clock } = logs;
  const pass = (ms: number): Promise<void> => logs.pass(ms);
  const [one, two] = [logs.at(0), logs.at(1)];
  one.note(note('first', { count: 3 }));
  one.note(note('second'));
  one.note(note('another', { object: { kind: 'replica', id: 'r-2' } }));
  await pass(500);
  const began = await one.list(all);
  t.equal(began.events.length, 2);
  t.match(began.events[0], { message: 'second', count: 4, node: 'n1', type: 'warning' });
  one.note(note('third'));
  await pass(1_000);
  t.match((await one.list(all)).events[0], { count: 4 }, 'repeats are gathered first');
  await pass(5_000);
  two.note(note('elsewhere'));
  await pass(500);
  const { events, revision } = await two.list(all);
  t.equal(events.length, 2, 'no second event of the same thing');
  t.match(events[1], { message: 'elsewhere', count: 6, node: 'n2' });
  t.match(events[1], { firstMs: began.events[0]?.firstMs, lastMs: clock.wallMs() - 500 });
  t.same((await two.list({ ...all, afterRevision: revision })).events, [], 'nothing is new');
  one.note(note('the first node again'));
  await pass(6_000);
  const after = await one.list({ ...all, afterRevision: revision });
  t.match(after.events, [{ count: 7, node: 'n1' }], 'it is counted on what the other wrote');
  await pass(eventWindowMs);
  one.note(note('later'));
  await pass(500);
  t.equal((await one.list(all)).events.length, 3, 'later it is another event');
});

t.test('lists of a volume, and the last few', async (t) => {
  const logs = new Logs(t, 1);
  for (let i = 0; i < 5; i++) {
    const object = { kind: 'replica' as const, id: `r-${i}` };
    logs.at(0).note(note(`${i}`, { object, volumeId: i % 2 === 0 ? 'v-1' : 'v-2' }));
  }
  logs.at(0).note(note('x'.repeat(2_000), { object: { kind: 'volume', id: 'v-3' } }));
  await logs.pass(500);
  const list = async (volume: string, limit: number): Promise<string[]> =>
    (await logs.at(0).list({ volume, afterRevision: 0, limit })).events.map((e) => e.message);
  t.same(await list('v-1', 0), ['0', '2', '4', `${'x'.repeat(maxMessageLength - 1)}…`]);
  t.same(await list('v-2', 1), ['3']);
  t.same(await list('v-none', 0), []);
});

t.test('without a leader events wait, and a queue that is full says so', async (t) => {
  const logs = new Logs(t, 1);
  logs.cluster.setLeader(null);
  for (let i = 0; i < 300; i++) {
    logs.at(0).note(note(`${i}`, { object: { kind: 'replica', id: `r-${i}` } }));
  }
  await logs.pass(11_000);
  logs.cluster.setLeader(nodeIds[0] ?? null);
  t.same((await logs.at(0).list(all)).events, []);
  await logs.pass(11_000);
  const { events } = await logs.at(0).list(all);
  const dropped = events.filter(({ reason }) => reason === 'events-dropped');
  t.equal(events.length - dropped.length, 256);
  t.match(dropped, [{ count: 300 - 256, object: { kind: 'node' } }]);
});

t.test('a node writes so many new events in a minute', async (t) => {
  const logs = new Logs(t, 1);
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 100; i++) {
      logs.at(0).note(note('x', { object: { kind: 'replica', id: `r-${round}-${i}` } }));
    }
    await logs.pass(6_000);
  }
  await logs.pass(12_000);
  const { events } = await logs.at(0).list(all);
  const others = events.filter(({ reason }) => reason !== 'events-dropped');
  t.equal(others.length, 300);
  t.match(
    events.filter(({ reason }) => reason === 'events-dropped').map(({ count }) => count),
    [100],
  );
});

t.test('the leader drops what is old; a record that cannot be read harms nobody', async (t) => {
  const logs = new Logs(t, 2);
  const store = logs.cluster.store(nodeIds[0] ?? '');
  logs.at(0).note(note('old'));
  await logs.pass(500);
  const key = eventKey(eventId(logs.clock.wallMs(), Uint8Array.of(9, 9)));
  await store.transact({
    compare: [],
    operations: [{ type: 'put', key, value: encodeRecord({ nothing: true }) }],
  });
  logs.at(1).note(note('old again'));
  await logs.pass(500);
  t.match((await logs.at(1).list(all)).events, [{ count: 2 }]);
  logs.clock.advance(maxEventAgeMs);
  logs.at(0).note(note('new'));
  await logs.pass(61_000);
  const { items } = await store.list(eventsPrefix);
  t.equal(items.length, 1);
  t.match((await logs.at(0).list(all)).events, [{ message: 'new', count: 1 }]);
});

t.test('a log that closes writes what waits', async (t) => {
  const logs = new Logs(t, 1);
  logs.at(0).note(note('last words'));
  await logs.at(0).close();
  t.match((await logs.at(0).list(all)).events, [{ message: 'last words' }]);
  logs.at(0).note(note('too late'));
  await logs.pass(10_000);
  t.equal((await logs.at(0).list(all)).events.length, 1);
});
