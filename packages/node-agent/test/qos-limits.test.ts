import type { QosLimitName } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { Guarantee } from '../src/core/qos/guarantee.ts';
import { LimitSet } from '../src/core/qos/limit-set.ts';
import { TokenBucket, firstCredits, sliceMs } from '../src/core/qos/token-bucket.ts';

/** A taker that always wants more: what it got, and when. */
function greedy(
  bucket: TokenBucket,
  options: { fromMs: number; untilMs: number; amount: () => number; lateMs: () => number },
): { atMs: number; amount: number }[] {
  const taken: { atMs: number; amount: number }[] = [];
  let nowMs = options.fromMs;
  while (nowMs < options.untilMs) {
    const waitMs = bucket.waitMs(nowMs);
    if (waitMs > 0) {
      nowMs += waitMs + options.lateMs();
      continue;
    }
    const amount = options.amount();
    bucket.take(amount);
    taken.push({ atMs: nowMs, amount });
  }
  return taken;
}

t.test('a limit is exact to 5 % over any 10 s, for requests of any size', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 100_000_000 }),
      fc.double({ min: 0.0001, max: 5, noNaN: true }),
      fc.integer({ min: 0, max: 20 }),
      fc.infiniteStream(fc.double({ min: 0.5, max: 1, noNaN: true })),
      (rate, largestSeconds, lateMs, chances) => {
        // at most so many requests that the test ends; never less than a unit
        const largest = Math.max(1, rate * Math.max(largestSeconds, 0.002));
        const bucket = new TokenBucket(rate, undefined, 0);
        const chance = (): number => chances.next().value as number;
        const taken = greedy(bucket, {
          fromMs: 0,
          untilMs: 30_000,
          amount: () => largest * chance(),
          lateMs: () => lateMs * chance(),
        });
        for (let fromMs = 1_000; fromMs + 10_000 <= 30_000; fromMs += 1_700) {
          const inWindow = taken.filter(({ atMs }) => atMs >= fromMs && atMs < fromMs + 10_000);
          const sum = inWindow.reduce((all, { amount }) => all + amount, 0);
          const wanted = rate * 10;
          // a window may begin or end in the middle of what one request is paid for
          const error = Math.abs(sum - wanted) - largest;
          if (error > wanted * 0.05) throw new Error(`${sum} of ${wanted} from ${fromMs}`);
        }
      },
    ),
    { numRuns: 60 },
  );
});

t.test('a debt is never more than one request', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.array(fc.tuple(fc.integer({ min: 1, max: 50_000 }), fc.integer({ min: 0, max: 500 }))),
      (rate, steps) => {
        const bucket = new TokenBucket(rate, { factor: 3, seconds: 2 }, 0);
        let nowMs = 0;
        for (const [amount, passMs] of steps) {
          nowMs += passMs;
          if (bucket.waitMs(nowMs) > 0) continue;
          bucket.take(amount);
          if (bucket.tokens(nowMs) < -amount) throw new Error('a debt of more than one request');
        }
      },
    ),
  );
});

t.test(
  'credits let a volume run at its burst for as long as it says, then at its limit',
  async (t) => {
    const bucket = new TokenBucket(100, { factor: 4, seconds: 5 }, 0);
    t.equal(bucket.credits(0), firstCredits, 'new: neither none nor all of it');
    t.equal(bucket.waitMs(60_000), 0);
    t.equal(bucket.credits(60_000), 1, 'unused for long: all of it');
    const one = { amount: () => 1, lateMs: () => 0 };
    const taken = greedy(bucket, { fromMs: 60_000, untilMs: 80_000, ...one });
    const between = (fromMs: number, untilMs: number): number =>
      taken.filter(({ atMs }) => atMs >= fromMs && atMs < untilMs).length;
    t.ok(Math.abs(between(60_000, 65_000) - 2_000) <= 2_000 * 0.05, 'five seconds at four times');
    t.ok(Math.abs(between(66_000, 76_000) - 1_000) <= 1_000 * 0.05, 'then as much as the limit');
    t.equal(bucket.credits(80_000), 0);
  },
);

t.test('a bucket that changes keeps its debt and gives no credits away', async (t) => {
  const bucket = new TokenBucket(10, undefined, 0);
  bucket.take(101);
  bucket.change(1_000, { factor: 10, seconds: 10 }, 0);
  t.equal(bucket.tokens(0), -100);
  t.ok(bucket.waitMs(0) >= 100 && bucket.waitMs(0) < 101, 'the debt is paid at the new rate');
  t.equal(bucket.credits(0), 0);
  bucket.change(1_000, undefined, 50_000);
  t.equal(bucket.tokens(50_000), (1_000 * sliceMs) / 1_000, 'credits go with the burst');
  t.equal(bucket.credits(50_000), null);
});

t.test('each of the six limits counts what it says', async (t) => {
  const counts: Record<QosLimitName, [number, number]> = {
    readIops: [1, 0],
    writeIops: [0, 1],
    iops: [1, 1],
    readBps: [4_096, 0],
    writeBps: [0, 4_096],
    bps: [4_096, 4_096],
  };
  for (const [name, [read, write]] of Object.entries(counts) as [
    QosLimitName,
    [number, number],
  ][]) {
    const limits = new LimitSet();
    limits.update({ [name]: 1 }, 0);
    const before = limits.tokens(name, 0) ?? 0;
    limits.take(true, 4_096);
    t.equal((limits.tokens(name, 0) ?? 0) - before, -read, `${name}: a read`);
    limits.take(false, 4_096);
    t.equal((limits.tokens(name, 0) ?? 0) - before, -read - write, `${name}: a write`);
    t.equal(limits.waitMs(true, 0) > 0, read > 0);
    t.equal(limits.waitMs(false, 0) > 0, write > 0);
    limits.update({}, 0);
    t.ok(limits.isEmpty);
  }
});

t.test('a volume is below its guarantee until it has had it, whoever it had it from', async (t) => {
  const guarantee = new Guarantee(1_000, 0, 0);
  let first = 0;
  for (let nowMs = 0; nowMs < 10_000; nowMs++) {
    while (guarantee.isBelow(nowMs)) {
      guarantee.take(4_096, nowMs);
      first += 1;
    }
  }
  t.ok(Math.abs(first - 10_000) < 500, `${first} in 10 s`);
  const rich = new Guarantee(1_000, 0, 0);
  for (let nowMs = 0; nowMs < 1_000; nowMs++) for (let i = 0; i < 5; i++) rich.take(4_096, nowMs);
  t.notOk(rich.isBelow(1_000), 'five times as much by weight: nothing is owed');
  t.ok(rich.isBelow(1_101), 'what it had more is not held against it for long');
});
