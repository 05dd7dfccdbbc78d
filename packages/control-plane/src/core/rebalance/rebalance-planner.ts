import type { DiskId, NodeId, ReplicaId, VolumeId, VolumeReplica } from '@stor/protocol';
import type { StoredVolume } from '../../resources/records.ts';
import { sitesOf } from '../controllers/replica-sites.ts';
import { preferredDomains } from '../placement/placement-rules.ts';
import type { PlacementBoard } from '../placement/placement-board.ts';
import { needOf, sitesAt } from '../placement/place-replicas.ts';
import { rankNode } from '../placement/rank.ts';
import type { AvoidedDisks } from '../placement/rank.ts';
import { chosenOf, compareScores, scoreOf, withSite } from '../placement/spread.ts';
import { byTag, fullness, spreadOf } from './disk-loads.ts';
import type { DiskLoad } from './disk-loads.ts';
import { MovableReplicas } from './movable-replicas.ts';
import type { Movable } from './movable-replicas.ts';

/** Places that one search judges by all rules; what it has not come to is looked at by the next one. */
export const maxJudged = 5_000;

/**
 * A move must pay: over its way from one disk to the other the shares that are used differ, on average,
 * by at least this part of the band. Else noise in what disks report would move replicas for ever.
 */
const leastGainOfBand = 0.2;

export interface PlannerOptions {
  board: PlacementBoard;
  /** what they hold now; `take` changes them */
  loads: ReadonlyMap<DiskId, DiskLoad>;
  bandPercent: number;
  /** it stays where it is: it has moved already, or could not */
  isSettled: (replica: VolumeReplica) => boolean;
  /** false: something else is to be done with the volume first */
  mayMove: (volume: StoredVolume) => boolean;
  /** disks that take nothing now */
  avoid?: AvoidedDisks;
  /** replicas for which an earlier search found no better place */
  barren?: Set<ReplicaId>;
}

export interface PlannedMove extends Movable {
  from: DiskLoad;
  to: DiskLoad;
  /** by how much sum(used^2 / capacity) over the disks falls (bytes) */
  gain: number;
}

/**
 * Chooses moves that make disks of one tag equally full, the one that lowers sum(used^2 / capacity) most
 * first: that sum is least when all have the same share in use, so each move brings the end nearer, and
 * none is ever taken back. A move breaks no rule of placement, and makes nothing that is preferred worse.
 */
export class RebalancePlanner {
  readonly #options: PlannerOptions;
  readonly #pools: DiskLoad[][];
  readonly #movables: MovableReplicas;
  /** as they are after what was taken */
  readonly #volumes = new Map<VolumeId, StoredVolume>();
  readonly #mayMove = new Map<VolumeId, boolean>();
  readonly #taken = new Set<ReplicaId>();
  #judged = 0;
  #isBlocked = false;

  constructor(options: PlannerOptions) {
    this.#options = options;
    this.#pools = [...byTag(options.loads.values()).values()];
    this.#movables = new MovableReplicas(options.board.state, options.isSettled);
  }

  /** The last search judged as many places as it may, so there may be a move that it did not find. */
  get isCutShort(): boolean {
    return this.#judged >= maxJudged;
  }

  /** A move would help, and its volume may not move now. */
  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  /** Every pool is within the band. */
  get isEven(): boolean {
    return this.#pools.every((pool) => this.#isEven(pool));
  }

  /** The move that helps most; null when none is allowed that pays. */
  next(): PlannedMove | null {
    this.#judged = 0;
    this.#isBlocked = false;
    let best: PlannedMove | null = null;
    for (const pool of this.#pools) {
      if (this.#isEven(pool)) continue;
      const rising = [...pool].sort((a, b) => fullness(a) - fullness(b));
      const most = Math.max(...pool.map(({ capacityBytes }) => capacityBytes));
      const search = { rising, most, lowest: fullness(rising[0] ?? noLoad) };
      for (const from of rising.toReversed()) {
        if (!this.#mayBeat(from, search, best?.gain ?? 0)) continue;
        for (const movable of this.#movables.on(from)) {
          const found = this.#bestOf(movable, from, search, best?.gain ?? 0);
          if (found) best = found;
        }
      }
    }
    return best;
  }

  /** From here on as though the move was done. */
  take(move: PlannedMove): void {
    const { from, to, replica, segment } = move;
    const volume = this.#volumeOf(move);
    const { board } = this.#options;
    board.note(
      { nodeId: to.nodeId, diskId: to.diskId },
      needOf(board.state, volume, segment, 'new'),
    );
    from.usedBytes -= move.bytes;
    to.usedBytes += move.fillBytes;
    this.#taken.add(replica.id);
    const segments = volume.status.segments.map((each) => {
      if (each.index !== segment.index) return each;
      const replicas = each.replicas.map((r) =>
        r.id === replica.id ? { ...r, nodeId: to.nodeId, diskId: to.diskId } : r,
      );
      return { ...each, replicas };
    });
    this.#volumes.set(volume.metadata.id, { ...volume, status: { ...volume.status, segments } });
  }

  #volumeOf({ volume }: Movable): StoredVolume {
    return this.#volumes.get(volume.metadata.id) ?? volume;
  }

  #isEven(pool: readonly DiskLoad[]): boolean {
    const { lowest, highest } = spreadOf(pool);
    return (highest - lowest) * 100 <= this.#options.bandPercent;
  }

