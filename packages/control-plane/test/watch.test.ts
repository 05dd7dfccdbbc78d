import { decodeWatchBatch } from '@stor/protocol';
import type {
  ApiClient,
  StorError,
  WatchBatch,
  WatchedChange,
  WatchEvent,
  WatchKind,
  WatchOptions,
  WatchPosition,
} from '@stor/protocol';
import { silentLogger, type Clock } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { WatchService } from '../src/api/watch-service.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { StateCache } from '../src/resources/state-cache.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import { Rig } from './control-plane-rig.ts';

/** A reader of a watch, and what it has folded. */
class Reader {
  readonly events: WatchEvent[] = [];
  readonly objects = new Map<string, WatchedChange['object']>();
  readonly troubles: string[] = [];
  readonly stop = new AbortController();
  error: unknown = null;
  isOver = false;

  constructor(client: ApiClient, options: WatchOptions = {}) {
    const { signal } = this.stop;
    const onTrouble = (error: StorError | null): void => {
      this.troubles.push(error?.message ?? 'on');
    };
    void this.#read(client.watch({ ...options, signal, onTrouble }));
  }

  async #read(events: AsyncIterable<WatchEvent>): Promise<void> {
    try {
      for await (const event of events) this.#fold(event);
    } catch (error) {
      this.error = error;
    }
    this.isOver = true;
  }

  #fold(event: WatchEvent): void {
    this.events.push(event);
    if (event.type === 'SYNCED' || event.type === 'BOOKMARK') return;
    const key = `${event.kind} ${event.object.metadata.name}`;
    if (event.type === 'DELETED') this.objects.delete(key);
    else this.objects.set(key, event.object);
  }

  get isSynced(): boolean {
    return this.events.some(({ type }) => type === 'SYNCED');
  }

  told(name: string): string[] {
    return this.events.flatMap((event) =>
      'object' in event && event.object.metadata.name === name ? [event.type] : [],
    );
  }
}

async function closed(rig: Rig, ...readers: Reader[]): Promise<void> {
  for (const { stop } of readers) stop.abort();
  await rig.until(() => readers.every(({ isOver }) => isOver));
  await rig.close();
}

const volume = (name: string) => ({ name, sizeBytes: 2 ** 20, replicas: 2, labels: {} });

t.test('a watch tells what is there, then what happens, at any node', async (t) => {
  const rig = await Rig.open();
  await rig.during(rig.client().createVolume(volume('first')));
  const readers = rig.nodes.map(({ api }) => new Reader(rig.client([api])));
  await rig.until(() => readers.every(({ isSynced }) => isSynced));
  for (const reader of readers) {
    const listed = reader.events.slice(0, -1).map((event) => event.type);
    t.ok(listed.every((type) => type === 'ADDED'));
    t.equal(reader.events.at(-1)?.type, 'SYNCED');
    t.same([...reader.objects.keys()].map((key) => key.replace(/:.*/, '')).sort(), [
      ...['disk n1', 'disk n2', 'disk n3', 'node n1', 'node n2', 'node n3'],
      ...['policy bronze', 'policy gold', 'policy silver', 'volume first'],
    ]);
  }
  await rig.during(rig.client().createVolume(volume('second')));
  await rig.during(rig.client().deleteVolume({ name: 'first' }));
  await rig.until(() => readers.every((reader) => reader.told('first').includes('DELETED')));
  for (const reader of readers) {
    t.equal(reader.told('second')[0], 'ADDED');
    const second = reader.objects.get('volume second');
    t.match(second, { status: { health: 'healthy', primary: null, nbdUri: '' } });
    const { volumes } = await rig.during(rig.client().listVolumes({}));
    const expected = { ...volumes[0], status: { ...volumes[0]?.status, nbdUri: '' } };
    t.same(second, expected, 'as the list has it');
  }
  await closed(rig, ...readers);
});

t.test('a watch goes on when the leader changes, and tells nothing twice', async (t) => {
  const rig = await Rig.open();
  const reader = new Reader(rig.client([rig.node(1).api]), { kinds: ['volume', 'node'] });
  await rig.until(() => reader.isSynced);
  rig.cluster.setLeader(rig.node(2).id);
  await rig.until(() => reader.told('n3').length === 2);
  t.match(reader.objects.get('node n3'), { status: { raftRole: 'leader' } });
  await rig.during(rig.client().createVolume(volume('db')));
  await rig.until(() => reader.told('db').length > 0);
  t.equal(reader.told('db')[0], 'ADDED');
  t.same(reader.troubles, []);
  await closed(rig, reader);
});

