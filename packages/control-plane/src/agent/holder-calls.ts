import { StorError } from '@stor/protocol';
import type { Attachment } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { holderLives } from '../core/controllers/attachment-rules.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { AgentPeers } from './agent-peers.ts';

/** How often a dead holder's lease is looked at (ms). */
export const leaseLookMs = 200;

export interface Wait {
  /** on the monotonic clock (ms) */
  deadlineMs: number;
  signal: AbortSignal;
}

/** Asks holders of attachments to let go. */
export class HolderCalls {
  readonly #cache: StateCache;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #peers: AgentPeers;

  constructor(options: { cache: StateCache; clock: Clock; logger: Logger; peers: AgentPeers }) {
    this.#cache = options.cache;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#peers = options.peers;
  }

  /**
   * Asks until the holder answers, its lease is seen to end or the time is over: a process that is
   * stopped keeps its connections and answers nothing.
   */
  async release(
    record: StoredVolume,
    holder: Attachment,
    ifIdle: boolean,
    wait: Wait,
  ): Promise<'released' | 'busy' | 'gone' | 'unreachable'> {
    const { nodeId, epoch } = holder;
    const giveUp = new AbortController();
    const abort = (): void => {
      giveUp.abort();
    };
    const look = (): void => {
      const lease = this.#cache.state.leases.get(nodeId)?.value ?? null;
      if (!holderLives(holder, lease)) abort();
    };
    const undo = this.#cache.onChange(look);
    look();
    const leftMs = Math.max(leaseLookMs, wait.deadlineMs - this.#clock.monotonicMs());
    const cancel = this.#clock.after(leftMs, abort);
    wait.signal.addEventListener('abort', abort, { once: true });
    try {
      const volumeId = record.metadata.id;
      const request = { volumeId, epoch, ifIdle };
      return await this.#peers.at(nodeId).releaseAttachment(request, giveUp.signal);
    } catch (error) {
      // whatever went wrong over there, the record or the lease will tell when it is looked at again
      const { message } = StorError.from(error);
      this.#logger.warn(
        { volume: record.metadata.name, nodeId, message },
        'holder did not release',
      );
      return 'unreachable';
    } finally {
      undo();
      cancel();
      wait.signal.removeEventListener('abort', abort);
    }
  }
}
