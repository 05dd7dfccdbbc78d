import type { LineageTables } from './lineage-tables.ts';
import { layerMask } from './slot-table.ts';

/** Slots of a lineage that count with one replica of it. */
export interface SpaceShare {
  /** shown by its live image, and by that of no older replica */
  live: number;
  /** held by its layers, and shown by no live image */
  held: number;
  /** in layers that nothing needs any more: freed in a moment */
  leaving: number;
}

interface Known {
  shares: Map<number, SpaceShare>;
  /** what it was counted from */
  state: string;
}

/** Counted once for all replicas that ask, until something changes. */
const known = new WeakMap<LineageTables, Known>();

/**
 * Whose each slot with data is, among the replicas that share a lineage: of the oldest one whose live
 * image shows it; of one that no live image shows, that whose layer it is in, or the oldest if that was
 * deleted. So every slot counts once, with one replica.
 */
export function spaceShares(tables: LineageTables): ReadonlyMap<number, SpaceShare> {
  const state = `${tables.slotChanges} ${tables.layerChanges} ${[...tables.live.keys()].join(' ')}`;
  const before = known.get(tables);
  if (before?.state === state) return before.shares;
  const shares = countShares(tables);
  known.set(tables, { shares, state });
  return shares;
}

function countShares(tables: LineageTables): Map<number, SpaceShare> {
  const replicas = [...tables.live.keys()].sort((a, b) => a - b);
  const shares = new Map<number, SpaceShare>();
  for (const replica of replicas) shares.set(replica, { live: 0, held: 0, leaving: 0 });
  const [oldest] = replicas;
  if (oldest === undefined) return shares;
  const shownIn = new Map<number, number>();
  if (replicas.length > 1) countShown(tables, replicas, shares, shownIn);
  const one = replicas.length === 1 ? shares.get(oldest) : undefined;
  for (const layer of tables.layers.layers.values()) {
    const share = shares.get(layer.replica) ?? shares.get(oldest);
    if (!share) continue;
    const isDead = layer.kind === 'hidden' && tables.layers.childCount(layer.place) === 0;
    const slots = tables.dataSlotsOf(layer.place) - (shownIn.get(layer.place) ?? 0);
    if (isDead) share.leaving += slots;
    else share.held += slots;
  }
  if (one) {
    // nothing is shared, so nothing needs to be looked at slot by slot
    one.live = tables.live.get(oldest)?.allocatedChunks ?? 0;
    one.held -= one.live;
  }
  return shares;
}

function countShown(
  { live, slots }: LineageTables,
  replicas: readonly number[],
  shares: ReadonlyMap<number, SpaceShare>,
  shownIn: Map<number, number>,
): void {
  const seen = new Uint8Array(slots.end);
  for (const replica of replicas) {
    const share = shares.get(replica);
    const image = live.get(replica);
    if (!share || !image) continue;
    for (let chunk = image.nextAllocated(0); chunk >= 0; chunk = image.nextAllocated(chunk + 1)) {
      const slotPlusOne = image.slotOf.get(chunk);
      if (seen[slotPlusOne - 1] === 1) continue;
      seen[slotPlusOne - 1] = 1;
      share.live += 1;
      const word = slots.words[slotPlusOne - 1] ?? 0;
      const place = word & layerMask;
      shownIn.set(place, (shownIn.get(place) ?? 0) + 1);
    }
  }
}