t.test(
  'a watch goes on at another node when its own dies, with what happened meanwhile',
  async (t) => {
    const rig = await Rig.open();
    const client = rig.client();
    await rig.during(client.createVolume(volume('kept')));
    await rig.during(client.createVolume(volume('gone')));
    const reader = new Reader(client, { kinds: ['volume'] });
    await rig.until(() => reader.isSynced);
    rig.cluster.setLeader(rig.node(1).id);
    await rig.kill(rig.node(0));
    const rest = rig.client([rig.node(1).api]);
    await rig.during(rest.deleteVolume({ name: 'gone' }));
    await rig.during(rest.createVolume(volume('new')));
    await rig.until(() => reader.told('gone').includes('DELETED') && reader.told('new').length > 0);
    t.same(reader.told('gone').at(-1), 'DELETED');
    t.equal(reader.told('new')[0], 'ADDED');
    t.equal(reader.told('kept').filter((type) => type === 'ADDED').length, 1);
    t.equal(reader.events.filter(({ type }) => type === 'SYNCED').length, 1);
    t.match(reader.troubles[0], /connection broke/);
    t.equal(reader.troubles.at(-1), 'on');
    await closed(rig, reader);
  },
);

t.test('a node that is cut off ends its watches, and takes no new ones', async (t) => {
  const rig = await Rig.open();
  const reader = new Reader(rig.client([rig.node(0).api]));
  await rig.until(() => reader.isSynced);
  rig.cluster.setLeader(null);
  await rig.until(() => reader.troubles.some((text) => /may be behind/.test(text)));
  const { events } = reader;
  const before = events.length;
  rig.cluster.setLeader(rig.node(1).id);
  await rig.until(() => reader.troubles.at(-1) === 'on');
  t.notOk(events.slice(before).some(({ type }) => type === 'ADDED' || type === 'SYNCED'));
  await closed(rig, reader);
});

t.test(
  'a watch ends with the node that serves it, with its client, and with its signal',
  async (t) => {
    const rig = await Rig.open();
    const [served, own, aborted] = [
      new Reader(rig.client([rig.node(2).api])),
      new Reader(rig.client([rig.node(0).api])),
      new Reader(rig.client([rig.node(0).api])),
    ];
    await rig.until(() => served.isSynced && own.isSynced && aborted.isSynced);
    await rig.during(rig.node(2).control.close());
    t.pass('its stop waits for no client');
    await rig.until(() => served.troubles.length > 0);
    t.match(served.troubles[0], /the node is stopping/);
    aborted.stop.abort();
    await rig.until(() => aborted.isOver);
    t.equal(aborted.error, null);
    const client = rig.client();
    const last = new Reader(client);
    await rig.until(() => last.isSynced);
    await client.close();
    await rig.until(() => last.isOver);
    t.equal(last.error, null);
    await closed(rig, served, own);
  },
);

t.test('bookmarks tell that a watch is alive while nothing happens', async (t) => {
  const rig = await Rig.open(1);
  const reader = new Reader(rig.client(), { kinds: ['snapshot'] });
  await rig.until(() => reader.isSynced);
  const fromMs = rig.clock.monotonicMs();
  await rig.until(() => reader.events.filter(({ type }) => type === 'BOOKMARK').length === 2);
  t.ok(rig.clock.monotonicMs() - fromMs < 13_000);
  await closed(rig, reader);
});

t.test('one object, and one that does not exist yet', async (t) => {
  const rig = await Rig.open();
  const reader = new Reader(rig.client(), { kinds: ['volume'], name: 'later' });
  await rig.until(() => reader.isSynced);
  t.equal(reader.events.length, 1);
  await rig.during(rig.client().createVolume(volume('other')));
  await rig.during(rig.client().createVolume(volume('later')));
  await rig.until(() => reader.told('later').length > 0);
  t.same(reader.told('other'), []);
  await closed(rig, reader);
});

t.test('what cannot be watched is said', async (t) => {
  const rig = await Rig.open(1);
  const reader = new Reader(rig.client(), { kinds: ['pool' as WatchKind] });
  await rig.until(() => reader.isOver);
  t.match(reader.error, { code: 'INVALID_ARGUMENT', message: /volume, node, disk, snapshot/ });
  await closed(rig, reader);
});

