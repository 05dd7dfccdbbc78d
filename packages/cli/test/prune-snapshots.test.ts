import fc from 'fast-check';
import t from 'tap';
import { parseDurationMs } from '../src/core/duration.ts';
import { parseKeepRules, planPrune } from '../src/core/prune-snapshots.ts';
import type { DatedSnapshot, KeepRules } from '../src/core/prune-snapshots.ts';

const hourMs = 3_600_000;
const nowMs = Date.UTC(2026, 5, 15, 12);

const parse = (text: string): KeepRules => parseKeepRules(text, parseDurationMs);

function at(iso: string): DatedSnapshot {
  return { id: iso, createdAtMs: Date.parse(iso) };
}

function kept(snapshots: DatedSnapshot[], rules: KeepRules): string[] {
  return planPrune(snapshots, rules, nowMs).kept.map(({ snapshot }) => snapshot.id);
}

t.test('rules', async (t) => {
  t.strictSame(parse('last=3,daily=7,weekly=4'), { last: 3, daily: 7, weekly: 4 });
  t.strictSame(parse('within=2h, last=1'), { withinMs: 2 * hourMs, last: 1 });
  for (const text of ['', 'last', 'last=', 'last=-1', 'last=x', 'daly=3', 'last=0', 'last=1e9']) {
    t.throws(() => parse(text), { code: 'INVALID_ARGUMENT' }, text);
  }
});

t.test('the newest of each period is kept, by UTC, weeks from Monday', async (t) => {
  const all = [
    at('2026-06-14T23:59:59Z'), // a Sunday
    at('2026-06-15T00:00:00Z'),
    at('2026-06-15T11:10:00Z'),
    at('2026-06-15T11:50:00Z'),
    at('2026-05-31T10:00:00Z'),
    at('2025-12-31T23:00:00Z'),
  ];
  t.strictSame(kept(all, { hourly: 2 }), ['2026-06-15T11:50:00Z', '2026-06-15T00:00:00Z']);
  t.strictSame(kept(all, { daily: 2 }), ['2026-06-15T11:50:00Z', '2026-06-14T23:59:59Z']);
  t.strictSame(kept(all, { weekly: 2 }), ['2026-06-15T11:50:00Z', '2026-06-14T23:59:59Z']);
  t.strictSame(kept(all, { monthly: 2 }), ['2026-06-15T11:50:00Z', '2026-05-31T10:00:00Z']);
  t.strictSame(kept(all, { yearly: 9 }), ['2026-06-15T11:50:00Z', '2025-12-31T23:00:00Z']);
  t.strictSame(kept(all, { withinMs: hourMs }), ['2026-06-15T11:50:00Z', '2026-06-15T11:10:00Z']);
});

const snapshotLists = fc
  .array(fc.integer({ min: 0, max: 800 * 24 }), { maxLength: 60 })
  .map((hours) => hours.map((ago, i) => ({ id: `s-${i}`, createdAtMs: nowMs - ago * hourMs - i })));
const counts = fc.option(fc.integer({ min: 0, max: 12 }), { nil: undefined });
const ruleSets = fc
  .record({
    last: counts,
    hourly: counts,
    daily: counts,
    weekly: counts,
    monthly: counts,
    yearly: counts,
    withinMs: fc.option(fc.integer({ min: 1, max: 90 * 24 * hourMs }), { nil: undefined }),
  })
  .map((rules) => Object.fromEntries(Object.entries(rules).filter(([, v]) => v !== undefined)));

/** What a calendar says of a time, by another way than the code's. */
const names: Record<string, (ms: number) => string> = {
  hourly: (ms) => new Date(ms).toISOString().slice(0, 13),
  daily: (ms) => new Date(ms).toISOString().slice(0, 10),
  weekly: (ms) => {
    const day = new Date(ms);
    const sinceMonday = (day.getUTCDay() + 6) % 7;
    return new Date(ms - sinceMonday * 24 * hourMs).toISOString().slice(0, 10);
  },
  monthly: (ms) => new Date(ms).toISOString().slice(0, 7),
  yearly: (ms) => new Date(ms).toISOString().slice(0, 4),
};

function stupidlyKept(snapshots: DatedSnapshot[], rules: KeepRules): Set<string> {
  const sorted = [...snapshots].sort((a, b) => b.createdAtMs - a.createdAtMs);
  const wanted = new Set<string>();
  sorted.forEach(({ id, createdAtMs }, i) => {
    if (i < (rules.last ?? 0)) wanted.add(id);
    if (nowMs - createdAtMs < (rules.withinMs ?? 0)) wanted.add(id);
  });
  for (const [rule, nameOf] of Object.entries(names)) {
    const all = [...new Set(sorted.map(({ createdAtMs }) => nameOf(createdAtMs)))];
    for (const name of all.slice(0, rules[rule as 'daily'] ?? 0)) {
      const newest = sorted.find(({ createdAtMs }) => nameOf(createdAtMs) === name);
      if (newest) wanted.add(newest.id);
    }
  }
  return wanted;
}

t.test('the plan is what a calendar says, and splits the snapshots', async (t) => {
  fc.assert(
    fc.property(snapshotLists, ruleSets, (snapshots, rules) => {
      const plan = planPrune(snapshots, rules, nowMs);
      const keeps = new Set(plan.kept.map(({ snapshot }) => snapshot.id));
      t.strictSame(keeps, stupidlyKept(snapshots, rules));
      t.equal(plan.kept.length + plan.removed.length, snapshots.length);
      t.notOk(plan.removed.some(({ id }) => keeps.has(id)));
      t.ok(plan.kept.every(({ rules: why }) => why.length > 0));
    }),
    { numRuns: 200 },
  );
});

t.test('pruning again removes nothing, and another rule never removes more', async (t) => {
  fc.assert(
    fc.property(snapshotLists, ruleSets, ruleSets, (snapshots, rules, more) => {
      const left = planPrune(snapshots, rules, nowMs).kept.map(({ snapshot }) => snapshot);
      t.strictSame(planPrune(left, rules, nowMs).removed, []);
      const both: Record<string, number> = {};
      for (const [rule, count] of [...Object.entries(rules), ...Object.entries(more)]) {
        both[rule] = Math.max(both[rule] ?? 0, count ?? 0);
      }
      const wider = new Set(kept(snapshots, both));
      t.ok(left.every(({ id }) => wider.has(id)));
    }),
    { numRuns: 200 },
  );
});
