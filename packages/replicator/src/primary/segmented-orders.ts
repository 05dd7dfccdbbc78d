import { StorError, hasCode, type SnapshotId, type VolumeSettings } from '@stor/protocol';

import type { BlockDevice } from '../block-device.ts';
import { rollbackHoldMs } from '../replication/limits.ts';
import type { ChangedExtent, SnapshotOrders } from './primary-volume.ts';
import { halfRolledBack } from './segment-snapshots.ts';

type OrderedSegment = SnapshotOrders & Pick<BlockDevice, 'trim' | 'sizeBytes'>;

/** A request for a range is answered in reasonable time, and its length fits a frame (bytes). */
const emptyStepBytes = 2 ** 30;

/**
 * Orders for a volume of several segments. All are held before one of them is told anything, so the
 * cut is one point of the whole volume; what one segment cannot do is undone at the others.
 */
export class SegmentedOrders implements SnapshotOrders {
  readonly #segments: readonly OrderedSegment[];
  readonly #segmentBytes: number;
  /** sizes that the volume had when they were taken, as recorded */
  readonly #sizes = new Map<SnapshotId, number>();
  /** prepared under each hold */
  readonly #prepared = new Map<string, SnapshotId[]>();

  constructor(segments: readonly OrderedSegment[], segmentBytes: number) {
    this.#segments = segments;
    this.#segmentBytes = segmentBytes;
  }

  /** What the record says of the snapshots. */
  update({ snapshots = [] }: Pick<VolumeSettings, 'snapshots'>): void {
    for (const { id, sizeBytes } of snapshots) {
      if (sizeBytes !== undefined) this.#sizes.set(id, sizeBytes);
    }
  }

  async hold(options: { token: string; holdMs: number }): Promise<void> {
    try {
      await this.#all((segment) => segment.hold(options));
    } catch (error) {
      this.release(options.token);
      throw error;
    }
  }

  async prepareSnapshot(options: { token: string; snapshotId: SnapshotId }): Promise<void> {
    const { token, snapshotId } = options;
    this.#prepared.set(token, [...(this.#prepared.get(token) ?? []), snapshotId]);
    try {
      await this.#all((segment) => segment.prepareSnapshot(options));
    } catch (error) {
      this.#undo(snapshotId);
      throw error;
    }
  }

  release(token: string): { heldMs: number; intact: boolean } {
    const released = this.#segments.map((segment) => segment.release(token));
    const intact = released.every((each) => each.intact);
    // a segment that went on by itself makes the others' part void, too
    if (!intact) for (const id of this.#prepared.get(token) ?? []) this.#undo(id);
    this.#prepared.delete(token);
    return { heldMs: Math.max(0, ...released.map((each) => each.heldMs)), intact };
  }

  async sealSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#all(async (segment, index) => {
      if (this.#has(index, snapshotId)) await segment.sealSnapshot(snapshotId);
    });
  }
  async confirmSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#all(async (segment, index) => {
      if (this.#has(index, snapshotId)) await segment.confirmSnapshot(snapshotId);
    });
  }
  async dropSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#all((segment) => segment.dropSnapshot(snapshotId));
  }

  async rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void> {
    const token = options?.token ?? `rollback ${snapshotId}`;
    if (options && !this.#segments.every((_, index) => this.#has(index, snapshotId))) {
      // what the volume has grown by since then is emptied, and writes are held already
      const message = `snapshot ${snapshotId} is older than some segments: roll back without a hold`;
      throw new StorError('FAILED_PRECONDITION', message);
    }
    const grown = this.#segments.filter((_, index) => !this.#has(index, snapshotId));
    let isTouched = false;
    try {
      if (!options) await this.hold({ token, holdMs: rollbackHoldMs });
      await this.#all(async (segment, index) => {
        if (!this.#has(index, snapshotId)) return;
        await segment.rollback(snapshotId, { token }).catch((error: unknown) => {
          // all else than a refusal may have come in the middle
          if (!hasCode(error, 'NOT_FOUND', 'FAILED_PRECONDITION')) isTouched = true;
          throw error;
        });
        isTouched = true;
      });
      // only now, and not under the hold: one that is refused leaves everything as it was
      if (!options) this.release(token);
      await this.#all(async (segment) => {
        if (grown.includes(segment)) await emptied(segment);
      });
    } catch (error) {
      // one segment refuses, but another one is not any more what it was
      throw isTouched ? halfRolledBack(snapshotId, error) : error;
    } finally {
      if (!options) this.release(token);
    }
  }

  async resize(sizeBytes: number): Promise<void> {
    await this.#all((segment, index) => {
      const rest = sizeBytes - index * this.#segmentBytes;
      return segment.resize(Math.min(this.#segmentBytes, Math.max(0, rest)));
    });
  }

  async changedExtents(from: SnapshotId | null, to: SnapshotId | null): Promise<ChangedExtent[]> {
    const found: ChangedExtent[] = [];
    for (const [index, segment] of this.#segments.entries()) {
      if (to !== null && !this.#has(index, to)) break;
      // what was not there yet was empty
      const since = from !== null && this.#has(index, from) ? from : null;
      for (const { offset, length } of await segment.changedExtents(since, to)) {
        const at = offset + index * this.#segmentBytes;
        const last = found[found.length - 1];
        if (last && last.offset + last.length === at) last.length += length;
        else found.push({ offset: at, length });
      }
    }
    return found;
  }

  /** Whether the segment was part of the volume when the snapshot was taken. */
  #has(index: number, snapshotId: SnapshotId): boolean {
    return index * this.#segmentBytes < (this.#sizes.get(snapshotId) ?? Infinity);
  }

  #undo(snapshotId: SnapshotId): void {
    this.#all((segment) => segment.dropSnapshot(snapshotId)).catch(() => {
      // whoever cannot be reached now drops it when it comes back, or when the next primary begins
    });
  }

  /** Waits for all, so that nothing is under way when it fails; the first error counts. */
  async #all(step: (segment: OrderedSegment, index: number) => Promise<void>): Promise<void> {
    const settled = await Promise.allSettled(this.#segments.map(step));
    const failed = settled.find((each) => each.status === 'rejected');
    if (failed) throw StorError.from(failed.reason);
  }
}

/** Everything in the segment reads as zeros. */
async function emptied(segment: OrderedSegment): Promise<void> {
  for (let offset = 0; offset < segment.sizeBytes; offset += emptyStepBytes) {
    await new Promise<void>((resolve, reject) => {
      segment.trim({
        offset,
        length: Math.min(emptyStepBytes, segment.sizeBytes - offset),
        bytes: null,
        start: 0,
        retained: true,
        fua: false,
        noHole: false,
        done: (error) => {
          if (error) reject(error);
          else resolve();
        },
      });
    });
  }
}
