/**
 * The choice of several sites at once, so that what must be apart is apart and what should be spread
 * is spread. Sites that are alike in all that counts here are one kind: a cluster of a thousand nodes
 * has a handful of kinds that differ in what they allow.
 */
export interface Site {
  /** `label=value` of which no two chosen sites may share one, always of the same labels */
  required: readonly string[];
  /** `label=value` to spread over, outermost first; ends where the node lacks one */
  path: readonly string[];
  /** what else speaks for it; counts after the spread */
  points: number;
  /** the same for sites that are alike */
  key: string;
}

export interface Kind extends Site {
  /** how many sites of this kind there are */
  count: number;
}

/** Distinct domains level by level, then the sum of the points; compared from the left. */
export type SpreadScore = readonly number[];

/** What is chosen already. */
export interface Chosen {
  used: readonly ReadonlySet<string>[];
  covered: readonly ReadonlySet<string>[];
  points: number;
}

/**
 * Ways that one search tries. With usual labels the first one is the best; only many required labels
 * that lie across each other could need more, and then the best found counts.
 */
export const maxSearchSteps = 5_000;

const separator = '\u0000';

export function makeSite(facts: Omit<Site, 'key'>): Site {
  return { ...facts, key: keyOf(facts) };
}

function keyOf({ required, path, points }: Omit<Site, 'key'>): string {
  return [...required, '', ...path, points].join(separator);
}

/** The domain at a level: a rack of another zone is another rack. */
function domainAt(path: readonly string[], level: number): string {
  return path.slice(0, level + 1).join(separator);
}

/** `a` before `b`: positive when `a` is better. */
export function compareScores(a: SpreadScore, b: SpreadScore): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Nothing, or these sites, which are there whatever they break. */
export function chosenOf(
  sites: readonly Site[],
  shape: { required: number; levels: number },
): Chosen {
  const nothing: Chosen = {
    used: Array.from({ length: shape.required }, () => new Set<string>()),
    covered: Array.from({ length: shape.levels }, () => new Set<string>()),
    points: 0,
  };
  return sites.reduce(withSite, nothing);
}

export function withSite(chosen: Chosen, site: Site): Chosen {
  return {
    used: chosen.used.map((values, i) => {
      const value = site.required[i];
      return value === undefined ? values : new Set(values).add(value);
    }),
    covered: chosen.covered.map((domains, level) =>
      level < site.path.length ? new Set(domains).add(domainAt(site.path, level)) : domains,
    ),
    points: chosen.points + site.points,
  };
}

export function fits(chosen: Chosen, site: Site): boolean {
  return site.required.every((value, i) => !chosen.used[i]?.has(value));
}

export function scoreOf({ covered, points }: Chosen): SpreadScore {
  return [...covered.map((domains) => domains.size), points];
}

/**
 * Drops kinds that no best choice of `count` needs: of those that differ in one label only, as many
 * are kept as the others of the choice, and what is chosen before, could stand in the way of.
 */
export function withoutSpare(kinds: readonly Kind[], keep: number): Kind[] {
  let left = [...kinds];
  const columns = Math.max(0, ...left.map(({ required }) => required.length));
  const levels = Math.max(0, ...left.map(({ path }) => path.length));
  for (let column = 0; column < columns; column++) {
    left = keepSome(left, keep, ({ required, path, points }) =>
      // a label that is required and preferred too is one label: its values stand in both
      keyOf({
        required: required.map((value, i) => (i === column ? '*' : value)),
        path: path.map((value) => (value === required[column] ? '*' : value)),
        points,
      }),
    );
  }
  for (let level = 0; level < levels; level++) {
    left = keepSome(left, keep, (kind) => {
      if (level >= kind.path.length) return null;
      const path = kind.path.map((value, i) => (i === level ? '*' : value));
      return keyOf({ ...kind, path });
    });
  }
  return left;
}

function keepSome(
  kinds: readonly Kind[],
  keep: number,
  groupOf: (kind: Kind) => string | null,
): Kind[] {
  const counts = new Map<string, number>();
  return kinds.filter((kind) => {
    const group = groupOf(kind);
    if (group === null) return true;
    const count = counts.get(group) ?? 0;
    counts.set(group, count + 1);
    return count < keep;
  });
}

