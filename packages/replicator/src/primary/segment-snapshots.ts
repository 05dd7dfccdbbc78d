import { StorError, chunkBytes, type SnapshotId, type VolumeSettings } from '@stor/protocol';

import type { Bitmap } from '../core/replication/bitmap.ts';
import { findSnapshot, snapshotBytes } from '../core/replication/snapshot-list.ts';
import { rollbackHoldMs, spaceRefreshMs, spaceRefreshes } from '../replication/limits.ts';
import type { StoreDone } from '../replica-store.ts';
import type { FlushRounds } from './flush-rounds.ts';
import type { Member } from './member.ts';
import type { ChangedExtent, SnapshotOrders } from './primary-volume.ts';
import type { SegmentHold } from './segment-hold.ts';
import type { Segment, SegmentPart } from './segment.ts';

export interface SnapshotOrdersOptions {
  readonly segment: Segment;
  readonly hold: SegmentHold;
  readonly flushes: FlushRounds;
  /** Why the volume takes no orders; null when it does. */
  readonly refusal: () => StorError | null;
  readonly filling: FillingSnapshots;
}

/** What the members that are being filled have to do with snapshots. */
export interface FillingSnapshots {
  /** The live image is frozen as this snapshot just now, also at those that are being filled. */
  cut(snapshotId: SnapshotId): void;
  dropped(snapshotId: SnapshotId): void;
  /** The member's copy of the snapshot is not equal yet. */
  isPending(member: Member, snapshotId: SnapshotId): boolean;
}

/** Members that come while the others grow make it begin again; more than come in a row. */
const maxResizeRounds = 8;

/**
 * Snapshots of one segment, on all its members.
 *
 * A snapshot is *prepared* under a hold, so every member that has it froze the same writes. It is
 * *sealed* by a flush of all members that began after the cut: from then on it is durable and equal on
 * all of them, and only then the control plane records it. So no marks belong to a snapshot: one that a
 * power cut may have damaged was never sealed by its primary, is not recorded as ready, and is
 * dropped by the next primary, which was told what the record knows (`snapshots` of its grant).
 *
 * That is why settle and checkpoints have nothing to do with ready snapshots: what settle compares and
 * rewrites is the live image, and a chunk that a snapshot holds is copied before the live image is
 * written there.
 */
export class SegmentSnapshots implements SnapshotOrders, SegmentPart {
  readonly #segment: Segment;
  readonly #options: SnapshotOrdersOptions;
  /** prepared under the hold of now */
  readonly #underHold = new Set<SnapshotId>();
  /** being prepared by this primary, or prepared and not recorded yet: not to be tidied away */
  readonly #making = new Set<SnapshotId>();
  /** ids that this primary was asked to prepare, or to drop */
  readonly #used = new Set<SnapshotId>();
  /** what the record said last; null: nothing yet */
  #known: Map<SnapshotId, string> | null = null;
  readonly #tidying = new Set<string>();
  /** how often a member is still to be asked what room came back */
  readonly #spaceLooks = new Map<Member, number>();

  constructor(options: SnapshotOrdersOptions) {
    this.#options = options;
    this.#segment = options.segment;
    options.hold.onBroken = () => {
      this.#void();
    };
  }

  // orders

  async hold({ token, holdMs }: { token: string; holdMs: number }): Promise<void> {
    const refusal = this.#options.refusal();
    if (refusal) throw refusal;
    await this.#options.hold.hold(token, holdMs);
  }

