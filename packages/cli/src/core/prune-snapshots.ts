import { StorError } from '@stor/protocol';

/** The parts of time of which the newest snapshot each is kept, by UTC. */
const periods = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
type Period = (typeof periods)[number];

/** How many are kept: the newest ones (`last`), and the newest of each of the last N hours, days, ... */
export type KeepRules = { [K in Period | 'last']?: number } & {
  /** all that are younger (ms) */
  withinMs?: number;
};

export interface DatedSnapshot {
  id: string;
  createdAtMs: number;
}

export interface PrunePlan<S extends DatedSnapshot> {
  /** newest first, and by which rules */
  kept: { snapshot: S; rules: string[] }[];
  /** oldest first */
  removed: S[];
}

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
/** 1970 began on a Thursday; weeks begin on Mondays. */
const mondayOffsetMs = 3 * dayMs;
const maxCount = 100_000;

/**
 * Parses `last=3,daily=7,weekly=4`, also `within=7d`. `parseMs` reads a time. Throws
 * INVALID_ARGUMENT; rules that keep nothing at all are refused, for that is no pruning.
 */
export function parseKeepRules(text: string, parseMs: (text: string) => number): KeepRules {
  const rules: KeepRules = {};
  for (const part of text.split(',')) {
    const [name = '', value = ''] = part.trim().split('=');
    if (name === 'within') {
      rules.withinMs = parseMs(value);
      continue;
    }
    const known = ['last' as const, ...periods].find((each) => each === name);
    const count = /^[0-9]+$/.test(value) ? Number(value) : NaN;
    if (known === undefined || !(count <= maxCount)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `--keep ${JSON.stringify(text)} is not valid: write what is kept, for example last=3,daily=7,weekly=4 (last, hourly, daily, weekly, monthly, yearly with a number; within with a time)`,
      );
    }
    rules[known] = count;
  }
  if (Object.values(rules).some((value) => value > 0)) return rules;
  throw new StorError(
    'INVALID_ARGUMENT',
    `--keep ${JSON.stringify(text)} would keep no snapshot: "storctl snapshot rm" removes them all`,
  );
}

/** Which snapshots the rules keep; a pure function of its arguments. `nowMs`: ms since 1970. */
export function planPrune<S extends DatedSnapshot>(
  snapshots: readonly S[],
  rules: KeepRules,
  nowMs: number,
): PrunePlan<S> {
  const newestFirst = [...snapshots].sort(
    (a, b) => b.createdAtMs - a.createdAtMs || (a.id < b.id ? 1 : -1),
  );
  const reasons = new Map<S, string[]>();
  const keep = (snapshot: S, rule: string): void => {
    reasons.set(snapshot, [...(reasons.get(snapshot) ?? []), rule]);
  };
  for (const snapshot of newestFirst.slice(0, rules.last ?? 0)) keep(snapshot, 'last');
  for (const period of periods) {
    const seen = new Set<number>();
    for (const snapshot of newestFirst) {
      if (seen.size >= (rules[period] ?? 0)) break;
      const number = periodOf(period, snapshot.createdAtMs);
      if (seen.has(number)) continue;
      seen.add(number);
      keep(snapshot, period);
    }
  }
  for (const snapshot of newestFirst) {
    if (nowMs - snapshot.createdAtMs < (rules.withinMs ?? 0)) keep(snapshot, 'within');
  }
  return {
    kept: newestFirst.flatMap((snapshot) => {
      const why = reasons.get(snapshot);
      return why ? [{ snapshot, rules: why }] : [];
    }),
    removed: newestFirst.filter((snapshot) => !reasons.has(snapshot)).reverse(),
  };
}

/** A number that is the same for two times exactly when they lie in the same hour, day, ... */
function periodOf(period: Period, ms: number): number {
  switch (period) {
    case 'hourly':
      return Math.floor(ms / hourMs);
    case 'daily':
      return Math.floor(ms / dayMs);
    case 'weekly':
      return Math.floor((ms + mondayOffsetMs) / (7 * dayMs));
    case 'monthly': {
      const { year, month } = monthOf(ms);
      return year * 12 + month;
    }
    case 'yearly':
      return monthOf(ms).year;
  }
}

const daysIn400Years = 146_097;
/** from 1 March of year 0 to 1970: years that begin in March have their leap day at the end */
const epochDay = 719_468;

/** Year of the calendar, by UTC, and a number of the month in it (March is 0). */
function monthOf(ms: number): { year: number; month: number } {
  const day = Math.floor(ms / dayMs) + epochDay;
  const era = Math.floor(day / daysIn400Years);
  const inEra = day - era * daysIn400Years;
  const leapDays =
    Math.floor(inEra / 1_460) - Math.floor(inEra / 36_524) + Math.floor(inEra / 146_096);
  const yearInEra = Math.floor((inEra - leapDays) / 365);
  const dayOfYear =
    inEra - (365 * yearInEra + Math.floor(yearInEra / 4) - Math.floor(yearInEra / 100));
  const month = Math.floor((5 * dayOfYear + 2) / 153);
  // January and February belong to the year that the calendar says, which is one more
  return { year: era * 400 + yearInEra + (month >= 10 ? 1 : 0), month };
}
