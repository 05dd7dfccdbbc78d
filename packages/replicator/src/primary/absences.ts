import type { SnapshotId } from '@stor/protocol';

import { findSnapshot } from '../core/replication/snapshot-list.ts';
import { chunkRetryMs } from '../replication/limits.ts';
import { compareGenerations, noGeneration, type Generation } from '../replica-store.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';

/** A member of the set that was equal when it was lost. */
interface Absence {
  /** regions written by this primary in this second of it or later may differ (RegionUse) */
  second: number;
  generation: Generation;
  /** the process that it was in */
  instance: string;
  /** that it had then */
  snapshots: ReadonlySet<SnapshotId>;
}

/** What members may have missed, as this primary saw it itself, and as their generation says. */
export class Absences {
  readonly #segment: Segment;
  readonly #absences = new Map<string, Absence>();
  /** members that were in sync and settled when last looked at */
  readonly #equal = new Map<string, Generation>();

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  /**
   * Only what is equal for certain counts: members of a set that is settled. One that left the set
   * while it was connected (it was to go) misses writes from then on.
   */
  noteEqual(isSettled: boolean): void {
    const segment = this.#segment;
    for (const member of segment.members) {
      if (!member.isOpen) continue;
      if (!segment.isInSync(member)) {
        this.#equal.delete(member.replicaId);
        continue;
      }
      if (!isSettled) continue;
      this.#equal.set(member.replicaId, member.generation);
      this.#absences.delete(member.replicaId);
    }
  }

  /** The member is lost; whether it was equal. */
  lost(
    member: Member,
    isFilling: boolean,
    pending: readonly { offset: number; length: number }[],
  ): boolean {
    const { regionUse } = this.#segment;
    const { replicaId } = member;
    const generation = this.#equal.get(replicaId);
    this.#equal.delete(replicaId);
    if (!generation) {
      if (isFilling) this.#absences.delete(replicaId);
      return false;
    }
    // writes that are under way may or may not have reached it
    for (const { offset, length } of pending) regionUse.touch(offset, length);
    const snapshots = new Set(member.snapshots.map(({ snapshotId }) => snapshotId));
    const { instance } = member;
    this.#absences.set(replicaId, { second: regionUse.now, generation, instance, snapshots });
    return true;
  }

  /**
   * The member's snapshots that are not known to be equal. Those that it had to take were taken while
   * it was away; where that is not certain (its node had dropped one), all of it is compared.
   */
  incomplete(member: Member): { snapshotId: SnapshotId; fromAll: boolean }[] {
    const { answer, replicaId } = member;
    const absence = this.writtenSinceLost(member) && this.#absences.get(replicaId);
    const since = answer?.setView?.epoch ?? Infinity;
    return member.snapshots
      .filter(({ state }) => state !== 'ready')
      .map(({ snapshotId, state }) => {
        const epochs = this.#segment
          .sources()
          .map((source) => findSnapshot(source.snapshots, snapshotId)?.epoch ?? 0);
        const isNew = Math.min(...epochs) > since || absence?.snapshots.has(snapshotId) === false;
        return { snapshotId, fromAll: state === 'incomplete' && !isNew };
      });
  }

  /**
   * A member that was equal when this primary lost it, and has its memory, can differ only where
   * this primary has written since: marks of regions in use need not be compared. Its set view shows
   * that it is the replica that was lost. One whose process has ended may have lost checksums, anywhere in
   * the regions that it has marked (docs/on-disk-format.md).
   */
  writtenSinceLost(member: Member): number[] | null {
    const absence = this.#absences.get(member.replicaId);
    const { answer } = member;
    if (!absence || !answer?.keptMemory) return null;
    if (answer.setView?.epoch !== this.#segment.options.epoch) return null;
    if (compareGenerations(answer.generation, absence.generation) < 0) return null;
    const written = this.#segment.regionUse.since(absence.second);
    if (member.instance === absence.instance) return written;
    return [...new Set([...written, ...answer.marks.list()])];
  }

  /**
   * Regions that may differ, as the first source that knows says; null when none knows: then everything
   * may. While none can be reached it waits.
   */
  whatChanged(
    member: Member,
    isCurrent: () => boolean,
    done: (regions: number[] | null) => void,
  ): void {
    const since = member.generation;
    const ask = ([source, ...others]: readonly Member[]): void => {
      if (!source || compareGenerations(since, noGeneration) <= 0) {
        done(null);
        return;
      }
      source.changedSince(since, (error, regions) => {
        if (!isCurrent()) return;
        if (regions !== null) {
          const marked = member.answer?.marks.list() ?? [];
          done([...new Set([...regions, ...marked])]);
        } else if (error && !source.isOpen) askLater();
        else ask(others);
      });
    };
    // whoever was asked is gone; another one knows, or that one when it is back
    const askLater = (): void => {
      this.#segment.options.clock.after(chunkRetryMs, () => {
        if (!isCurrent()) return;
        const sources = this.#segment.sources();
        if (sources.length > 0) ask(sources);
        else askLater();
      });
    };
    ask(this.#segment.sources());
  }
}
