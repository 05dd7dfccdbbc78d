import { chosenOf, compareScores, SpreadSearch, withoutSpare, withSite } from './spread.ts';
import type { Chosen, Kind, Site, SpreadScore } from './spread.ts';

interface Sited {
  site: Site;
}

export interface SiteChoice<T> {
  /** in the order of choice; empty when there is no way */
  chosen: T[];
  /** how many could be chosen at most; exact when `isExact` */
  most: number;
  isExact: boolean;
}

/**
 * Chooses `count` of the pool, so that no two of them, and none of them and a fixed one, share a
 * required domain. Among all such choices it is one that covers most domains, level by level, with the
 * fixed ones; then the one with most points; then `pickBest` decides. `first` is taken if that costs
 * no domain.
 */
export function chooseSites<T extends Sited>(
  pool: readonly T[],
  options: {
    fixed: readonly Site[];
    count: number;
    required: number;
    levels: number;
    pickBest: (candidates: readonly T[]) => T | null;
    first?: T | undefined;
  },
): SiteChoice<T> {
  const { fixed, count } = options;
  const kinds = kindsOf(pool);
  const start = chosenOf(fixed, options);
  const search = new SpreadSearch(withoutSpare(kinds, count + fixed.length));
  const best = search.find(start, count);
  if (!best) return { chosen: [], ...mostOf(search, start, count) };
  const isExact = search.isExact;
  const picks = new Picks(pool, search, best.score);
  const { first } = options;
  if (first && count > 0) picks.preferFirst(first, start, count);
  let now = start;
  for (let left = count; left > 0; left--) {
    const pick = picks.next(now, left, options.pickBest);
    // only when the search was given up
    if (!pick) return { chosen: byKinds(pool, best.kinds, options.pickBest), most: count, isExact };
    now = withSite(now, pick.site);
  }
  return { chosen: picks.chosen, most: count, isExact };
}

/** Takes one after another such that the best score can still be reached. */
class Picks<T extends Sited> {
  readonly chosen: T[] = [];
  readonly #search: SpreadSearch;
  readonly #taken = new Map<string, number>();
  #pool: T[];
  #target: SpreadScore;
  #first: T | null = null;

  constructor(pool: readonly T[], search: SpreadSearch, target: SpreadScore) {
    this.#pool = [...pool];
    this.#search = search;
    this.#target = target;
  }

  /** The node that asks comes before what else speaks for a site, but not before the spread. */
  preferFirst(first: T, start: Chosen, count: number): void {
    const taken = new Map([[first.site.key, 1]]);
    if (first.site.required.some((value, i) => start.used[i]?.has(value))) return;
    const found = this.#search.find(withSite(start, first.site), count - 1, { taken });
    if (!found || compareScores(found.score.slice(0, -1), this.#target.slice(0, -1)) < 0) return;
    this.#first = first;
    this.#target = found.score;
  }

  next(now: Chosen, left: number, pickBest: (candidates: readonly T[]) => T | null): T | null {
    if (this.#first) {
      const first = this.#first;
      this.#first = null;
      return this.#take(first);
    }
    for (;;) {
      const pick = pickBest(this.#pool);
      if (!pick) return null;
      if (this.#leadsOn(now, pick, left)) return this.#take(pick);
      // what cannot be part of the best way now cannot be later
      const key = pick.site.key;
      this.#pool = this.#pool.filter(({ site }) => site.key !== key);
    }
  }

  #leadsOn(now: Chosen, { site }: T, left: number): boolean {
    if (site.required.some((value, i) => now.used[i]?.has(value))) return false;
    const taken = new Map(this.#taken);
    const { key } = site;
    taken.set(key, (taken.get(key) ?? 0) + 1);
    const target = this.#target;
    return this.#search.find(withSite(now, site), left - 1, { target, taken }) !== null;
  }

  #take(pick: T): T {
    const key = pick.site.key;
    this.#taken.set(key, (this.#taken.get(key) ?? 0) + 1);
    this.#pool.splice(this.#pool.indexOf(pick), 1);
    this.chosen.push(pick);
    return pick;
  }
}

function kindsOf(pool: readonly Sited[]): Kind[] {
  const kinds = new Map<string, Kind>();
  for (const { site } of pool) {
    const { key } = site;
    const kind = kinds.get(key);
    if (kind) kind.count += 1;
    else kinds.set(key, { ...site, key, count: 1 });
  }
  return [...kinds.values()];
}

function byKinds<T extends Sited>(
  pool: readonly T[],
  kinds: readonly Kind[],
  pickBest: (candidates: readonly T[]) => T | null,
): T[] {
  const left = [...pool];
  return kinds.flatMap(({ key }) => {
    const pick = pickBest(left.filter(({ site }) => site.key === key));
    if (!pick) return [];
    left.splice(left.indexOf(pick), 1);
    return [pick];
  });
}

function mostOf(
  search: SpreadSearch,
  start: Chosen,
  count: number,
): { most: number; isExact: boolean } {
  let isExact = search.isExact;
  for (let most = count - 1; most > 0; most--) {
    const found = search.find(start, most);
    if (found) return { most, isExact };
    isExact &&= search.isExact;
  }
  return { most: 0, isExact };
}