  async prepareSnapshot(options: { token: string; snapshotId: SnapshotId }): Promise<void> {
    const { token, snapshotId } = options;
    this.#check();
    if (!this.#options.hold.isHeld(token)) throw holdIsOver();
    const members = this.#members();
    // a replica that is away may still have what was prepared under the id before
    const isUsed = members.some((member) => findSnapshot(member.snapshots, snapshotId));
    if (isUsed || this.#used.has(snapshotId)) {
      throw new StorError(
        'ALREADY_EXISTS',
        `the id ${snapshotId} was used before: take another one`,
      );
    }
    this.#used.add(snapshotId);
    this.#making.add(snapshotId);
    this.#underHold.add(snapshotId);
    const taken = members.map((member) =>
      asked((done) => {
        member.takeSnapshot(snapshotId, 'prepared', done);
      }),
    );
    for (const member of this.#segment.syncing) this.#takeIncomplete(member, snapshotId);
    this.#options.filling.cut(snapshotId);
    try {
      await Promise.all(taken);
      if (!this.#options.hold.isHeld(token) || !this.#underHold.has(snapshotId)) {
        throw new StorError('TIMEOUT', 'the hold was over before every replica had the snapshot');
      }
      if (this.#segment.membership?.stable !== true) throw this.#unstable();
    } catch (error) {
      this.#giveUp(snapshotId);
      throw error;
    }
  }

  release(token: string): { heldMs: number; intact: boolean } {
    const released = this.#options.hold.release(token);
    if (released.intact) this.#underHold.clear();
    return released;
  }

  async sealSnapshot(snapshotId: SnapshotId): Promise<void> {
    this.#check();
    this.#checkHeldByAll(snapshotId);
    await asked((done) => {
      this.#options.flushes.flush(done);
    });
    // a member that joined meanwhile has it too: it was made equal first
    this.#check();
    this.#checkHeldByAll(snapshotId);
  }

  async confirmSnapshot(snapshotId: SnapshotId): Promise<void> {
    this.#check();
    this.#checkHeldByAll(snapshotId);
    this.#making.delete(snapshotId);
    this.#known?.set(snapshotId, 'ready');
    const members = this.#segment.sources();
    await this.#onAll((member, done) => {
      const known = findSnapshot(member.snapshots, snapshotId);
      const isPending = this.#options.filling.isPending(member, snapshotId);
      if (!known || known.state === 'ready' || isPending) done(null);
      else member.confirmSnapshot(snapshotId, done, snapshotBytes(members, snapshotId));
    });
  }

  async dropSnapshot(snapshotId: SnapshotId): Promise<void> {
    const refusal = this.#options.refusal();
    if (refusal) throw refusal;
    this.#making.delete(snapshotId);
    // an order to prepare it that was given before, and comes late, is refused
    this.#used.add(snapshotId);
    this.#known?.set(snapshotId, 'deleting');
    this.#options.filling.dropped(snapshotId);
    await this.#onAll((member, done) => {
      member.dropSnapshot(snapshotId, done);
    });
    for (const member of this.#segment.members) this.#spaceWillChange(member);
  }

  async rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void> {
    this.#check();
    const token = options?.token ?? `rollback ${snapshotId}`;
    if (!options) await this.#options.hold.hold(token, rollbackHoldMs);
    try {
      await this.#rollback(token, snapshotId);
    } finally {
      if (!options) this.release(token);
    }
  }