/** A watch without a network below it: what it is sent waits until the test takes it. */
async function served(limits = { changes: 3, chars: 1_000_000 }) {
  const clock = new FakeClock();
  const store = new MemoryCluster({ clock }).store('n1');
  const logger = silentLogger;
  const cache = new StateCache(store, clock, logger);
  const random = new SeededRandom(1);
  const timers = new Set<() => void>();
  const counting: Clock = {
    monotonicMs: () => clock.monotonicMs(),
    wallMs: () => clock.wallMs(),
    endOfTurn: (run) => {
      clock.endOfTurn(run);
    },
    after: (delayMs, run) => {
      const cancel = clock.after(delayMs, () => {
        timers.delete(cancel);
        run();
      });
      timers.add(cancel);
      return () => {
        timers.delete(cancel);
        cancel();
      };
    },
  };
  const common = { store, cache, clock: counting, logger, random };
  const service = new WatchService({ ...common, limits, trouble: () => null });
  const put = async (i: number, version: string): Promise<void> => {
    const id = `n-000000000000000${i}`;
    const addresses = { api: '', http: '', peers: [], nbd: [], nbdUnix: [] };
    const rest = { labels: {}, createdAtMs: 0, addresses, agentInstance: '', bootId: '', version };
    const value = encodeRecord({ id, name: `n${i}`, ...rest });
    const operation = { type: 'put' as const, key: `/stor/nodes/${id}`, value };
    await store.transact({ compare: [], operations: [operation] });
  };
  const until = async (condition: () => boolean): Promise<void> => {
    for (let i = 0; i < 10_000 && !condition(); i++) {
      clock.advance(10);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (!condition()) throw new Error('the condition did not come true');
  };
  const watch = (position: Partial<WatchPosition> = {}) => {
    const taken: (() => void)[] = [];
    const seen = { batches: [] as WatchBatch[], error: null as StorError | null, taken };
    const send = (message: object): Promise<void> => {
      // the wire has null in the fields that are not set
      seen.batches.push(decodeWatchBatch(message));
      return new Promise((resolve) => taken.push(resolve));
    };
    const { history = '', revision = 0 } = position;
    const request = { kinds: [], name: '', history, afterRevision: revision, listAgain: false };
    const context = { signal: new AbortController().signal, header: () => '' };
    service.streams.watch(request as never, context, send).catch((error: unknown) => {
      seen.error = error as StorError;
    });
    return seen;
  };
  const close = async (): Promise<void> => {
    service.close();
    await cache.close();
  };
  await put(1, 'a');
  return { clock, service, put, until, watch, close, timers };
}

t.test('a client that falls behind what is kept is let go, and slows nobody', async (t) => {
  const { put, until, watch, close, service } = await served();
  const [slow, quick] = [watch(), watch()];
  await until(() => slow.batches.length === 1 && quick.batches.length === 1);
  for (const version of ['b', 'c', 'd', 'e', 'f']) {
    const before = quick.batches.length;
    quick.taken.at(-1)?.();
    await put(1, version);
    await until(() => quick.batches.length > before);
  }
  await until(() => slow.error !== null);
  t.match(slow.error, { code: 'TOO_SLOW', message: /3 changes/ });
  t.equal(slow.batches.length, 1);
  t.equal(quick.error, null);
  t.equal(service.watchers, 1);
  const last = quick.batches.at(-1);
  const old = quick.batches[0];
  const again = watch(old);
  await until(() => again.error !== null);
  t.match(again.error, { code: 'COMPACTED', details: { keptAfter: /./ } });
  const on = watch(quick.batches.at(-2));
  await until(() => on.batches.length > 0);
  t.same(on.batches[0], last, 'the next change after where it was, and nothing else');
  await close();
  await until(() => quick.error !== null);
  t.match(quick.error, { code: 'UNAVAILABLE', message: /stopping/ });
});

t.test(
  'a client that takes nothing is let go after a while although nothing changes',
  async (t) => {
    const { clock, until, watch, close } = await served();
    const stalled = watch();
    await until(() => stalled.batches.length === 1);
    const fromMs = clock.monotonicMs();
    await until(() => stalled.error !== null);
    t.match(stalled.error, { code: 'TOO_SLOW' });
    t.ok(clock.monotonicMs() - fromMs >= 29_000);
    await close();
  },
);

t.test('a node serves so many watches and no more', async (t) => {
  const { until, watch, close } = await served();
  const many = Array.from({ length: 256 }, () => watch());
  await until(() => many.every(({ batches }) => batches.length === 1));
  const more = watch();
  await until(() => more.error !== null);
  t.match(more.error, { code: 'UNAVAILABLE', message: /256 watches/ });
  await close();
});

t.test('a node that stops leaves no timer behind, whenever a watch was begun', async (t) => {
  for (const turns of [0, 1, 2, 5, 50]) {
    const { clock, until, watch, close, timers } = await served();
    const seen = watch();
    for (let i = 0; i < turns; i++) {
      clock.advance(1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await close();
    await until(() => seen.error !== null);
    t.match(seen.error, { code: 'UNAVAILABLE', message: /stopping/ });
    const late = watch();
    await until(() => late.error !== null);
    for (let i = 0; i < 3; i++) {
      clock.advance(10);
      await new Promise((resolve) => setImmediate(resolve));
    }
    t.equal(timers.size, 0);
  }
});

t.test('the history goes a while after the last watch', async (t) => {
  const { until, watch, close, timers } = await served();
  const stalled = watch();
  await until(() => stalled.error !== null);
  t.ok(timers.size > 0, 'it is kept for those that come back');
  await until(() => timers.size === 0);
  await close();
});
