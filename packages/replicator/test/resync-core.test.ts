/** The rules of resync as a class of its own, each against a plain model. */
import fc from 'fast-check';
import t from 'tap';

import { CallAges, syncPatience } from '../src/core/replication/call-ages.ts';
import {
  FlapGuard,
  flapFirstWaitMs,
  flapForgivenMs,
  flapFreeLeaves,
  flapMaxWaitMs,
} from '../src/core/replication/flap-guard.ts';
import { ForegroundMeter, type ForegroundKind } from '../src/core/replication/foreground-meter.ts';
import {
  ResyncPace,
  maxResyncRate,
  minResyncRate,
  paceStepMs,
  startResyncRate,
} from '../src/core/replication/resync-pace.ts';
import { ResyncProgress } from '../src/core/replication/resync-progress.ts';
import { RegionUse } from '../src/core/replication/region-use.ts';
import { isGivenUp } from '../src/core/replication/slow-member.ts';

t.test('FlapGuard: who leaves again and again waits longer, and is forgiven', async (t) => {
  const guard = new FlapGuard();
  let nowMs = 1_000;
  t.equal(guard.waitMs('a', nowMs), 0, 'nothing is known of it');
  const waits: number[] = [];
  for (let leave = 0; leave < 12; leave++) {
    guard.left('a', nowMs);
    waits.push(guard.waitMs('a', nowMs));
    nowMs += 300_000;
    guard.joined('a', nowMs);
    t.equal(guard.waitMs('a', nowMs), 0, 'a member waits for nothing');
    nowMs += flapForgivenMs - 1;
  }
  t.same(waits.slice(0, flapFreeLeaves + 2), [0, 0, flapFirstWaitMs, 2 * flapFirstWaitMs]);
  t.equal(waits[waits.length - 1], flapMaxWaitMs);
  guard.left('a', nowMs);
  const waitMs = guard.waitMs('a', nowMs);
  t.equal(guard.waitMs('a', nowMs + 1_000), waitMs - 1_000);
  t.equal(guard.waitMs('a', nowMs + waitMs), 0);
  t.equal(guard.waitMs('b', nowMs), 0, 'each for itself');
  guard.joined('a', nowMs);
  guard.left('a', nowMs + flapForgivenMs);
  t.equal(guard.leaves('a'), 1, 'forgiven');
});

t.test('ResyncProgress adds up, and its speed is of the last seconds', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(9), fc.nat(400)), { maxLength: 60 }), (steps) => {
      const progress = new ResyncProgress(0);
      const total = steps.reduce((sum, [bytes]) => sum + bytes, 0);
      progress.planned(total);
      let nowMs = 0;
      let left = total;
      for (const [bytes, ms] of steps) {
        nowMs += ms;
        left -= bytes;
        progress.done(bytes, bytes, nowMs);
        if (progress.bytesRemaining !== left || progress.bytesCopied !== total - left) return false;
        if (progress.bytesPerSecond(nowMs) < 0) return false;
      }
      return true;
    }),
  );
  const progress = new ResyncProgress(0);
  progress.planned(1e9);
  for (let ms = 100; ms <= 20_000; ms += 100) progress.done(ms <= 10_000 ? 1_000 : 5_000, 0, ms);
  t.equal(progress.bytesPerSecond(20_000), 50_000, 'what was slow before is forgotten');
  t.ok(progress.bytesPerSecond(40_000) < 12_000, 'and what stands still is not fast');
});

t.test('RegionUse says what was written since a second', async () => {
  const region = 4 * 1024 * 1024;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(7))), fc.nat(20), (writes, since) => {
      const use = new RegionUse(8 * region);
      const last = new Map<number, number>();
      let second = 1;
      for (const [pause, at] of writes) {
        second += pause;
        use.tick(second);
        use.touch(at * region, region);
        last.set(at, second);
      }
      const from = Math.max(1, since);
      const expected = [...last].filter(([, when]) => when >= from).map(([at]) => at);
      return use.now === second && use.since(from).join() === expected.sort((a, b) => a - b).join();
    }),
  );
});

