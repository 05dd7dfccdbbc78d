import { replicaLeaseDriftMs, replicaLeaseMs } from '@stor/protocol';

/** A primary may count a lease that was promised at some time until this much later. */
export const leaseSpanMs = replicaLeaseMs + replicaLeaseDriftMs;

/**
 * What one replica has promised to primaries: "I know no newer epoch". A primary counts such a lease
 * from before it asked, so it ends at the latest one lease after the answer by any clock that runs no
 * more than the drift apart from ours (I6). A fence tells the new primary how much is left of what
 * was promised to all older ones; docs/adr/0008-remaining-lease.md says why that is enough.
 *
 * All times are of the monotonic clock: it goes on while the process is stopped (SIGSTOP). It stands
 * still while the host is suspended, so what is said after that is too much, never too little.
 */
export class LeasePromises {
  #epoch = 0;
  #lastMs = -Infinity;
  /** last promise to any primary below `#epoch` */
  #olderMs = -Infinity;

  /** The primary at this epoch is told now that the replica knows no newer one. */
  promised(epoch: number, nowMs: number): void {
    if (epoch > this.#epoch) {
      this.#olderMs = Math.max(this.#olderMs, this.#lastMs);
      this.#epoch = epoch;
      this.#lastMs = nowMs;
    } else if (epoch === this.#epoch) this.#lastMs = nowMs;
    else this.#olderMs = nowMs;
  }

  /**
   * For how long some primary below `epoch` may still count on a promise, at most. `aloneSinceMs`:
   * only since then has nobody but this process answered for the replica; an older process may have
   * promised until that moment.
   */
  remainingMs(epoch: number, aloneSinceMs: number, nowMs: number): number {
    const lastMs = this.#epoch < epoch ? Math.max(this.#olderMs, this.#lastMs) : this.#olderMs;
    return Math.max(0, Math.max(lastMs, aloneSinceMs) + leaseSpanMs - nowMs);
  }
}