  async resize(sizeBytes: number): Promise<void> {
    this.#check();
    const segment = this.#segment;
    if (sizeBytes < segment.sizeBytes) {
      const message = `the volume has ${segment.sizeBytes} bytes and cannot become smaller`;
      throw new StorError('INVALID_ARGUMENT', message);
    }
    const isSmaller = (member: Member): boolean => member.isOpen && member.sizeBytes < sizeBytes;
    // one that came meanwhile was made as large as its source was then
    for (let rounds = 0; rounds === 0 || segment.members.some(isSmaller); rounds++) {
      if (rounds === maxResizeRounds) throw this.#unstable();
      await this.#onAll((member, done) => {
        if (isSmaller(member)) member.resize(sizeBytes, done);
        else done(null);
      });
    }
    segment.grow(sizeBytes);
  }

  async changedExtents(from: SnapshotId | null, to: SnapshotId | null): Promise<ChangedExtent[]> {
    this.#check();
    const source = this.#segment.sources()[0];
    if (!source) throw this.#unstable();
    const chunks = await new Promise<Bitmap | null>((resolve, reject) => {
      source.changedChunks(from, to, (error, found) => {
        if (error) reject(error);
        else resolve(found);
      });
    });
    if (!chunks) {
      throw new StorError('NOT_FOUND', `there is no snapshot ${from ?? ''} or no ${to ?? ''}`);
    }
    return extentsOfChunks(chunks, this.#segment.sizeBytes);
  }

  // tidying up

  /** What the record knows. A grant's list is complete; a later one may be older than what is made. */
  update(settings: VolumeSettings): void {
    if (!settings.snapshots) return;
    this.#known ??= new Map();
    for (const { id, state } of settings.snapshots) {
      // what is said late may be from before: a snapshot only goes on, from creating to ready to deleting
      const known = this.#known.get(id);
      if (known !== 'deleting' && state !== 'creating') this.#known.set(id, state);
      else if (known === undefined) this.#known.set(id, state);
      if (state !== 'creating') this.#making.delete(id);
    }
    this.#tidy();
  }

  membersChanged(): void {
    this.#tidy();
  }

  /** The primary serves: what its predecessors left behind is looked at. */
  begin(): void {
    this.#tidy();
  }

  /**
   * A snapshot that is prepared at an in-sync member, and ready in the record, was sealed there: it
   * is confirmed. A primary that is new drops those that are not ready in its grant: they
   * were never recorded, or are to go. What the record does not know at all and a member calls
   * ready is left alone: the control plane may have gone back in time.
   */
  #tidy(): void {
    const known = this.#known;
    if (!known || this.#options.refusal() || this.#segment.stopped) return;
    for (const member of this.#segment.sources()) {
      for (const { snapshotId, state } of member.snapshots) {
        const recorded = known.get(snapshotId);
        const key = `${member.replicaId} ${snapshotId}`;
        if (this.#making.has(snapshotId) || this.#tidying.has(key)) continue;
        const isUnknown = state !== 'ready' && recorded !== 'ready';
        const done = (): void => {
          this.#tidying.delete(key);
        };
        if (recorded === 'deleting' || isUnknown) {
          this.#tidying.add(key);
          this.#options.filling.dropped(snapshotId);
          member.dropSnapshot(snapshotId, done);
        } else if (recorded === 'ready' && state !== 'ready') {
          this.#tidying.add(key);
          const sizeBytes = snapshotBytes(this.#segment.sources(), snapshotId);
          member.confirmSnapshot(snapshotId, done, sizeBytes);
        }
      }
    }
  }

  /** Whether a member that comes back is to have the snapshot. */
  isWanted(snapshotId: SnapshotId): boolean {
    return this.#known?.get(snapshotId) !== 'deleting';
  }

  /** The record knows it as ready: no member drops it because another one lacks it. */
  isRecorded(snapshotId: SnapshotId): boolean {
    return this.#known?.get(snapshotId) === 'ready';
  }

  // how

  async #rollback(token: string, snapshotId: SnapshotId): Promise<void> {
    const { hold } = this.#options;
    this.#check();
    if (!hold.isHeld(token)) throw holdIsOver();
    const members = this.#members();
    for (const member of members) {
      const known = findSnapshot(member.snapshots, snapshotId);
      if (!known) throw noSuchSnapshot(snapshotId);
      if (known.state !== 'ready') {
        throw new StorError('FAILED_PRECONDITION', `snapshot ${snapshotId} is not ready yet`);
      }
    }
    // those that are being filled begin anew when they come back
    for (const member of [...this.#segment.syncing]) {
      member.drop(new StorError('ABORTED', 'the volume is rolled back'));
    }
    hold.pin(token);
    try {
      const changing = await this.#changing(members, snapshotId);
      hold.imageReplaced();
      // all have ended one way or the other before clients' writes go on
      const ended = await Promise.allSettled(
        members.map((member) =>
          asked((done) => {
            member.rollback(snapshotId, (error) => {
              // it is neither here nor there: resync makes it equal
              if (error && members.length > 1) member.drop(error);
              done(error);
            });
          }),
        ),
      );
      this.#touch(changing);
      const failed = ended.find((each) => each.status === 'rejected');
      if (failed) throw halfRolledBack(snapshotId, failed.reason);
      this.#check();
    } finally {
      hold.unpin(token);
    }
  }

  /** Chunks that the rollback changes. */
  async #changing(members: readonly Member[], snapshotId: SnapshotId): Promise<Bitmap[]> {
    const all: Bitmap[] = [];
    for (const member of members) {
      const chunks = await new Promise<Bitmap | null>((resolve, reject) => {
        member.changedChunks(snapshotId, null, (error, found) => {
          if (error) reject(error);
          else resolve(found);
        });
      });
      if (chunks) all.push(chunks);
    }
    return all;
  }

  /**
   * Members that are away by now will have to compare these. Only after the rollback: one that was lost
   * while it was under way counts what this primary has written from then on.
   */
  #touch(chunks: readonly Bitmap[]): void {
    const { regionUse } = this.#segment;
    for (const each of chunks) {
      for (const chunk of each.list()) regionUse.touch(chunk * chunkBytes, chunkBytes);
    }
  }

  #takeIncomplete(member: Member, snapshotId: SnapshotId): void {
    member.takeSnapshot(snapshotId, 'incomplete', (error) => {
      if (error && member.isOpen) member.drop(error);
    });
  }

  /** All in-sync members, and those that are about to be: they have every write. */
  #members(): Member[] {
    const { membership, members } = this.#segment;
    const required = membership?.required() ?? [];
    const found = members.filter(({ replicaId }) => required.includes(replicaId));
    if (membership?.stable !== true || found.length < required.length) throw this.#unstable();
    if (found.some((member) => !member.isOpen)) throw this.#unstable();
    return found;
  }

  #check(): void {
    const refusal = this.#options.refusal();
    if (refusal) throw refusal;
    if (this.#segment.membership?.stable !== true) throw this.#unstable();
  }

  #unstable(): StorError {
    return new StorError('UNAVAILABLE', 'the in-sync set is being changed: try again in a moment');
  }

  #checkHeldByAll(snapshotId: SnapshotId): void {
    for (const member of this.#members()) {
      if (!findSnapshot(member.snapshots, snapshotId)) throw noSuchSnapshot(snapshotId);
    }
  }

  /**
   * Asks every member that is open. One that is in sync must do it; one that fails while it is being filled is
   * dropped and comes back.
   */
  async #onAll(step: (member: Member, done: StoreDone) => void): Promise<void> {
    const { members, membership } = this.#segment;
    const required = membership?.required() ?? [];
    const open = members.filter((member) => member.isOpen);
    await Promise.all(
      open.map((member) =>
        asked((done) => {
          step(member, (error) => {
            const isNeeded = required.includes(member.replicaId);
            if (error && !isNeeded && this.#segment.syncing.has(member)) member.drop(error);
            done(isNeeded ? error : null);
          });
        }),
      ),
    );
    for (const id of required) {
      if (!open.some(({ replicaId }) => replicaId === id)) throw this.#unstable();
    }
  }

  /** A snapshot is going from the member, so chunks become its own again while it tidies up. */
  #spaceWillChange(member: Member): void {
    const isLooking = this.#spaceLooks.has(member);
    this.#spaceLooks.set(member, spaceRefreshes);
    if (!isLooking) this.#lookAtSpace(member);
  }

  /** However many snapshots go, a member is asked once at a time, and no more when it can say nothing new. */
  #lookAtSpace(member: Member): void {
    const left = this.#spaceLooks.get(member) ?? 0;
    const isKnown = member.space?.allOwned === true;
    if (this.#segment.stopped || !member.isOpen || left === 0 || isKnown) {
      this.#spaceLooks.delete(member);
      return;
    }
    this.#spaceLooks.set(member, left - 1);
    member.refreshSpace();
    this.#segment.options.clock.after(spaceRefreshMs, () => {
      this.#lookAtSpace(member);
    });
  }

  /** The hold was broken off. */
  #void(): void {
    for (const snapshotId of [...this.#underHold]) this.#giveUp(snapshotId);
  }

  #giveUp(snapshotId: SnapshotId): void {
    this.#underHold.delete(snapshotId);
    this.#making.delete(snapshotId);
    if (this.#segment.stopped) return;
    this.#options.filling.dropped(snapshotId);
    for (const member of this.#segment.members) {
      if (member.isOpen) {
        member.dropSnapshot(snapshotId, () => {
          this.#spaceWillChange(member);
        });
      }
    }
  }
}