t.test('CallAges: the oldest unanswered, against a list of all', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('tick' as const), ms: fc.nat(3_000) }),
    fc.record({ kind: fc.constantFrom('begin' as const, 'sync' as const) }),
    fc.record({ kind: fc.constant('end' as const), index: fc.nat(20) }),
    fc.record({ kind: fc.constant('send' as const) }),
    fc.record({ kind: fc.constant('ack' as const), back: fc.nat(5) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const ages = new CallAges(1_000);
      let nowMs = 0;
      let awakeMs = 0;
      ages.tick(0);
      let next = 1;
      let sequence = 0;
      let acknowledged = 0;
      const calls: { id: number; sinceMs: number; patience: number }[] = [];
      const writes: { sequence: number; sinceMs: number }[] = [];
      for (const each of steps) {
        if (each.kind === 'tick') {
          nowMs += each.ms;
          awakeMs += Math.min(each.ms, 1_000);
          ages.tick(nowMs);
        } else if (each.kind === 'end') {
          const [call] = calls.splice(each.index % Math.max(1, calls.length), 1);
          if (call) ages.end(call.id);
        } else if (each.kind === 'send') {
          ages.sent(++sequence);
          writes.push({ sequence, sinceMs: awakeMs });
        } else if (each.kind === 'ack') {
          acknowledged = Math.max(acknowledged, sequence - each.back);
          ages.acknowledged(acknowledged);
        } else {
          const isSync = each.kind === 'sync';
          calls.push({ id: next, sinceMs: awakeMs, patience: isSync ? syncPatience : 1 });
          ages.begin(next++, isSync);
        }
        const open = writes.filter((write) => write.sequence > acknowledged);
        const oldest = Math.max(
          0,
          ...open.map(({ sinceMs }) => awakeMs - sinceMs),
          ...calls.map(({ sinceMs, patience }) => (awakeMs - sinceMs) / patience),
        );
        if (ages.oldestMs !== oldest) return false;
      }
      ages.reset();
      return ages.oldestMs === 0;
    }),
    { numRuns: 500 },
  );
});

t.test('a slow member stays while acknowledgements need it', async (t) => {
  const base = { limitMs: 10, longLimitMs: 50, isInSync: true, isLocal: false };
  const cases: [Partial<Parameters<typeof isGivenUp>[0]>, boolean][] = [
    [{ oldestMs: 10, others: 2, needed: 2 }, false],
    [{ oldestMs: 11, others: 2, needed: 2 }, true],
    [{ oldestMs: 11, others: 1, needed: 2 }, false],
    [{ oldestMs: 51, others: 1, needed: 2 }, true],
    [{ oldestMs: 11, others: 0, needed: 1 }, false],
    [{ oldestMs: 51, others: 0, needed: 1 }, true],
    [{ oldestMs: 1e9, others: 0, needed: 1, isLocal: true }, false],
    [{ oldestMs: 51, others: 1, needed: 3, isLocal: true }, true],
    [{ oldestMs: 11, others: 0, needed: 3, isInSync: false }, true],
  ];
  for (const [member, expected] of cases) {
    const whole = { ...base, oldestMs: 0, others: 0, needed: 1, ...member };
    t.equal(isGivenUp(whole), expected, JSON.stringify(member));
  }
});

/** A disk that takes `bytesPerMs`; what resync takes of it makes clients wait. */
class Machine {
  readonly meter = new ForegroundMeter();
  readonly pace = new ResyncPace(0);
  nowMs = 0;
  copiedBytes = 0;
  readonly #bytesPerMs: number;
  readonly #chunkBytes = 256 * 1024;
  #running: number[] = [];
  readonly strains: number[] = [];

  constructor(bytesPerMs: number) {
    this.#bytesPerMs = bytesPerMs;
  }

