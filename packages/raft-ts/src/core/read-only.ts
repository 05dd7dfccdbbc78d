import type { PeerId, ReadState } from './types.ts';

interface PendingRead extends ReadState {
  acknowledged: Set<PeerId>;
}

/**
 * Reads that wait for a round of heartbeats begun after them (Raft thesis, section 6.4). Contexts
 * rise, and a heartbeat carries the newest: its answer acknowledges every read up to it.
 */
export class ReadOnly {
  #pending: PendingRead[] = [];

  get newestContext(): number {
    return this.#pending.at(-1)?.context ?? 0;
  }

  add(context: number, index: number, self: PeerId): void {
    this.#pending.push({ context, index, acknowledged: new Set([self]) });
  }

  /** Takes the reads that are confirmed now, oldest first. */
  acknowledge(
    from: PeerId,
    context: number,
    isQuorum: (ids: ReadonlySet<PeerId>) => boolean,
  ): ReadState[] {
    for (const read of this.#pending) {
      if (read.context > context) break;
      read.acknowledged.add(from);
    }
    // A later round confirms every earlier read, so the last confirmed one takes all before it.
    const last = this.#pending.findLastIndex((read) => isQuorum(read.acknowledged));
    return this.#pending
      .splice(0, last + 1)
      .map(({ context: confirmed, index }) => ({ context: confirmed, index }));
  }

  clear(): void {
    this.#pending = [];
  }
}
