import { StorError, blockBytes, chunkBytes, type SnapshotId } from '@stor/protocol';

import { Bitmap } from '../core/replication/bitmap.ts';
import { findSnapshot } from '../core/replication/snapshot-list.ts';
import {
  nextStructureStep,
  type StructureRules,
  type StructureStep,
} from '../core/replication/snapshot-structure.ts';
import { chunkRetryMs, maxChunkFailures, maxZeroBytes } from '../replication/limits.ts';
import type { StoreDone } from '../replica-store.ts';
import type { Filling } from './filling.ts';
import type { Member } from './member.ts';
import type { Segment } from './segment.ts';
import { gather } from './settler.ts';

export interface PassPlannerOptions {
  readonly segment: Segment;
  readonly rules: StructureRules;
  readonly isCurrent: (filling: Filling) => boolean;
  /** The set is not being changed, and so on. */
  readonly mayBegin: (filling: Filling) => boolean;
}

/**
 * What comes before the copying: a member's snapshots are made those of the source, and of each image
 * it is asked what it may differ in.
 */
export class PassPlanner {
  readonly #segment: Segment;
  readonly #options: PassPlannerOptions;

  constructor(options: PassPlannerOptions) {
    this.#segment = options.segment;
    this.#options = options;
  }

  /**
   * Makes size and snapshots those of the source, step by step; each is durable and may be the last one
   * for now. `begin` is called in the turn in which nothing is left to do, while nothing is being
   * prepared: from then on the member must hear what all hear.
   */
  equalize(filling: Filling, begin: () => void): void {
    const { member } = filling;
    const source = this.#segment.sources()[0];
    const again = (): void => {
      this.equalize(filling, begin);
    };
    if (!source || !this.#mayGoOn(filling)) {
      this.#later(filling, again);
      return;
    }
    gather([source, member], (each, _index, next) => {
      each.listSnapshots(next);
    })((error) => {
      if (!this.#options.isCurrent(filling)) return;
      if (error) this.#failed(filling, error, again);
      else this.#step(filling, begin);
    });
  }

  /**
   * What of the current image is to be compared, and how long it is. Null: the image is gone at the
   * source.
   */
  plan(
    filling: Filling,
    done: (planned: { chunks: Bitmap; sizeBytes: number; source: Member } | null) => void,
  ): void {
    const { passes, member, round } = filling;
    const isCurrent = (): boolean => this.#options.isCurrent(filling) && filling.round === round;
    const again = (): void => {
      this.#later(filling, () => {
        if (isCurrent()) this.plan(filling, done);
      });
    };
    const source = this.#segment.sources()[0];
    const pass = passes?.current;
    if (!passes || !pass) return;
    // what is being prepared is not in every list yet
    if (!source || this.#segment.isHeld) {
      again();
      return;
    }
    const image = pass.snapshotId;
    const sizes = sizesOf(source, member, image, this.#segment.sizeBytes);
    if (!sizes) {
      this.#lookAgain(filling, source, isCurrent, again, done);
      return;
    }
    const parent = this.#sharedParent(filling, source, image);
    this.#changed([source, member], parent, image, (error, changed) => {
      if (!isCurrent()) return;
      if (error) {
        if (!source.isOpen) again();
        else this.#failed(filling, error, again);
      } else if (!changed) this.#lookAgain(filling, source, isCurrent, again, done);
      else {
        // what is cut off shows through in the images that grew from this one
        passes.begun(tailOf(sizes));
        this.#cutTail(member, image, sizes, (failed) => {
          if (!isCurrent()) return;
          if (failed) this.#failed(filling, failed, again);
          else done({ chunks: this.#narrowed(filling, changed), sizeBytes: sizes.ours, source });
        });
      }
    });
  }

  #step(filling: Filling, begin: () => void): void {
    const { member } = filling;
    const source = this.#segment.sources()[0];
    const again = (): void => {
      this.equalize(filling, begin);
    };
    if (!source || !this.#mayGoOn(filling)) {
      this.#later(filling, again);
      return;
    }
    const step = nextStructureStep(source, member, this.#options.rules);
    if (!step) {
      begin();
      return;
    }
    this.#take(filling, step, (error) => {
      if (!this.#options.isCurrent(filling)) return;
      if (error) this.#failed(filling, error, again);
      else this.#step(filling, begin);
    });
  }

  /** While something is prepared the lists are about to change. */
  #mayGoOn(filling: Filling): boolean {
    return !this.#segment.isHeld && this.#options.mayBegin(filling);
  }

  #take(filling: Filling, step: StructureStep, done: StoreDone): void {
    const { member } = filling;
    switch (step.type) {
      case 'resize':
        member.resize(step.sizeBytes, done);
        return;
      case 'drop':
        member.dropSnapshot(step.snapshotId, done);
        return;
      case 'take':
        member.takeSnapshot(step.snapshotId, 'incomplete', done);
        return;
      case 'rollback':
        // what it gives up of its live image has not changed at the source, so nothing else says it
        member.changedChunks(step.snapshotId, null, (error, chunks) => {
          if (chunks) filling.rolledBack.push(chunks);
          if (error) done(error);
          else member.rollback(step.snapshotId, done);
        });
    }
  }

  /** A snapshot that the image grew from on both sides, and that is equal there; null: none. */
  #sharedParent(filling: Filling, source: Member, image: SnapshotId | null): SnapshotId | null {
    const { member, passes } = filling;
    const parent = parentOf(source, image);
    if (parent === null || parentOf(member, image) !== parent) return null;
    const isReady = findSnapshot(member.snapshots, parent)?.state === 'ready';
    return isReady || passes?.isEqual(parent) === true ? parent : null;
  }

  /**
   * Chunks that are not those of the parent on either side; null when one of them does not know the
   * images.
   */
  #changed(
    members: readonly Member[],
    parent: SnapshotId | null,
    image: SnapshotId | null,
    done: (error: StorError | null, chunks: Bitmap | null) => void,
  ): void {
    if (parent === null && image === null) {
      const chunks = members.map((member) => member.allocated);
      done(null, united(chunks));
      return;
    }
    const found: (Bitmap | null)[] = members.map(() => null);
    gather(members, (member, index, next) => {
      member.changedChunks(parent, image, (error, chunks) => {
        found[index] = chunks;
        next(error);
      });
    })((error) => {
      done(error, error ? null : united(found));
    });
  }

  #narrowed(filling: Filling, changed: Bitmap): Bitmap {
    const { passes } = filling;
    const chunks = passes?.bound() ?? changed;
    chunks.retainAll(changed);
    const always = passes?.current?.always;
    if (always) chunks.addAll(always);
    return chunks;
  }

  /** The lists are not what they were: a node drops by itself what the control plane has deleted. */
  #lookAgain(
    filling: Filling,
    source: Member,
    isCurrent: () => boolean,
    again: () => void,
    done: (planned: null) => void,
  ): void {
    const { member, image } = filling;
    gather([source, member], (each, _index, next) => {
      each.listSnapshots(next);
    })((error) => {
      if (!isCurrent()) return;
      if (error) {
        this.#failed(filling, error, again);
        return;
      }
      const has = (each: Member): boolean => findSnapshot(each.snapshots, image) !== null;
      if (image === null || (has(source) && has(member))) again();
      else if (!has(source)) done(null);
      else if (filling.failures++ < maxChunkFailures) again();
      else {
        const message = `snapshot ${image} is gone from the replica while it was filled`;
        member.drop(new StorError('UNAVAILABLE', message));
      }
    });
  }

  /** What a replica has behind the end of the source's image is nothing. */
  #cutTail(
    member: Member,
    image: SnapshotId | null,
    sizes: { ours: number; theirs: number },
    done: StoreDone,
  ): void {
    const from = Math.ceil(sizes.ours / blockBytes) * blockBytes;
    const end = Math.ceil(sizes.theirs / blockBytes) * blockBytes;
    const pieces: { offset: number; length: number }[] = [];
    for (let at = from; image !== null && at < end; at += maxZeroBytes) {
      pieces.push({ offset: at, length: Math.min(maxZeroBytes, end - at) });
    }
    gather(pieces, ({ offset, length }, _index, next) => {
      member.view(image ?? '').copyZero(++this.#segment.sequence, offset, length, next);
    })(done);
  }

  #failed(filling: Filling, error: StorError, again: () => void): void {
    const { member } = filling;
    if (!member.isOpen) return;
    // it was the source that failed: another one goes on
    if (error.code === 'UNAVAILABLE') this.#later(filling, again);
    else member.drop(error);
  }

  #later(filling: Filling, again: () => void): void {
    this.#segment.options.clock.after(chunkRetryMs, () => {
      if (this.#options.isCurrent(filling)) again();
    });
  }
}

