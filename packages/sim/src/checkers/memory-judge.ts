import type { CommittedSet } from '../cluster/sim-cluster.ts';

/**
 * Who may lack what was acknowledged and not flushed: replicas whose host lost power, or whose disk
 * failed, since they last became a member or their primary began. When all members of the committed
 * set do, and of the one before it until that is confirmed, the volume may lose what was not flushed
 * (I5); never before.
 */
export class MemoryJudge {
  readonly #lost = new Map<string, number>();
  #members: readonly string[] = [];
  readonly #memoryLost: () => void;

  constructor(memoryLost: () => void) {
    this.#memoryLost = memoryLost;
  }

  /** Members that still have everything. */
  get whole(): number {
    return this.#members.filter((id) => !this.#lost.has(id)).length;
  }
  get members(): readonly string[] {
    return this.#members;
  }

  lost(replicaId: string, nowMs: number): void {
    this.#lost.set(replicaId, nowMs);
    if (this.#members.includes(replicaId)) this.#judge();
  }

  committed(set: CommittedSet): void {
    const before = this.#members;
    this.#members = set.whole;
    // who joins has everything, durably
    for (const id of set.whole) if (!before.includes(id)) this.#lost.delete(id);
    this.#judge();
  }

  /** A primary serves under a grant of that time: what its members hold is the state now. */
  serving(grantedMs: number): void {
    for (const [id, lostMs] of [...this.#lost]) if (lostMs < grantedMs) this.#lost.delete(id);
  }

  #judge(): void {
    if (this.#members.length > 0 && this.whole === 0) this.#memoryLost();
  }
}