/** Looks for the best way to choose some more of the kinds: depth first, with bounds. */
export class SpreadSearch {
  readonly #kinds: readonly Kind[];
  #steps = 0;
  #best: { score: SpreadScore; kinds: Kind[] } | null = null;
  #target: SpreadScore | null = null;

  constructor(kinds: readonly Kind[]) {
    this.#kinds = kinds;
  }

  /** false: the search was given up, so there may be a better way */
  get isExact(): boolean {
    return this.#steps < maxSearchSteps;
  }

  /**
   * The best choice of `count` more; null when there is none. With a `target` the first one that is as
   * good as that, and null when there is none.
   */
  find(
    chosen: Chosen,
    count: number,
    options: { target?: SpreadScore; taken?: ReadonlyMap<string, number> } = {},
  ): { score: SpreadScore; kinds: Kind[] } | null {
    this.#steps = 0;
    this.#best = null;
    this.#target = options.target ?? null;
    const left = this.#kinds
      .map((kind) => ({ ...kind, count: kind.count - (options.taken?.get(kind.key) ?? 0) }))
      .filter((kind) => kind.count > 0 && fits(chosen, kind));
    this.#look(greedyOrder(left, chosen, count), chosen, count, []);
    const best: { score: SpreadScore; kinds: Kind[] } | null = this.#best;
    return best;
  }

  /** Returns whether the search is over. */
  #look(kinds: readonly Kind[], chosen: Chosen, count: number, picked: readonly Kind[]): boolean {
    this.#steps += 1;
    if (this.#steps >= maxSearchSteps) return true;
    if (count === 0) {
      const score = scoreOf(chosen);
      if (this.#target && compareScores(score, this.#target) < 0) return false;
      if (!this.#best || compareScores(score, this.#best.score) > 0) {
        this.#best = { score, kinds: [...picked] };
      }
      return this.#target !== null;
    }
    // where the first way is as good as could be, there is nothing more to look for
    for (let at = 0; at < kinds.length; at++) {
      const rest = kinds.slice(at).filter((kind) => fits(chosen, kind));
      const bound = boundOf(rest, chosen, count);
      if (!bound) return false;
      if (this.#best && compareScores(bound, this.#best.score) <= 0) return false;
      if (this.#target && compareScores(bound, this.#target) < 0) return false;
      const kind = kinds[at];
      if (!kind || !fits(chosen, kind)) continue;
      const left =
        kind.count > 1 ? [{ ...kind, count: kind.count - 1 }, ...rest.slice(1)] : rest.slice(1);
      if (this.#look(left, withSite(chosen, kind), count - 1, [...picked, kind])) return true;
    }
    return false;
  }
}

/** What no choice of `count` of these can exceed; null when there is no such choice for certain. */
function boundOf(kinds: readonly Kind[], chosen: Chosen, count: number): SpreadScore | null {
  const sites = kinds.reduce((sum, kind) => sum + kind.count, 0);
  if (sites < count) return null;
  for (let i = 0; i < chosen.used.length; i++) {
    const values = new Set(kinds.map(({ required }) => required[i]));
    if (values.size < count) return null;
  }
  const levels = chosen.covered.map((domains, level) => {
    const fresh = new Set<string>();
    for (const { path } of kinds) {
      if (level >= path.length || fresh.size >= count) continue;
      const domain = domainAt(path, level);
      if (!domains.has(domain)) fresh.add(domain);
    }
    return domains.size + Math.min(count, fresh.size);
  });
  const most = Math.max(...kinds.map(({ points }) => points));
  return [...levels, chosen.points + count * most];
}

/** Those that a choice one by one would take come first: usually they are the answer. */
function greedyOrder(kinds: readonly Kind[], chosen: Chosen, count: number): Kind[] {
  const left = [...kinds];
  const order: Kind[] = [];
  let now = chosen;
  for (let i = 0; i < count; i++) {
    let best: { kind: Kind; score: SpreadScore } | null = null;
    for (const kind of left) {
      if (!fits(now, kind)) continue;
      const score = scoreOf(withSite(now, kind));
      if (!best || compareScores(score, best.score) > 0) best = { kind, score };
    }
    if (!best) break;
    now = withSite(now, best.kind);
    if (!order.includes(best.kind)) order.push(best.kind);
    if (order.filter((kind) => kind === best.kind).length >= best.kind.count) {
      left.splice(left.indexOf(best.kind), 1);
    }
  }
  return [...order, ...kinds.filter((kind) => !order.includes(kind))];
}