function parentOf(member: Member, image: SnapshotId | null): SnapshotId | null {
  if (image === null) return member.headParent;
  return findSnapshot(member.snapshots, image)?.parent ?? null;
}

/** Null when one of them does not have the image. */
function sizesOf(
  source: Member,
  member: Member,
  image: SnapshotId | null,
  sizeBytes: number,
): { ours: number; theirs: number } | null {
  if (image === null) return { ours: sizeBytes, theirs: sizeBytes };
  const ours = findSnapshot(source.snapshots, image);
  const theirs = findSnapshot(member.snapshots, image);
  return ours && theirs ? { ours: ours.sizeBytes, theirs: theirs.sizeBytes } : null;
}

/** Chunks behind the end of the source's image that the member has; the one that the end lies in too. */
function tailOf({ ours, theirs }: { ours: number; theirs: number }): Bitmap {
  const tail = new Bitmap(Math.ceil(Math.max(ours, theirs) / chunkBytes));
  for (let at = ours; at < theirs; at += chunkBytes) tail.add(Math.floor(at / chunkBytes));
  if (theirs > ours) tail.add(Math.floor((theirs - 1) / chunkBytes));
  return tail;
}

function united(all: readonly (Bitmap | null)[]): Bitmap | null {
  const [first, ...others] = all;
  if (!first || others.includes(null)) return null;
  const largest = all.reduce((a, b) => (b && a && b.size > a.size ? b : a), first) ?? first;
  const union = largest.copy();
  for (const each of all) if (each) union.addAll(each);
  return union;
}
