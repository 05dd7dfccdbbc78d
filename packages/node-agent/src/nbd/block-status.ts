import type { StorError } from '@stor/protocol';
import type { DirtyExtent } from '@stor/replicator';
import { decodeStatusFilter, type StatusDescriptor, type StatusFilter } from 'nbd-client-js';
import { dirtyState, snapshotOfContext } from '../core/nbd/meta-contexts.ts';
import {
  allocationExtent,
  statusDescriptors,
  type FlaggedExtent,
} from '../core/nbd/status-descriptors.ts';
import type { NbdExportLease } from './nbd-exports.ts';

/** A block may always be called allocated, and may always be called dirty. */
const unknownAllocation = 0;
const unknownDirty = dirtyState.dirty;

export type StatusDone = (error: StorError | null, statuses: StatusDescriptor[][]) => void;

/** Asks an export about a range in every metadata context of one connection. */
export class BlockStatus {
  readonly #lease: Pick<NbdExportLease, 'device' | 'changedSince'>;
  /** null: `base:allocation`; else the name of a snapshot */
  readonly #snapshots: readonly (string | null)[];
  readonly #allIds: readonly number[];

  constructor(lease: Pick<NbdExportLease, 'device' | 'changedSince'>, contexts: readonly string[]) {
    this.#lease = lease;
    this.#snapshots = contexts.map((context) => snapshotOfContext(context));
    this.#allIds = contexts.map((_context, at) => at + 1);
  }

  /** Ids are the places of the contexts, from 1. */
  get allIds(): readonly number[] {
    return this.#allIds;
  }

  /**
   * `done` gets at most `limit` descriptors for each context of `ids`, in their order, or the first
   * error of any.
   */
  ask(
    ids: readonly number[],
    offset: number,
    length: number,
    limit: number,
    done: StatusDone,
  ): void {
    const statuses: StatusDescriptor[][] = [];
    let open = ids.length;
    let failed: StorError | null = null;
    for (const [at, id] of ids.entries()) {
      const snapshot = this.#snapshots[id - 1] ?? null;
      let answered = false;
      const one = (
        error: StorError | null,
        extents: readonly FlaggedExtent[],
        unknownFlags: number,
      ): void => {
        if (answered) throw new Error('extents were answered twice');
        answered = true;
        failed ??= error;
        statuses[at] = statusDescriptors(extents, offset, length, limit, unknownFlags);
        open -= 1;
        if (open === 0) done(failed, failed ? [] : statuses);
      };
      this.#askOne(snapshot, offset, length, limit, one);
    }
  }

  #askOne(
    snapshot: string | null,
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: FlaggedExtent[], unknownFlags: number) => void,
  ): void {
    if (snapshot === null) {
      this.#lease.device.extents(offset, length, limit, (error, extents) => {
        done(error, extents.map(allocationExtent), unknownAllocation);
      });
      return;
    }
    this.#lease.changedSince(snapshot, offset, length, limit, (error, extents) => {
      done(error, extents.map(dirtyExtent), unknownDirty);
    });
  }
}

function dirtyExtent({ offset, length, dirty }: DirtyExtent): FlaggedExtent {
  return { offset, length, flags: dirty ? dirtyState.dirty : 0 };
}

/** The payload of a BLOCK_STATUS; null unless it names some contexts of those that there are, each once. */
export function statusFilter(
  bytes: Buffer,
  payloadAt: number,
  payloadBytes: number,
  allIds: readonly number[],
): StatusFilter | null {
  const filter = decodeStatusFilter(bytes, payloadAt, payloadAt + payloadBytes);
  const ids = filter?.ids ?? [];
  const isRight =
    ids.length > 0 && new Set(ids).size === ids.length && ids.every((id) => allIds.includes(id));
  return isRight ? filter : null;
}
