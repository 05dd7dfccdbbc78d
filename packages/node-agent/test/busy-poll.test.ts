import t from 'tap';
import { command, commandFlag } from 'nbd-client-js';
import { FakeClock } from '@stor/runtime/testing';
import { BusyPollRule } from '../src/core/nbd/busy-poll-rule.ts';
import { BusyPoll } from '../src/nbd/busy-poll.ts';

const cycleMs = 0.1;
const write = { type: command.write, flags: 0 };

/** Requests one after another until the rule wants to wait awake; how many it took. */
function warm(rule: BusyPollRule, fromMs: number, everyMs = cycleMs, most = 1_000): number {
  let count = 1;
  while (!rule.alone(fromMs + count * everyMs, false) && count < most) count += 1;
  return count;
}

t.test('a client that asks one after another is waited for, one with pauses is not', async (t) => {
  const quick = new BusyPollRule();
  t.ok(warm(quick, 0) < 50);
  t.equal(warm(new BusyPollRule(), 0, 1), 1_000, 'a request each millisecond');
  const pausing = new BusyPollRule();
  let polls = 0;
  for (let nowMs = 0, i = 0; i < 10_000; i++) {
    nowMs += i % 4 === 3 ? 2 : cycleMs;
    if (pausing.alone(nowMs, false)) polls += 1;
  }
  t.equal(polls, 0, 'three quick ones and a pause');
});

t.test('a single late request does not end it, several do', async (t) => {
  const rule = new BusyPollRule();
  let nowMs = warm(rule, 0) * cycleMs;
  for (let i = 0; i < 40; i++) rule.alone((nowMs += cycleMs), false);
  t.ok(rule.alone((nowMs += 5), false), 'one');
  rule.alone((nowMs += 5), false);
  t.notOk(rule.alone((nowMs += 5), false), 'three');
  rule.crowded();
  t.notOk(rule.alone((nowMs += cycleMs), false), 'and others end it at once');
});

t.test('a client that writes and syncs in turn is waited for while it writes', async (t) => {
  const rule = new BusyPollRule();
  let nowMs = 0;
  const pairs = (count: number, writeMs: number): boolean[] => {
    const polls: boolean[] = [];
    for (let i = 0; i < count; i++) {
      polls.push(rule.alone((nowMs += 3), false));
      t.notOk(rule.alone((nowMs += writeMs), true), 'not while it syncs');
      t.notOk(rule.goesOn(nowMs));
    }
    return polls;
  };
  t.same(pairs(40, cycleMs), [...Array<boolean>(32).fill(false), ...Array<boolean>(8).fill(true)]);
  t.notOk(pairs(4, 1).pop(), 'its writes have become slow');
});

t.test('FLUSH and FUA wait for the disk', async (t) => {
  const clock = new FakeClock();
  const poll = new BusyPoll({ clock, stats: { busyPollMs: 0 }, queuedMs: () => 0 });
  const client = {};
  for (let i = 0; i < 100; i++) poll.took(client, 1, write, 1, clock.monotonicMs());
  clock.runTurn();
  for (const last of [
    { type: command.flush, flags: 0 },
    { type: command.write, flags: commandFlag.fua },
  ]) {
    poll.took(client, 1, last, 1, clock.monotonicMs());
    t.notOk(poll.isPolling);
  }
  poll.took(client, 1, write, 1, clock.monotonicMs());
  t.ok(poll.isPolling, 'and then it writes again');
  poll.close();
});

t.test('it looks for as long as a cycle takes, and never without end', async (t) => {
  const rule = new BusyPollRule();
  const nowMs = warm(rule, 0) * cycleMs;
  t.ok(rule.goesOn(nowMs + 0.3));
  t.notOk(rule.goesOn(nowMs + 0.5), 'nothing came');
  t.ok(rule.alone(nowMs + 0.3 + cycleMs, false));
  let turns = 0;
  while (rule.goesOn(nowMs + 0.4)) turns += 1;
  t.ok(turns > 100 && turns < 1_000, `${turns} turns while the clock stood still`);
});

