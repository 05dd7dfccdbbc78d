import type { DiskId } from '@stor/protocol';

/**
 * Which lane has which disk, while the agent runs. Each disk goes to the lane with fewest, the first of
 * equal ones, in the order in which they are opened: the same after a restart as long as no disk came or
 * went. A disk never changes its lane while it is open.
 */
export class DiskLanes {
  readonly #counts: number[];
  readonly #lanes = new Map<DiskId, number>();

  constructor(lanes: number) {
    this.#counts = Array.from({ length: lanes }, () => 0);
  }

  /** The lane of the disk; one that is not known gets one. */
  assign(diskId: DiskId): number {
    const known = this.#lanes.get(diskId);
    if (known !== undefined) return known;
    const lane = this.#counts.indexOf(Math.min(...this.#counts));
    this.#put(diskId, lane);
    return lane;
  }

  /** The disk has turned out to be another one. */
  rename(from: DiskId, to: DiskId): void {
    const lane = this.#lanes.get(from);
    if (lane === undefined || from === to) return;
    this.forget(from);
    this.#put(to, lane);
  }

  forget(diskId: DiskId): void {
    const lane = this.#lanes.get(diskId);
    if (lane === undefined) return;
    this.#lanes.delete(diskId);
    this.#counts[lane] = (this.#counts[lane] ?? 1) - 1;
  }

  /** 0 for a disk that is not there: that lane says so. */
  of(diskId: DiskId): number {
    return this.#lanes.get(diskId) ?? 0;
  }

  #put(diskId: DiskId, lane: number): void {
    if (this.#lanes.has(diskId)) return;
    this.#lanes.set(diskId, lane);
    this.#counts[lane] = (this.#counts[lane] ?? 0) + 1;
  }
}
