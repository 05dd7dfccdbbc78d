import { enoughChunksToRetry, spaceWaitMaxMs, spaceWaitMinMs } from '../replication/limits.ts';
import type { Member } from './member.ts';

/** A member that is not filled for a while. */
interface Wait {
  sinceMs: number;
  untilMs: number;
  /** the next one is so long (ms) */
  nextMs: number;
  message: string;
}

/** Members without room are left alone, longer each time, and others go on. */
export class RoomWaits {
  readonly #waits = new Map<string, Wait>();

  /** It has no room; for how long it is left alone (ms). */
  begin(replicaId: string, message: string, nowMs: number): number {
    const waitMs = this.#waits.get(replicaId)?.nextMs ?? spaceWaitMinMs;
    const nextMs = Math.min(waitMs * 2, spaceWaitMaxMs);
    this.#waits.set(replicaId, { sinceMs: nowMs, untilMs: nowMs + waitMs, nextMs, message });
    return waitMs;
  }

  /** Why it waits; null: it does not. Room that came since it had none is used before the wait is over. */
  reason({ replicaId, availableChunks }: Member, nowMs: number): string | null {
    const wait = this.#waits.get(replicaId);
    if (!wait || nowMs >= wait.untilMs) return null;
    const hasRoom =
      nowMs - wait.sinceMs >= spaceWaitMinMs && availableChunks >= enoughChunksToRetry;
    return hasRoom ? null : wait.message;
  }

  /** It was filled. */
  over(replicaId: string): void {
    this.#waits.delete(replicaId);
  }
}
