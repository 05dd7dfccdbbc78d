import type { Inflights } from './inflights.ts';
import type { SnapshotTransfer } from './snapshot-transfer.ts';

export type ProgressState = 'probe' | 'replicate' | 'snapshot';

/**
 * What the leader knows of one follower's log.
 *
 * - `probe`: where the logs agree is not known; one append at a time finds out.
 * - `replicate`: known; appends are sent one after another without waiting, within the window.
 * - `snapshot`: what the follower needs is no longer in the log; nothing is sent until the snapshot
 *   is acknowledged, or so long has passed that it must have been lost.
 *
 * Invariant: match < next. In `probe` and `snapshot` nothing above match is assumed to be there; in
 * `replicate` everything from match + 1 to next - 1 is under way.
 */
export class Progress {
  state: ProgressState = 'probe';
  /** highest index known to be durable on the follower and equal to the leader's */
  match: number;
  /** the first index to send next */
  next: number;
  /** index of the snapshot under way, in state `snapshot` */
  pendingSnapshot = 0;
  /** the snapshot under way, in state `snapshot` */
  transfer: SnapshotTransfer | null = null;
  /** ticks in state `snapshot` without any progress */
  snapshotTicks = 0;
  /** highest commit index told to the follower */
  sentCommit = 0;
  /** it has answered since the leader last counted its quorum */
  recentActive = false;
  /** nothing is sent until it answers anything (an append or a heartbeat) */
  paused = false;
  readonly inflights: Inflights;

  constructor(match: number, next: number, inflights: Inflights) {
    this.match = match;
    this.next = next;
    this.inflights = inflights;
  }

  get isPaused(): boolean {
    return this.paused || this.state === 'snapshot';
  }

  becomeProbe(): void {
    // after a snapshot the probe begins behind it: if it arrived, that is where the logs meet
    this.next =
      this.state === 'snapshot'
        ? Math.max(this.match + 1, this.pendingSnapshot + 1)
        : this.match + 1;
    this.#reset('probe');
  }

  /** The follower has lost what it had acknowledged; up to `hint` the logs might agree. */
  forget(hint: number): void {
    this.match = 0;
    this.next = hint + 1;
    this.#reset('probe');
  }

  becomeReplicate(): void {
    this.next = this.match + 1;
    this.#reset('replicate');
  }

  becomeSnapshot(transfer: SnapshotTransfer): void {
    const { index } = transfer.snapshot;
    this.#reset('snapshot');
    this.transfer = transfer;
    this.pendingSnapshot = index;
    this.next = index + 1;
    this.sentCommit = index;
  }

  /** An append left. A probe waits for its answer; a window only when it is full. */
  sentEntries(count: number, bytes: number, commit: number): void {
    if (this.state === 'replicate') {
      if (count > 0) {
        this.next += count;
        this.inflights.add(this.next - 1, bytes);
      }
      this.paused = this.inflights.full;
    } else {
      this.paused = true;
    }
    this.sentCommit = Math.max(this.sentCommit, commit);
  }

  /** The follower has everything up to `index`; false when that was known. */
  acknowledge(index: number): boolean {
    if (index <= this.match) return false;
    this.match = index;
    this.next = Math.max(this.next, index + 1);
    this.paused = false;
    return true;
  }

  /**
   * The follower refused an append after `rejected`; `hint` is the highest index at which the logs
   * might agree. False when the answer is old: it speaks of an append before the present one.
   */
  reject(rejected: number, hint: number): boolean {
    if (this.state === 'replicate') {
      if (rejected <= this.match) return false;
      this.sentCommit = Math.min(this.sentCommit, this.match);
      this.next = this.match + 1;
      return true;
    }
    if (this.next - 1 !== rejected) return false;
    this.next = Math.max(Math.min(rejected, hint + 1), this.match + 1);
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
    this.paused = false;
    return true;
  }

  #reset(state: ProgressState): void {
    this.state = state;
    this.paused = false;
    this.pendingSnapshot = 0;
    this.transfer = null;
    this.snapshotTicks = 0;
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
    this.inflights.reset();
  }
}
