import { decodeMessages, encodeMessages } from '../core/codec.ts';
import type { PeerId, RaftMessage } from '../core/types.ts';
import type { RaftTransport } from '../raft-options.ts';

/** Joins members of one process. Messages go through the codec, in order, in a later microtask. */
export class MemoryNetwork {
  readonly #members = new Map<PeerId, (messages: RaftMessage[]) => void>();
  readonly #cut = new Set<PeerId>();

  join(id: PeerId, receive: (messages: RaftMessage[]) => void): void {
    this.#members.set(id, receive);
  }

  leave(id: PeerId): void {
    this.#members.delete(id);
  }

  /** Nothing passes from or to this member until `heal`. */
  isolate(id: PeerId): void {
    this.#cut.add(id);
  }

  heal(): void {
    this.#cut.clear();
  }

  transport(from: PeerId): RaftTransport {
    return {
      send: (to, messages) => {
        if (this.#cut.has(from) || this.#cut.has(to)) return;
        const bytes = encodeMessages(messages);
        queueMicrotask(() => this.#members.get(to)?.(decodeMessages(bytes)));
      },
    };
  }
}
