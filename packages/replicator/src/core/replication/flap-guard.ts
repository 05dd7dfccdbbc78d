/** A replica may leave so often within `flapForgivenMs` before it has to wait. */
export const flapFreeLeaves = 2;
/** The first wait, doubled at each further leave (ms). */
export const flapFirstWaitMs = 2_000;
/** Each leave stalls clients for up to the silence limit; at most once in this time (ms). */
export const flapMaxWaitMs = 120_000;
/** A replica that stayed in sync for so long starts anew (ms). */
export const flapForgivenMs = 300_000;

interface Leaves {
  leaves: number;
  leftMs: number;
  /** since when it is in sync; null: it is not */
  joinedMs: number | null;
}

/**
 * Replicas that come and go: every leave costs clients a stall and a change of the set, so who left
 * again and again waits longer and longer before it is filled.
 */
export class FlapGuard {
  readonly #records = new Map<string, Leaves>();

  joined(id: string, nowMs: number): void {
    const record = this.#records.get(id);
    if (record) record.joinedMs = nowMs;
  }

  /** It left the set, or the way into it. */
  left(id: string, nowMs: number): void {
    const record = this.#records.get(id) ?? { leaves: 0, leftMs: nowMs, joinedMs: null };
    const stayedMs = record.joinedMs === null ? 0 : nowMs - record.joinedMs;
    const leaves = stayedMs >= flapForgivenMs ? 1 : record.leaves + 1;
    this.#records.set(id, { leaves, leftMs: nowMs, joinedMs: null });
  }

  leaves(id: string): number {
    return this.#records.get(id)?.leaves ?? 0;
  }

  /** For how long it still waits (ms); 0: it may be filled. */
  waitMs(id: string, nowMs: number): number {
    const record = this.#records.get(id);
    if (!record || record.joinedMs !== null || record.leaves <= flapFreeLeaves) return 0;
    const doublings = Math.min(record.leaves - flapFreeLeaves - 1, 30);
    const waitMs = Math.min(flapFirstWaitMs * 2 ** doublings, flapMaxWaitMs);
    return Math.max(0, record.leftMs + waitMs - nowMs);
  }
}