  /** Share of the disk that resync has taken of late. */
  get load(): number {
    return Math.min(0.99, (this.#running.length * this.#chunkBytes) / (this.#bytesPerMs * 50));
  }

  run(ms: number, clients: { latencyMs: number } | null, resync: boolean): void {
    const end = this.nowMs + ms;
    let stepMs = 0;
    while (this.nowMs < end) {
      this.nowMs += 1;
      // a piece takes as long as the disk needs for it, four at a time
      this.#running = this.#running.filter((endMs) => {
        if (endMs > this.nowMs) return true;
        this.pace.ended(0, this.nowMs);
        this.copiedBytes += this.#chunkBytes;
        return false;
      });
      while (resync && this.#running.length < 4) {
        if (this.pace.begin(this.#chunkBytes, this.nowMs) > 0) break;
        this.#running.push(this.nowMs + (this.#chunkBytes * 4) / this.#bytesPerMs);
      }
      if (clients && this.nowMs % 10 === 0) {
        const busy = this.#running.length > 0;
        const share = busy ? Math.min(1, this.pace.rate / 1_000 / this.#bytesPerMs) : 0;
        const latencyMs = clients.latencyMs * (1 + 6 * share);
        this.strains.push(latencyMs / clients.latencyMs);
        const kind: ForegroundKind = 'write';
        this.meter.asked(this.nowMs);
        const beside = this.nowMs - latencyMs < this.pace.quietSinceMs;
        this.meter.sample(kind, latencyMs, beside, this.nowMs);
      }
      if (++stepMs % paceStepMs === 0) {
        const isActive = this.meter.isActive(this.nowMs);
        this.pace.report({ isActive, strain: this.meter.strain(this.nowMs) }, this.nowMs);
      }
    }
  }

  ratePerSecond(ms: number, clients: { latencyMs: number } | null): number {
    const before = this.copiedBytes;
    this.run(ms, clients, true);
    return ((this.copiedBytes - before) * 1_000) / ms;
  }
}

t.test('the pace goes up when nobody is there, and down when clients suffer', async (t) => {
  const bytesPerMs = 524_288;
  const clients = { latencyMs: 3 };
  const machine = new Machine(bytesPerMs);
  machine.run(5_000, clients, false);
  const beside = machine.ratePerSecond(60_000, clients);
  t.ok(beside >= minResyncRate, 'it always makes progress');
  machine.strains.length = 0;
  const later = machine.ratePerSecond(30_000, clients);
  const mean = machine.strains.reduce((sum, each) => sum + each, 0) / machine.strains.length;
  t.ok(mean < 2, `clients wait ${mean.toFixed(2)} times as long`);
  t.ok(later < bytesPerMs * 1_000 * 0.4, 'it leaves them most of the disk');
  machine.run(3_000, null, true);
  const alone = machine.ratePerSecond(10_000, null);
  t.ok(alone > bytesPerMs * 1_000 * 0.9, `alone it takes all of the disk, ${alone}`);
  machine.run(10_000, clients, true);
  t.ok(machine.ratePerSecond(20_000, clients) < alone / 2, 'and gives it back');
  t.comment(JSON.stringify({ beside, later, alone, mean }));
});

t.test('a pace without a baseline is moderate, and rests to learn one', async (t) => {
  const machine = new Machine(500_000);
  machine.run(200, { latencyMs: 3 }, true);
  t.equal(machine.pace.rate, startResyncRate);
  machine.run(60_000, { latencyMs: 3 }, true);
  t.not(machine.meter.strain(machine.nowMs), null, 'learned in the pauses');
  const slow = new Machine(500_000);
  slow.run(120_000, { latencyMs: 3 }, true);
  t.ok(slow.copiedBytes >= minResyncRate * 100, 'never less than the minimum');
});

t.test('the pace stays within its bounds, whatever is reported', async () => {
  const report = fc.record({
    isActive: fc.boolean(),
    strain: fc.option(fc.double({ min: 0, max: 1e6, noNaN: true })),
    ms: fc.integer({ min: 1, max: 5_000 }),
    work: fc.nat(6),
  });
  fc.assert(
    fc.property(fc.array(report, { maxLength: 80 }), (reports) => {
      const pace = new ResyncPace(0);
      let nowMs = 0;
      for (const { isActive, strain, ms, work } of reports) {
        nowMs += ms;
        for (let i = 0; i < work; i++) {
          const waitMs = pace.begin(262_144, nowMs);
          if (waitMs === 0) pace.ended(262_144, nowMs);
          // no wait is for long: at the lowest rate a debt of one second at most, or a rest
          else if (waitMs > 1_500 || waitMs < 0) return false;
        }
        pace.report({ isActive, strain }, nowMs);
        if (pace.rate < minResyncRate || pace.rate > maxResyncRate) return false;
      }
      return true;
    }),
  );
});