function asked(step: (done: StoreDone) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    step((error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

function holdIsOver(): StorError {
  return new StorError('FAILED_PRECONDITION', 'the hold is over: hold the volume again');
}

/**
 * Never what a refusal says (NOT_FOUND, FAILED_PRECONDITION), whatever the reason: something may have
 * been rolled back, and what was there before is still needed.
 */
export function halfRolledBack(snapshotId: SnapshotId, cause: unknown): StorError {
  const { message } = StorError.from(cause);
  const what = `not all of the volume could be rolled back to snapshot ${snapshotId}, and some of it may be: ${message}`;
  return new StorError('UNAVAILABLE', what, { cause });
}

function noSuchSnapshot(snapshotId: SnapshotId): StorError {
  return new StorError('NOT_FOUND', `there is no snapshot ${snapshotId}`);
}

/** Chunks as ranges, joined where they touch, clipped to the size. */
export function extentsOfChunks(chunks: Bitmap, sizeBytes: number): ChangedExtent[] {
  const extents: ChangedExtent[] = [];
  for (let chunk = chunks.next(0); chunk >= 0; chunk = chunks.next(chunk + 1)) {
    const offset = chunk * chunkBytes;
    const length = Math.min(chunkBytes, sizeBytes - offset);
    const last = extents[extents.length - 1];
    if (length <= 0) break;
    if (last && last.offset + last.length === offset) last.length += length;
    else extents.push({ offset, length });
  }
  return extents;
}
