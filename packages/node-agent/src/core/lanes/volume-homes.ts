import { StorError, homeLane, type DiskId, type NodeId, type VolumeId } from '@stor/protocol';
import { EndedEpochs } from './ended-epochs.ts';

/**
 * A volume that has been given back stays its lane's for so long (ms): that lane knows whether it was
 * handed over or detached a moment ago, and sends clients where they belong.
 */
export const homeMemoryMs = 60_000;

interface Home {
  name: string;
  lane: number;
  /** under which the lane was last told to be primary; 0: not yet */
  epoch: number;
  /** since when it is not attached here (monotonic ms); null while it is */
  freeSinceMs: number | null;
}

export interface PlacedVolume {
  volumeId: VolumeId;
  name: string;
  segments: Parameters<typeof homeLane>[0];
}

/**
 * Which lane of this node is primary of which volume. A volume stays with its lane as long as it is
 * attached, and for a while longer, wherever its replicas go; and no epoch is served twice, whichever
 * lane had it (I6).
 */
export class VolumeHomes {
  readonly #nodeId: NodeId;
  readonly #laneCount: number;
  readonly #laneOf: (diskId: DiskId) => number;
  readonly #homes = new Map<VolumeId, Home>();
  readonly #ended = new EndedEpochs();

  constructor(options: {
    nodeId: NodeId;
    lanes: number;
    /** the lane of a disk of this node */
    laneOf: (diskId: DiskId) => number;
  }) {
    this.#nodeId = options.nodeId;
    this.#laneCount = options.lanes;
    this.#laneOf = options.laneOf;
  }

  /** The lane that knows of the volume; lane 0 for one that nobody knows. */
  of(volumeId: VolumeId): number {
    return this.#homes.get(volumeId)?.lane ?? 0;
  }

  /** The lane on which the volume is attached; null when it is attached on none. */
  attachedOn(volumeId: VolumeId): number | null {
    const home = this.#homes.get(volumeId);
    return home?.freeSinceMs === null ? home.lane : null;
  }

  /** The lane on which a volume of this name is attached; null when it is attached on none. */
  named(name: string): number | null {
    for (const home of this.#homes.values()) {
      if (home.name === name && home.freeSinceMs === null) return home.lane;
    }
    return null;
  }

  /** The lane of the volume: the one that it has, or by where its replicas are. */
  choose({ volumeId, name, segments }: PlacedVolume, nowMs: number): number {
    const known = this.#homes.get(volumeId);
    if (known && !isOver(known, nowMs)) {
      known.name = name;
      return known.lane;
    }
    this.#forgetOver(nowMs);
    const lane = homeLane(segments, this.#nodeId, this.#laneOf) ?? this.#leastUsed();
    this.#homes.set(volumeId, { name, lane, epoch: 0, freeSinceMs: nowMs });
    return lane;
  }

  /** The chosen lane is about to be primary. STALE_EPOCH when that epoch was given back before. */
  attach(volume: PlacedVolume & { epoch: number }, nowMs: number): number {
    const { volumeId, epoch, name } = volume;
    if (epoch <= this.#ended.of(volumeId)) {
      throw new StorError('STALE_EPOCH', `epoch ${epoch} of volume ${name} is over here`);
    }
    const lane = this.choose(volume, nowMs);
    const home = this.#homes.get(volumeId);
    // an older epoch is refused by the lane
    if (home && home.epoch <= epoch) {
      home.epoch = epoch;
      home.freeSinceMs = null;
    }
    return lane;
  }

  /** A lane gives an epoch back: it is never served again here, whichever lane is asked. */
  released(volumeId: VolumeId, epoch: number, nowMs: number): void {
    this.#ended.note(volumeId, epoch);
    this.notAttached(volumeId, epoch, nowMs);
  }

  /** It did not become primary under this epoch. */
  notAttached(volumeId: VolumeId, epoch: number, nowMs: number): void {
    const home = this.#homes.get(volumeId);
    if (home && home.epoch <= epoch) home.freeSinceMs ??= nowMs;
  }

  /** For a volume without a replica here. */
  #leastUsed(): number {
    const counts = Array.from({ length: this.#laneCount }, () => 0);
    for (const { lane } of this.#homes.values()) counts[lane] = (counts[lane] ?? 0) + 1;
    return counts.indexOf(Math.min(...counts));
  }

  #forgetOver(nowMs: number): void {
    for (const [volumeId, home] of this.#homes) {
      if (isOver(home, nowMs)) this.#homes.delete(volumeId);
    }
  }
}

function isOver({ freeSinceMs }: Home, nowMs: number): boolean {
  return freeSinceMs !== null && nowMs - freeSinceMs > homeMemoryMs;
}
