import type { QosClassName } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { costOf } from '../src/core/qos/cost.ts';
import { Flow, type QosItem } from '../src/core/qos/flow.ts';
import { Guarantee } from '../src/core/qos/guarantee.ts';
import { LaneScheduler } from '../src/core/qos/lane-scheduler.ts';
import { firstWindow } from '../src/core/qos/lane-window.ts';

interface Item extends QosItem {
  id: number;
}

interface Client {
  flow: Flow;
  depth: number;
  length: number;
  done: number;
  bytes: number;
  waiting: number;
}

/**
 * A lane in virtual time: one server that does so much cost per millisecond, in the order in which the
 * scheduler lets requests go, and clients that keep a number of requests under way.
 */
class Model {
  readonly scheduler = new LaneScheduler(0);
  readonly clients: Client[] = [];
  readonly #costPerMs: number;
  #nowMs = 0;
  #freeAtMs = 0;
  #ids = 0;
  readonly #served: {
    atMs: number;
    startedMs: number;
    client: Client;
    item: Item;
    isFirst: boolean;
  }[] = [];

  constructor(costPerMs: number) {
    this.#costPerMs = costPerMs;
  }

  client(options: {
    depth: number;
    length: number;
    weight?: number;
    minIops?: number;
    iops?: number;
    ofClass?: QosClassName;
  }): Client {
    const flow = new Flow(options.ofClass ?? 'client');
    if (options.minIops !== undefined) flow.guarantee = new Guarantee(options.minIops, 0, 0);
    if (options.iops !== undefined) flow.limits.update({ iops: options.iops }, 0);
    this.scheduler.changed(flow, options.weight ?? 100);
    const { depth, length } = options;
    const client = { flow, depth, length, done: 0, bytes: 0, waiting: 0 };
    this.clients.push(client);
    return client;
  }

  run(untilMs: number): void {
    for (const client of this.clients) while (client.waiting < client.depth) this.#ask(client);
    for (let still = 0; ;) {
      const next = this.#served[0];
      const wakeMs = this.scheduler.wakeMs(this.#nowMs);
      const atMs = Math.min(next?.atMs ?? Infinity, wakeMs);
      if (atMs > untilMs) break;
      still = atMs > this.#nowMs ? 0 : still + 1;
      if (still > 10_000) throw new Error('woken again and again for nothing');
      this.#nowMs = Math.max(this.#nowMs, atMs);
      if (next && next.atMs <= this.#nowMs) this.#finish();
      this.#pump();
    }
    this.#nowMs = untilMs;
  }

  #ask(client: Client): void {
    const { flow, length } = client;
    client.waiting += 1;
    this.scheduler.see(flow, this.#nowMs);
    const facts = { isRead: false, isRest: false, heldBytes: 0, cost: costOf(length, true) };
    const item = { id: ++this.#ids, flow, ...facts };
    const reason = this.scheduler.refusal(flow, false, item.cost, this.#nowMs);
    const queued = { ...item, queuedMs: this.#nowMs, reason: reason ?? ('contention' as const) };
    if (reason) this.scheduler.enqueue(queued);
    else this.#start(queued, client);
  }

  #pump(): void {
    for (;;) {
      const item = this.scheduler.next(this.#nowMs) as Item | null;
      if (!item) break;
      const client = this.clients.find(({ flow }) => flow === item.flow);
      if (!client) throw new Error('a request of nobody');
      this.#start(item, client);
    }
  }

  #start(item: Item, client: Client): void {
    const isFirst = this.scheduler.charge(item.flow, false, client.length, this.#nowMs);
    this.scheduler.began(item.flow, item.cost, isFirst);
    this.#freeAtMs = Math.max(this.#freeAtMs, this.#nowMs) + item.cost / this.#costPerMs;
    this.#served.push({ atMs: this.#freeAtMs, startedMs: this.#nowMs, client, item, isFirst });
  }

  #finish(): void {
    const served = this.#served.shift();
    if (!served) return;
    const { client, item, isFirst } = served;
    this.scheduler.ended(item.flow, item.cost, isFirst);
    const latencyMs = this.#nowMs - served.startedMs;
    if (!item.flow.isBackground) this.scheduler.tookMs(item, latencyMs, this.#nowMs);
    client.done += 1;
    client.bytes += client.length;
    client.waiting -= 1;
    this.#ask(client);
  }
}

const kib = 1024;
const small = costOf(4 * kib, true);

/**
 * What each gets of `all` in eight seconds: one request in a second when its weight gives it less, as nobody waits
 * for longer; of the rest what its weight says.
 */
function fairCosts(wanted: readonly { weight: number; length: number }[], all: number): number[] {
  const sum = (each: readonly { weight: number }[]): number =>
    each.reduce((weights, { weight }) => weights + weight, 0);
  const least = ({ length }: { length: number }): number => 8 * costOf(length, true);
  const isOwed = (each: { weight: number; length: number }): boolean =>
    (each.weight / sum(wanted)) * all < least(each);
  const rest = wanted.filter(isOwed).reduce((left, each) => left - least(each), all);
  const weights = sum(wanted.filter((each) => !isOwed(each)));
  return wanted.map((each) => (isOwed(each) ? least(each) : (each.weight / weights) * rest));
}

t.test('what a contended lane gives falls to volumes by their weights', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          weight: fc.integer({ min: 20, max: 1_000 }),
          length: fc.constantFrom(4 * kib, 16 * kib, 64 * kib, 1024 * kib),
        }),
        { minLength: 2, maxLength: 4 },
      ),
      (wanted) => {
        // 4,000 small requests in a second
        const model = new Model(small * 4);
        const clients = wanted.map((each) => model.client({ depth: 64, ...each }));
        // the first one has the lane to itself until the others come
        model.run(2_000);
        const before = clients.map(({ done }) => done);
        model.run(10_000);
        const costs = clients.map(
          ({ done, length }, at) => (done - (before[at] ?? 0)) * costOf(length, true),
        );
        const shares = fairCosts(
          wanted,
          costs.reduce((sum, each) => sum + each, 0),
        );
        for (const [index, cost] of costs.entries()) {
          const share = shares[index] ?? 0;
          // two requests more or less are no matter
          const some = 2 * costOf(clients[index]?.length ?? 0, true);
          if (Math.abs(cost - share) > some + share * 0.05) {
            throw new Error(`${cost} instead of ${share}`);
          }
        }
      },
    ),
    { numRuns: 6 },
  );
  t.pass();
});

