import type { NodeId } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import type { LiveThrottle } from '../src/agent-port.ts';
import { divideTenant, firstParts, sharedParts } from '../src/core/qos/divide-tenant.ts';
import { demandOf, targetsByDemand } from '../src/core/qos/tenant-demand.ts';
import type { DemandingNode, NodeDemand } from '../src/core/qos/tenant-demand.ts';
import type { NodeShare } from '../src/resources/tenant-record.ts';
import { Rig } from './control-plane-rig.ts';

const idle: LiveThrottle = {
  waitsFor: '',
  limits: [],
  queued: 0,
  limitMs: 0,
  tenantMs: 0,
  contentionMs: 0,
  readOps: 0,
  writeOps: 0,
  readBytes: 0,
  writeBytes: 0,
};

/** Part after part to whoever has the least of those that want more. */
function dealt(nodes: readonly DemandingNode[], floor: number): Map<NodeId, number> {
  const wants = nodes.map(({ id, demand }) => {
    const used = Math.ceil((demand?.usedParts ?? 0) * 1.5);
    return { id, has: 0, want: demand?.isThrottled ? Infinity : Math.max(floor, used) };
  });
  for (let free = sharedParts; free > 0; free--) {
    const poor = wants.filter(({ has, want }) => has < want);
    if (poor.length === 0) break;
    poor.reduce((least, each) => (each.has < least.has ? each : least)).has += 1;
  }
  return new Map(wants.map(({ id, has }) => [id, has]));
}

t.test(
  'what nodes do not need goes to those that wait, as if it were dealt part by part',
  async (t) => {
    const demand = fc.record({
      usedParts: fc.double({ min: 0, max: 12_000, noNaN: true }),
      isThrottled: fc.boolean(),
    });
    const node = fc.record({ parts: fc.nat({ max: sharedParts }), demand });
    fc.assert(
      fc.property(fc.array(node, { minLength: 1, maxLength: 12 }), (given) => {
        const nodes = given.map((each, at) => ({ ...each, id: `n-${at}` }));
        const targets = targetsByDemand(nodes);
        const floor = Math.min(100, Math.floor(sharedParts / nodes.length));
        const sum = [...targets.values()].reduce((all, each) => all + each, 0);
        const isKept = nodes.every(({ id, parts }) => targets.get(id) === parts);
        if (isKept) {
          // nobody waits, or what would change is little
          const best = dealt(nodes, floor);
          const waits = nodes.some((each) => each.demand.isThrottled);
          const isClose = nodes.every(
            ({ id, parts }) => Math.abs((best.get(id) ?? 0) - parts) < 220,
          );
          return nodes.every(({ parts }) => parts >= floor) && (!waits || isClose);
        }
        if (sum > sharedParts) return false;
        const best = dealt(nodes, floor);
        return nodes.every(({ id }) => {
          const mine = targets.get(id) ?? 0;
          return mine >= floor && Math.abs(mine - (best.get(id) ?? 0)) <= nodes.length;
        });
      }),
      { numRuns: 60 },
    );
    t.pass();
  },
);

t.test('as long as one of them is not known all have equal parts', async (t) => {
  const busy = { usedParts: 9_000, isThrottled: true };
  const targets = targetsByDemand([
    { id: 'a', parts: 9_000, demand: busy },
    { id: 'b', parts: 100, demand: null },
  ]);
  t.same([...targets.values()], [4_950, 4_950]);
  t.equal(targetsByDemand([]).size, 0);
});

t.test('what a node needed, from what its primaries count', async (t) => {
  const before = { ...idle, readOps: 100, writeOps: 100, readBytes: 1_000 };
  const now = { ...before, readOps: 1_100, writeOps: 600, readBytes: 5_000 };
  const change = [{ before, now }];
  t.equal(demandOf({ iops: 1_500 }, change, 2_000).usedParts, 5_000, 'of requests');
  t.equal(demandOf({ iops: 1_500, readBps: 2_000 }, change, 2_000).usedParts, 10_000);
  t.equal(demandOf({ writeIops: 1_000 }, [...change, ...change], 2_000).usedParts, 5_000);
  t.equal(demandOf({ iops: 5 }, change, 2_000).isThrottled, false);
  t.equal(
    demandOf({ iops: 5 }, [{ before, now: { ...now, tenantMs: 50 } }], 2_000).isThrottled,
    false,
  );
  t.equal(
    demandOf({ iops: 5 }, [{ before, now: { ...now, tenantMs: 500 } }], 2_000).isThrottled,
    true,
  );
  const waits = { ...now, waitsFor: 'tenant' };
  t.equal(demandOf({ iops: 5 }, [{ before, now: waits }], 2_000).isThrottled, true);
  const restarted = { before: now, now: before };
  t.equal(demandOf({ iops: 5 }, [restarted], 2_000).usedParts, 0, 'never below nothing');
});