t.test(
  'a thread that has to wait for a core stops, longer each time, until all is calm',
  async (t) => {
    const rule = new BusyPollRule();
    let nowMs = 0;
    const busySpan = (queuedMs: number): boolean => {
      nowMs += warm(rule, nowMs) * cycleMs;
      rule.begin(nowMs, 7);
      nowMs += 100;
      t.ok(rule.isLong(nowMs));
      return rule.end(nowMs, 7 + queuedMs);
    };
    t.ok(busySpan(20), 'a fifth of the time');
    const rests: number[] = [];
    for (let i = 0; i < 10; i++) {
      t.notOk(busySpan(30), 'a third of it');
      const sinceMs = nowMs;
      while (warm(rule, nowMs, cycleMs, 100) === 100) nowMs += 100 * cycleMs;
      rests.push(Math.round((nowMs - sinceMs) / 1_000));
    }
    t.same(rests, [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]);
    for (let i = 0; i < 100; i++) t.ok(busySpan(0));
    t.notOk(busySpan(100));
    const sinceMs = nowMs;
    while (warm(rule, nowMs, cycleMs, 100) === 100) nowMs += 100 * cycleMs;
    t.equal(Math.round((nowMs - sinceMs) / 1_000), 1, 'as short as the first');
  },
);

t.test('short spans count together', async (t) => {
  const rule = new BusyPollRule();
  let nowMs = 0;
  let judged = true;
  for (let i = 0; i < 100 && judged; i++) {
    nowMs += warm(rule, nowMs) * cycleMs;
    rule.begin(nowMs, 0);
    nowMs += 2;
    judged = rule.end(nowMs, 1);
  }
  t.notOk(judged, 'half of each of 50 spans of 2 ms');
  t.equal(rule.end(nowMs, 0), false, 'none was under way');
});

t.test('the lane looks again at the end of each turn, for one client only', async (t) => {
  const clock = new FakeClock();
  const stats = { busyPollMs: 0 };
  let asked = 0;
  const poll = new BusyPoll({ clock, stats, queuedMs: () => ((asked += 1), 0) });
  const client = {};
  for (let i = 0; i < 40; i++) {
    poll.took(client, 1, write, 1, clock.monotonicMs());
    clock.advance(cycleMs);
  }
  // the fake clock stands still while turns run, so each look ends by the number of turns
  t.notOk(poll.isPolling);
  t.ok(asked > 0, 'it has looked');
  poll.took(client, 1, write, 1, clock.monotonicMs());
  t.ok(poll.isPolling);
  clock.runTurn();
  t.notOk(poll.isPolling);
  poll.took({}, 1, write, 1, clock.monotonicMs());
  t.notOk(poll.isPolling, 'another client begins anew');
  for (let i = 0; i < 100; i++) poll.took(client, 1, write, 2, clock.monotonicMs());
  t.notOk(poll.isPolling, 'nor one with two under way');
  poll.close();
  for (let i = 0; i < 100; i++) poll.took(client, 1, write, 1, clock.monotonicMs());
  t.notOk(poll.isPolling, 'nothing after the end');
});

t.test('where nobody knows who waits for a core, the lane sleeps', async (t) => {
  const clock = new FakeClock();
  const poll = new BusyPoll({ clock, stats: { busyPollMs: 0 }, queuedMs: () => null });
  const client = {};
  for (let i = 0; i < 100; i++) poll.took(client, 1, write, 1, clock.monotonicMs());
  t.notOk(poll.isPolling);
});

t.test('what it has waited awake is counted, until nothing has come for a cycle', async (t) => {
  let nowMs = 0;
  let planned: (() => void) | null = null;
  const clock = Object.assign(new FakeClock(), {
    monotonicMs: () => nowMs,
    endOfTurn: (fn: () => void) => {
      planned = fn;
    },
  });
  const stats = { busyPollMs: 0 };
  const poll = new BusyPoll({ clock, stats, queuedMs: () => 0 });
  const client = {};
  for (let i = 0; i < 100; i++) poll.took(client, 1, write, 0, (nowMs += cycleMs));
  t.ok(poll.isPolling);
  const startMs = nowMs;
  let looks = 0;
  while (poll.isPolling && looks < 1_000) {
    const look: () => void = planned ?? (() => t.fail('nothing is planned'));
    planned = null;
    nowMs += 0.01;
    look();
    looks += 1;
  }
  t.ok(nowMs - startMs > 0.4 && nowMs - startMs < 0.45, `${nowMs - startMs} ms`);
  t.equal(planned, null, 'and it sleeps');
  // the requests before count too: it was awake from the one that made it wait
  t.ok(stats.busyPollMs >= nowMs - startMs && stats.busyPollMs <= nowMs, `${stats.busyPollMs} ms`);
});