t.test('a class has its share beside all clients together, however many there are', async (t) => {
  for (const [count, weight] of [
    [1, 50],
    [4, 50],
    [2, 300],
  ] as const) {
    const model = new Model(small * 4);
    const clients = Array.from({ length: count }, () =>
      model.client({ depth: 64, length: 4 * kib, weight: 200 }),
    );
    const rebuild = model.client({ depth: 8, length: 256 * kib, weight, ofClass: 'rebuild' });
    model.run(2_000);
    const before = rebuild.done;
    const had = clients.map(({ done }) => done);
    model.run(20_000);
    const mine = (rebuild.done - before) * costOf(rebuild.length, true);
    const theirs = clients.reduce((sum, { done }, at) => sum + (done - (had[at] ?? 0)) * small, 0);
    const share = mine / (mine + theirs);
    const wanted = weight / (weight + 100);
    t.ok(Math.abs(share - wanted) < wanted * 0.05, `${count} clients: ${share}, not ${wanted}`);
    t.ok(
      clients.every(({ done }) => Math.abs(done - (clients[0]?.done ?? 0)) < 100),
      'clients share the rest',
    );
  }
});

t.test('background work uses what clients leave, and two classes share it', async (t) => {
  const model = new Model(small * 4);
  const light = model.client({ depth: 1, length: 4 * kib });
  const options = { depth: 128, length: 256 * kib };
  const rebuild = model.client({ ...options, weight: 50, ofClass: 'rebuild' });
  model.run(5_000);
  const cost = light.done * small + rebuild.done * costOf(rebuild.length, true);
  t.ok(cost > small * 4 * 5_000 * 0.95, 'the lane is never idle');

  const idle = new Model(small * 4);
  const one = idle.client({ ...options, weight: 50, ofClass: 'rebuild' });
  const two = idle.client({ ...options, weight: 25, ofClass: 'scrub' });
  idle.run(20_000);
  t.ok(Math.abs(one.done / two.done - 2) < 0.2, `2 to 1: ${one.done} and ${two.done}`);
});

t.test('a class with the smallest weight goes on beside clients at full blast', async (t) => {
  const model = new Model(small * 4);
  const client = model.client({ depth: 256, length: 4 * kib });
  const scrub = model.client({ depth: 1, length: 256 * kib, weight: 1, ofClass: 'scrub' });
  model.scheduler.weighClients(10_000);
  model.run(10_000);
  t.ok(scrub.done >= 5, `${scrub.done} pieces in 10 s`);
  t.ok(client.done * small > small * 4 * 10_000 * 0.95, 'clients have the rest');
});

t.test('nobody starves, and the lane is never idle', async (t) => {
  const model = new Model(small * 5);
  const heavy = model.client({ depth: 256, length: 1024 * kib, weight: 10_000 });
  const light = model.client({ depth: 1, length: 4 * kib, weight: 1 });
  model.run(10_000);
  t.ok(light.done >= 5, `${light.done} of the light one`);
  const cost = heavy.done * costOf(heavy.length, true) + light.done * small;
  t.ok(cost > small * 5 * 10_000 * 0.98, 'all of what it can do is done');
});

