import type { LeaseRecord } from './kv-state.ts';

/**
 * When leases end, as the leader of one term sees it. Deadlines are in memory only: a new leader
 * gives every lease its full time, counted from when it has applied an entry of its own term. Its
 * election came after any quorum round of an older leader, so no lease ends earlier than the last
 * answered renewal promised.
 */
export class LeaseDeadlines {
  #term: number | null = null;
  readonly #deadlines = new Map<string, number>();

  /** the term in which this member leads and lets leases run; null when it does not */
  get term(): number | null {
    return this.#term;
  }

  lead(term: number): void {
    this.#term = term;
    this.#deadlines.clear();
  }

  stop(): void {
    this.#term = null;
    this.#deadlines.clear();
  }

  renew({ leaseId, ttlMs }: LeaseRecord, nowMs: number): void {
    this.#deadlines.set(leaseId, nowMs + ttlMs);
  }

  /** Every lease lasts that much longer: the leader stood still and could hear no renewal. */
  extend(ms: number): void {
    for (const [leaseId, deadlineMs] of this.#deadlines)
      this.#deadlines.set(leaseId, deadlineMs + ms);
  }

  /** Takes note of leases that came and went; returns those whose time is over. */
  due(leases: LeaseRecord[], nowMs: number): LeaseRecord[] {
    const live = new Set(leases.map((lease) => lease.leaseId));
    for (const leaseId of this.#deadlines.keys()) {
      if (!live.has(leaseId)) this.#deadlines.delete(leaseId);
    }
    return leases.filter((lease) => {
      const deadline = this.#deadlines.get(lease.leaseId);
      if (deadline === undefined) this.renew(lease, nowMs);
      return deadline !== undefined && deadline <= nowMs;
    });
  }
}
