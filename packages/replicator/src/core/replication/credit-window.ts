import type { RoomPromise } from '../store/space-ledger.ts';

/**
 * Most chunks kept for one primary beyond what it asks for (64 MiB): all that it may have sent and
 * not been acknowledged, when it writes new chunks one after another.
 */
export const maxWindowChunks = 256;
/** Words to the primary that are told apart; older ones count as one. */
const maxTells = 16;

/** What was said to the primary from one pong on, until the next. */
interface Tell {
  pong: number;
  /** the most: chunks taken before it was said, and those that were promised then */
  limit: number;
}

/**
 * The credits of one primary at one replica. What it is told is kept for it on the disk's ledger,
 * until it is known to count on less: it takes in what it hears in order, and says in its pings
 * which pong it has heard. A small window is kept ahead of need, smaller as the disk fills, so that
 * nobody waits and nobody holds much; a primary that needs more than that asks.
 */
export class CreditWindow {
  readonly #room: RoomPromise;
  #tells: Tell[];

  /** `pong`: the last one sent on the connection. */
  constructor(room: RoomPromise, pong: number) {
    this.#room = room;
    this.#tells = [{ pong, limit: 0 }];
  }

  /** Chunks that the primary may take, once everything that it has sent until now is applied. */
  tell(wanted = 0): number {
    const room = this.#room;
    const most = Math.max(wanted, this.#target());
    if (room.held < most) room.raise(most - room.held);
    const told = Math.min(room.held, most, room.room);
    const last = this.#tells.at(-1);
    if (last) last.limit = Math.max(last.limit, room.taken + told);
    return told;
  }

  /** As `tell`, in a pong. */
  tellInPong(pong: number): number {
    this.#tells.push({ pong, limit: 0 });
    const [oldest, next] = this.#tells;
    if (oldest && next && this.#tells.length > maxTells) {
      this.#tells.shift();
      next.pong = oldest.pong;
      next.limit = Math.max(next.limit, oldest.limit);
    }
    return this.tell();
  }

  /** All is applied that the primary had sent when it had heard that pong. */
  heard(pong: number): void {
    while (this.#tells.length > 1 && (this.#tells[0]?.pong ?? pong) < pong) this.#tells.shift();
    const limit = Math.max(...this.#tells.map((tell) => tell.limit));
    this.#room.lower(limit - this.#room.taken);
  }

  /** An equal share of half the room: the other half is for those that write. */
  #target(): number {
    const { room, sharers } = this.#room;
    return Math.min(maxWindowChunks, Math.floor(room / (2 * sharers)));
  }
}