t.test('a volume with a guarantee has it beside neighbours at full blast', async (t) => {
  for (const depth of [1, 32]) {
    const model = new Model(small * 5);
    const neighbours = [1, 2, 3].map(() =>
      model.client({ depth: 256, length: 64 * kib, weight: 10_000 }),
    );
    const sure = model.client({ depth, length: 4 * kib, weight: 1, minIops: 200 });
    model.run(10_000);
    t.ok(sure.done >= 2_000 * 0.95, `${sure.done} in 10 s at depth ${depth}`);
    t.ok(
      neighbours.every(({ done }) => done > 100),
      'the others go on',
    );
  }
});

t.test('guarantees beyond what the lane has are shared in proportion', async (t) => {
  // 1,000 small requests in a second for 3,000 that were promised
  const model = new Model(small);
  const two = model.client({ depth: 64, length: 4 * kib, minIops: 2_000, weight: 1 });
  const one = model.client({ depth: 64, length: 4 * kib, minIops: 1_000, weight: 100 });
  model.run(10_000);
  const ratio = two.done / one.done;
  t.ok(Math.abs(ratio - 2) < 0.1, `2 to 1: ${ratio}`);
});

t.test('limits hold beside neighbours, and what is left goes to them', async (t) => {
  const model = new Model(small * 5);
  const limited = model.client({ depth: 64, length: 4 * kib, iops: 1_000, weight: 1_000 });
  const other = model.client({ depth: 64, length: 4 * kib });
  model.run(10_000);
  t.ok(Math.abs(limited.done - 10_000) < 500, `${limited.done} of 10,000`);
  t.ok(limited.done + other.done > 50_000 * 0.98, 'the rest is used');
});

t.test('a volume alone keeps its whole queue depth', async (t) => {
  const model = new Model(small);
  const alone = model.client({ depth: 256, length: 1024 * kib });
  model.run(1_000);
  t.equal(alone.flow.queued, 0);
  t.equal(alone.flow.throttled.requests.contention, 0);
  t.ok(alone.flow.isFree, 'and is not looked at any more');
});

t.test('a slow neighbour does not hold what is not behind it', async (t) => {
  const scheduler = new LaneScheduler(0);
  const stuck = new Flow('client');
  const quick = new Flow('client');
  scheduler.see(stuck, 0);
  scheduler.see(quick, 0);
  let begun = 0;
  while (scheduler.refusal(stuck, false, small, 0) === null) {
    scheduler.began(stuck, small, false);
    begun += 1;
    if (begun > 10_000) throw new Error('no window');
  }
  t.equal(scheduler.refusal(quick, false, small, 0), null, 'half of its share is its own');
});

t.test('what becomes ready between two looks is not left until somebody else comes', async (t) => {
  const scheduler = new LaneScheduler(0);
  const flow = new Flow('client');
  flow.limits.update({ iops: 100 }, 0);
  scheduler.changed(flow, 100);
  scheduler.see(flow, 0);
  let taken = 0;
  while (scheduler.refusal(flow, false, small, 0) === null) {
    scheduler.charge(flow, false, 4 * kib, 0);
    scheduler.began(flow, small, false);
    taken += 1;
  }
  t.equal(taken, 10, 'a tenth of a second');
  const item = { flow, isRead: false, isRest: false, heldBytes: 0, cost: small, queuedMs: 0 };
  scheduler.enqueue({ ...item, reason: 'limit' });
  const dueMs = scheduler.wakeMs(0);
  t.equal(scheduler.next(dueMs - 0.1), null);
  t.equal(scheduler.wakeMs(dueMs + 0.1), dueMs + 0.1, 'at once, though others are under way');
  t.ok(scheduler.next(dueMs + 0.1));
});

t.test('while a guarantee is there, less is under way at once', async (t) => {
  const scheduler = new LaneScheduler(0);
  const loud = new Flow('client');
  const sure = new Flow('client');
  sure.guarantee = new Guarantee(100, 0, 0);
  let nowMs = 0;
  /** Requests of a second take 1.6 times what the quickest took, and something always waits for room. */
  const sizeAfter = (flows: Flow[]): number => {
    for (let i = 0; i < 1_000; i++) {
      nowMs += 1;
      for (const flow of flows) scheduler.see(flow, nowMs);
      scheduler.turnTookMs(i % 20 === 0 ? 1 : 1.6, nowMs);
      scheduler.window.noteFull();
    }
    return scheduler.window.size(nowMs);
  };
  const usual = sizeAfter([loud]);
  t.ok(usual > firstWindow, `${usual}: it grows`);
  const beside = sizeAfter([loud, sure]);
  t.ok(beside < usual / 2, `${beside}: it shrinks`);
  t.ok(sizeAfter([loud]) > beside, 'and grows when the other one has gone');
});
