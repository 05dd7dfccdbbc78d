import { StorError, type SnapshotId } from '@stor/protocol';

import { rollbackHoldMs } from '../replication/limits.ts';
import type { ChangedExtent, SnapshotOrders } from './primary-volume.ts';

/**
 * Orders for a volume of several segments. All are held before one of them is told anything, so the
 * cut is one point of the whole volume; what one segment cannot do is undone at the others.
 */
export class SegmentedOrders implements SnapshotOrders {
  readonly #segments: readonly SnapshotOrders[];
  readonly #segmentBytes: number;
  /** prepared under each hold */
  readonly #prepared = new Map<string, SnapshotId[]>();

  constructor(segments: readonly SnapshotOrders[], segmentBytes: number) {
    this.#segments = segments;
    this.#segmentBytes = segmentBytes;
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
    await this.#all((segment) => segment.sealSnapshot(snapshotId));
  }
  async confirmSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#all((segment) => segment.confirmSnapshot(snapshotId));
  }
  async dropSnapshot(snapshotId: SnapshotId): Promise<void> {
    await this.#all((segment) => segment.dropSnapshot(snapshotId));
  }

  async rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void> {
    const token = options?.token ?? `rollback ${snapshotId}`;
    if (!options) await this.hold({ token, holdMs: rollbackHoldMs });
    try {
      await this.#all((segment) => segment.rollback(snapshotId, { token }));
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
      for (const { offset, length } of await segment.changedExtents(from, to)) {
        const at = offset + index * this.#segmentBytes;
        const last = found[found.length - 1];
        if (last && last.offset + last.length === at) last.length += length;
        else found.push({ offset: at, length });
      }
    }
    return found;
  }

  #undo(snapshotId: SnapshotId): void {
    this.#all((segment) => segment.dropSnapshot(snapshotId)).catch(() => {
      // whoever cannot be reached now drops it when it comes back, or when the next primary begins
    });
  }

  /** Waits for all, so that nothing is under way when it fails; the first error counts. */
  async #all(step: (segment: SnapshotOrders, index: number) => Promise<void>): Promise<void> {
    const settled = await Promise.allSettled(this.#segments.map(step));
    const failed = settled.find((each) => each.status === 'rejected');
    if (failed) throw StorError.from(failed.reason);
  }
}
