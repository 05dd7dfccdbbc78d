import t from 'tap';
import { ShortWait, maxWaitUs, skippedWaits } from '../src/short-wait.ts';

/** A thread whose turns take `turnUs`; what is awaited comes some time after it was begun to wait. */
function rig() {
  let nowMs = 1_000;
  let next: (() => void)[] = [];
  const wait = new ShortWait(
    () => nowMs,
    (fn) => {
      next.push(fn);
    },
  );
  return {
    wait,
    /** How many turns it keeps the thread awake. */
    await(latencyUs: number, turnUs = 10): number {
      const overMs = nowMs + latencyUs / 1_000;
      wait.begin(() => nowMs >= overMs - 1e-9);
      let turns = 0;
      while (next.length > 0) {
        const run = next;
        next = [];
        nowMs += turnUs / 1_000;
        turns += 1;
        for (const fn of run) fn();
      }
      nowMs += latencyUs / 1_000;
      return turns;
    },
  };
}

const whole = maxWaitUs / 10;

t.test('the thread stays awake until it has come, and no longer', async (t) => {
  const { await: waits } = rig();
  t.equal(waits(50), 5);
  t.equal(waits(5), 1);
  t.ok(Math.abs(waits(10_000) - whole) <= 1, 'for so long at most');
});

t.test('where it takes longer it does not try for a while, and for longer each time', async (t) => {
  const { await: waits } = rig();
  const giveUp = (): void => {
    for (let miss = 0; miss < 8; miss++) t.ok(waits(10_000) >= whole, `miss ${miss}`);
  };
  const skipped = (): number => {
    let left = 0;
    while (waits(20) === 0) left += 1;
    return left;
  };
  for (let miss = 0; miss < 7; miss++) waits(10_000);
  t.equal(waits(20), 2, 'one that comes in time makes up for one');
  waits(10_000);
  t.equal(waits(20), 2, 'so it is still tried');
  waits(10_000);
  waits(10_000);
  t.equal(skipped(), skippedWaits);
  giveUp();
  t.equal(skipped(), 2 * skippedWaits);
  for (let i = 0; i < 1_000; i++) waits(20);
  giveUp();
  t.equal(skipped(), skippedWaits, 'after many good ones it begins anew');
});

t.test('a core that is taken away counts more, even when what was awaited had come', async (t) => {
  const { await: waits } = rig();
  t.equal(waits(20, 400), 1);
  t.equal(waits(20, 400), 1);
  t.equal(waits(20), 0);
});

t.test('there is one wait at a time: the last', async (t) => {
  const next: (() => void)[] = [];
  const wait = new ShortWait(
    () => 0,
    (fn) => {
      next.push(fn);
    },
  );
  let asked = 0;
  wait.begin(() => {
    asked += 1;
    return false;
  });
  wait.begin(() => true);
  t.equal(next.length, 1);
  for (const fn of next.splice(0)) fn();
  t.equal(asked, 0);
  t.equal(next.length, 0, 'and it is over');
});
