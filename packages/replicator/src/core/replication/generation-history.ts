import {
  compareGenerations,
  noGeneration,
  type Generation,
  type GenerationHistory,
} from '../../replica-store.ts';

/** The region is marked: it may change, or has changed after every generation. */
export const historyMarked = 255;
/** What a byte can name besides "not changed" and "marked". */
export const maxHistoryGenerations = 254;

/** What a history is made of. */
export interface RegionStamps {
  readonly after: Generation;
  readonly regionCount: number;
  /** the first at or after `from` that may be marked or stamped; -1: none is */
  next(from: number): number;
  isMarked(region: number): boolean;
  /** the checkpoint that last cleared the region's mark; noGeneration: none */
  stampOf(region: number): Generation;
}

/**
 * When each region last changed, in a byte each. Where there are more generations than a byte can
 * name, neighbours are joined under the newest of them: a region then seems changed later than it
 * was, which costs a comparison and hides nothing.
 */
export function historyOf(stamps: RegionStamps): GenerationHistory {
  const { after, regionCount } = stamps;
  const counts = new Map<number, Map<number, number>>();
  let distinct = 0;
  let stamped = 0;
  for (let region = stamps.next(0); region >= 0; region = stamps.next(region + 1)) {
    const stamp = stamps.stampOf(region);
    if (stamps.isMarked(region) || compareGenerations(stamp, after) <= 0) continue;
    const ofEpoch = counts.get(stamp.epoch) ?? new Map<number, number>();
    if (!ofEpoch.has(stamp.n)) distinct += 1;
    ofEpoch.set(stamp.n, (ofEpoch.get(stamp.n) ?? 0) + 1);
    counts.set(stamp.epoch, ofEpoch);
    stamped += 1;
  }
  const all: { generation: Generation; count: number }[] = [];
  for (const [epoch, ofEpoch] of counts) {
    for (const [n, count] of ofEpoch) all.push({ generation: { epoch, n }, count });
  }
  all.sort((a, b) => compareGenerations(a.generation, b.generation));
  // as many regions in each, so that an older question includes few that did not change since
  const share = distinct > maxHistoryGenerations ? stamped / maxHistoryGenerations : 0;
  const generations: Generation[] = [];
  let taken = 0;
  for (const [at, { generation, count }] of all.entries()) {
    taken += count;
    const isLast = at === all.length - 1;
    if (share === 0 || isLast || taken >= (generations.length + 1) * share) {
      generations.push(generation);
    }
  }
  const regions = new Uint8Array(regionCount);
  for (let region = stamps.next(0); region >= 0; region = stamps.next(region + 1)) {
    if (stamps.isMarked(region)) regions[region] = historyMarked;
    else regions[region] = 1 + firstNotBefore(generations, stamps.stampOf(region), after);
  }
  return { after, generations, regions };
}

/** Index of the first generation at or after the stamp; -1 for one that is not known as a change. */
function firstNotBefore(
  generations: readonly Generation[],
  stamp: Generation,
  after: Generation,
): number {
  if (compareGenerations(stamp, after) <= 0) return -1;
  let low = 0;
  let high = generations.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareGenerations(generations[middle] ?? noGeneration, stamp) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What a replica must take over of a history: regions by the generation to stamp them with. */
export function stampsOf(history: GenerationHistory): {
  marked: number[];
  stamped: { generation: Generation; regions: number[] }[];
} {
  const marked: number[] = [];
  const stamped = history.generations.map((generation) => ({
    generation,
    regions: [] as number[],
  }));
  for (const [region, code] of history.regions.entries()) {
    if (code === historyMarked) marked.push(region);
    else if (code > 0) stamped[code - 1]?.regions.push(region);
  }
  return { marked, stamped: stamped.filter(({ regions }) => regions.length > 0) };
}