interface ModelNode {
  id: 'a' | 'b';
  seen: number;
  confirmed: number;
  tokens: number;
  waits: number;
  used: number;
  backlog: number;
  told: { atMs: number; revision: number }[];
  demand: NodeDemand | null;
}

/** Two nodes whose clients ask for some rate, the leader between them, in steps of virtual time. */
class Cluster {
  static readonly stepMs = 10;
  static readonly limit = 10_000;
  readonly divisions: Record<NodeId, NodeShare>[] = [{}];
  readonly rates: Record<'a' | 'b', number> = { a: 0, b: 0 };
  readonly done: number[] = [];
  #ms = 0;
  readonly #nodes = (['a', 'b'] as const).map((id): ModelNode => {
    const none = { seen: 0, confirmed: 0, tokens: 0, waits: 0, used: 0, backlog: 0 };
    return { id, ...none, told: [], demand: null };
  });
  readonly byNode: Record<'a' | 'b', number> = { a: 0, b: 0 };

  run(seconds: number): void {
    const end = this.#ms + seconds * 1_000;
    for (; this.#ms < end; this.#ms += Cluster.stepMs) {
      let all = 0;
      for (const node of this.#nodes) all += this.#serve(node);
      this.done.push(all);
      if (this.#ms % 2_000 === 0) this.#lead();
    }
  }

  #serve(node: ModelNode): number {
    for (const told of node.told) {
      if (told.atMs === this.#ms) node.seen = Math.max(node.seen, told.revision);
      // it is confirmed a second after it was told
      if (told.atMs + 1_000 === this.#ms) node.confirmed = Math.max(node.confirmed, told.revision);
    }
    const parts = (this.divisions[node.seen]?.[node.id]?.parts ?? 0) + firstParts(2);
    const perMs = (Cluster.limit * parts) / 10_000 / 1_000;
    // as the buckets of a lane: a tenth of a second is saved up at most
    node.tokens = Math.min(node.tokens + perMs * Cluster.stepMs, perMs * 100);
    node.backlog += (this.rates[node.id] * Cluster.stepMs) / 1_000;
    const served = Math.max(0, Math.min(node.backlog, node.tokens));
    node.tokens -= served;
    node.backlog -= served;
    if (node.backlog > 1) node.waits += Cluster.stepMs;
    // clients wait for answers: what they would have asked for is not kept
    node.backlog = Math.min(node.backlog, 64);
    node.used += served;
    this.byNode[node.id] = this.byNode[node.id] + served;
    return served;
  }

  #lead(): void {
    const at = this.divisions.length - 1;
    const present = this.divisions[at] ?? {};
    for (const node of this.#nodes) {
      const usedParts = ((node.used / 2) * 10_000) / Cluster.limit;
      node.demand = { usedParts, isThrottled: node.waits > 100 };
      node.used = 0;
      node.waits = 0;
    }
    const targets = targetsByDemand(
      this.#nodes.map(({ id, demand }) => ({ id, parts: present[id]?.parts ?? 0, demand })),
    );
    const sharing = this.#nodes.map(({ id, confirmed }) => {
      return { id, isUser: true, isGone: false, hasConfirmed: confirmed >= at };
    });
    const next = divideTenant(present, sharing, targets);
    if (!next) return;
    this.divisions.push(next);
    // one hears late
    for (const [index, node] of this.#nodes.entries()) {
      node.told.push({ atMs: this.#ms + (index === 0 ? 300 : 1_500), revision: at + 1 });
    }
  }

  /** The most that both together did in any 10 s. */
  get most(): number {
    const steps = 10_000 / Cluster.stepMs;
    let sum = 0;
    let most = 0;
    for (const [at, done] of this.done.entries()) {
      sum += done - (this.done[at - steps] ?? 0);
      most = Math.max(most, sum);
    }
    return most;
  }
}

t.test('one busy node has nearly all, and two never more than there is', async (t) => {
  const cluster = new Cluster();
  cluster.rates.a = 50_000;
  cluster.run(20);
  const before = cluster.byNode.a;
  cluster.run(10);
  const alone = (cluster.byNode.a - before) / 100_000;
  t.ok(alone >= 0.95, `${alone} of the limit on one node`);

  cluster.rates.b = 50_000;
  cluster.run(15);
  const { a, b } = { ...cluster.byNode };
  cluster.run(10);
  const shares = [(cluster.byNode.a - a) / 100_000, (cluster.byNode.b - b) / 100_000];
  for (const share of shares)
    t.ok(share > 0.45 && share < 0.55, `${share} each when both are busy`);

  cluster.rates.a = 1_000;
  cluster.run(20);
  const then = cluster.byNode.b;
  cluster.run(10);
  const most = (cluster.byNode.b - then) / 100_000;
  t.ok(most > 0.8, `${most} beside one that needs a tenth`);
  // a load that comes and goes faster than it is looked at
  for (let i = 0; i < 20; i++) {
    Object.assign(cluster.rates, i % 2 === 0 ? { a: 50_000, b: 0 } : { a: 0, b: 50_000 });
    cluster.run(3);
  }
  t.ok(cluster.most <= 1.05 * 100_000, `${cluster.most / 100_000} of the limit over 10 s at most`);
  const changes = cluster.divisions.length;
  Object.assign(cluster.rates, { a: 3_000, b: 3_000 });
  cluster.run(60);
  t.ok(cluster.divisions.length <= changes + 4, 'a steady load changes nothing for long');
});

t.test('the leader asks, and divides by what nodes need', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  const client = rig.client();
  const during = <T>(promise: Promise<T>): Promise<T> => rig.during(promise);
  const made: string[] = [];
  for (const name of ['a', 'b']) {
    const labels = { tenant: 'acme' };
    const volume = { name, sizeBytes: 2 ** 30, replicas: 3, labels };
    made.push((await during(client.createVolume(volume))).metadata.id);
  }
  const [first = '', second = ''] = made;
  await during(client.attachVolume({ name: 'a', node: 'n1' }));
  await during(client.attachVolume({ name: 'b', node: 'n2' }));
  const throttles = [rig.node(0).agent.throttles, rig.node(1).agent.throttles];
  throttles[0]?.set(first, {
    ...idle,
    waitsFor: 'tenant',
    limits: ['iops'],
    queued: 4,
    tenantMs: 7,
  });
  throttles[1]?.set(second, idle);
  await during(client.setTenant({ name: 'acme', qos: { iops: 10_000 } }));
  const told = (node: number, volume: string): number | undefined =>
    rig.node(node).agent.attached.get(volume)?.grant.qos?.tenant?.share.iops;
  await rig.until(() => told(0, first) === 9_810);
  await rig.until(() => told(1, second) === 110);
  t.match((await during(client.getVolume({ name: 'a' }))).status.qos?.throttle, {
    reason: 'tenant',
    source: 'tenant acme',
    limits: ['iops'],
    queued: 4,
    tenantMs: 7,
  });
  t.match((await during(client.getVolume({ name: 'b' }))).status.qos?.throttle, { reason: '' });

  // of a node that says nothing any more nothing is known: equal parts
  throttles[1]?.delete(second);
  await rig.until(() => told(0, first) === 4_960);
  await rig.until(() => told(1, second) === 4_960);

  await during(client.createPolicy({ name: 'slow', qos: { iops: 100 } }));
  await during(client.updateVolume({ name: 'b', policyName: 'slow' }));
  throttles[1]?.set(second, { ...idle, waitsFor: 'limit', limits: ['iops'], queued: 1 });
  const shown = async () => (await during(client.getVolume({ name: 'b' }))).status.qos?.throttle;
  t.match(await shown(), { reason: 'limit', source: 'policy slow', limits: ['iops'] });
  await during(client.updateVolume({ name: 'b', qos: { iops: 50 } }));
  t.match(await shown(), { reason: 'limit', source: 'volume' });
});