  /** Whether any replica of the disk could lower the sum by more than `floor`, wherever it went. */
  #mayBeat(from: DiskLoad, search: Search, floor: number): boolean {
    return this.#movables.sizesOn(from.diskId).some((bytes) => {
      const gain = benefitOf(from, bytes) - cheapest(search, bytes, search.lowest);
      return gain > Math.max(floor, this.#leastGain(2 * bytes));
    });
  }

  #leastGain(bytes: number): number {
    return (this.#options.bandPercent / 100) * leastGainOfBand * bytes;
  }

  /** The best move of this replica that lowers the sum by more than `floor`; null: there is none. */
  #bestOf(movable: Movable, from: DiskLoad, search: Search, floor: number): PlannedMove | null {
    const { replica, bytes, fillBytes, volume } = movable;
    const benefit = benefitOf(from, bytes);
    const least = Math.max(floor, this.#leastGain(bytes + fillBytes));
    if (benefit - cheapest(search, fillBytes, search.lowest) <= least) return null;
    const { barren } = this.#options;
    if (this.#taken.has(replica.id) || barren?.has(replica.id) === true) return null;
    if (!this.#mayMoveNow(volume)) {
      this.#isBlocked = true;
      return null;
    }
    const judge = new PlaceJudge(this.#options, { ...movable, volume: this.#volumeOf(movable) });
    let best: PlannedMove | null = null;
    const judgedBefore = this.#judged;
    for (const to of search.rising) {
      if (benefit - cheapest(search, fillBytes, fullness(to)) <= (best?.gain ?? least)) break;
      if (to === from) continue;
      const cost = (fillBytes * (2 * to.usedBytes + fillBytes)) / to.capacityBytes;
      const gain = benefit - cost;
      if (gain <= (best?.gain ?? least)) continue;
      if (this.isCutShort) {
        // as many disks as a search may judge: another one would come no further
        if (judgedBefore === 0) barren?.add(replica.id);
        return best;
      }
      this.#judged += 1;
      if (judge.allows(to)) best = { ...movable, from, to, gain };
    }
    // with a higher floor it might have been given up too early
    if (!best && floor === 0) barren?.add(replica.id);
    return best;
  }

  #mayMoveNow(volume: StoredVolume): boolean {
    const { id } = volume.metadata;
    const known = this.#mayMove.get(id) ?? this.#options.mayMove(volume);
    this.#mayMove.set(id, known);
    return known;
  }
}

/** Where replicas of one tag could go. */
interface Search {
  /** the emptiest first */
  rising: readonly DiskLoad[];
  /** the largest capacity (bytes) */
  most: number;
  /** the smallest share in use */
  lowest: number;
}

/** What its own disk's part of the sum falls by when a replica leaves. */
function benefitOf({ usedBytes, capacityBytes }: DiskLoad, bytes: number): number {
  return (bytes * (2 * usedBytes - bytes)) / capacityBytes;
}

/** By less than this no disk's part of the sum rises of which so much is in use, whatever its size is. */
function cheapest({ most }: Search, bytes: number, share: number): number {
  return 2 * bytes * share + (bytes * bytes) / most;
}

const noLoad: DiskLoad = { diskId: '', nodeId: '', tag: '', capacityBytes: 1, usedBytes: 0 };

/** Whether a replica may lie elsewhere, and lies no worse there. */
class PlaceJudge {
  readonly #options: PlannerOptions;
  readonly #subject: Movable;
  readonly #allowed = new Map<NodeId, ReadonlySet<DiskId>>();

  constructor(options: PlannerOptions, subject: Movable) {
    this.#options = options;
    this.#subject = subject;
  }

  allows({ nodeId, diskId }: DiskLoad): boolean {
    const known = this.#allowed.get(nodeId) ?? this.#disksOf(nodeId);
    this.#allowed.set(nodeId, known);
    return known.has(diskId);
  }

  #disksOf(nodeId: NodeId): ReadonlySet<DiskId> {
    const { board, avoid = new Map<DiskId, string>() } = this.#options;
    const { volume, replica } = this.#subject;
    const { index } = this.#subject.segment;
    const segment = volume.status.segments.find((each) => each.index === index);
    const node = board.state.nodes.get(nodeId)?.value;
    if (!node || !segment) return nothing;
    const sites = sitesOf(segment, board.state, ({ id }) => id === replica.id);
    for (const [diskId, why] of avoid) sites.avoid.set(diskId, why);
    const need = needOf(board.state, volume, segment, 'new');
    const { subject } = need;
    if (!subject) return nothing;
    // its user reads from the one beside it
    if (replica.nodeId === subject.local && nodeId !== replica.nodeId) return nothing;
    const { candidates } = rankNode(board, node, need, sites);
    if (candidates.length === 0) return nothing;
    if (nodeId !== replica.nodeId) {
      const levels = preferredDomains(board, subject.rules).length;
      const fixed = chosenOf(sitesAt(board, need, sites.fixed), { required: 0, levels });
      const [now, then] = sitesAt(board, need, [replica.nodeId, nodeId]).map((site) =>
        scoreOf(withSite(fixed, site)),
      );
      if (!now || !then || compareScores(then, now) < 0) return nothing;
    }
    return new Set(candidates.map(({ diskId }) => diskId));
  }
}

const nothing: ReadonlySet<DiskId> = new Set();
