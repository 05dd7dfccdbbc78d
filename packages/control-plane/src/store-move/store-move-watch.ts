import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import {
  decodeFreeze,
  decodeOrigin,
  freezeKey,
  originKey,
  type FreezeRecord,
  type MoveTls,
  type OriginRecord,
} from '../core/store-move/move-records.ts';
import { pause } from '../resources/pause.ts';
import type { MoveStore } from './store-move.ts';

/** How often the store is looked at for a move (ms). */
const lookMs = 1_000;
/** From when a move is seen to be complete, so that others, and who asked, hear of it too (ms). */
const graceMs = 1_500;
/** For a read of the other store (ms). */
const readTimeoutMs = 3_000;

export interface StoreMoveWatchOptions {
  store: Pick<ClusterStore, 'get'>;
  openTarget(to: string, tls: MoveTls | undefined): Promise<MoveStore & { close(): void }>;
  clock: Clock;
  logger: Logger;
  /** once: the cluster is in another store, and this node must use that */
  moved: (freeze: FreezeRecord) => void;
}

/** The origin of a store; null when no cluster was moved to it. */
export async function readOrigin(store: Pick<MoveStore, 'get'>): Promise<OriginRecord | null> {
  const item = await store.get(originKey, { timeoutMs: readTimeoutMs });
  return item && decodeOrigin(item.value);
}

/**
 * Finds out that the cluster has moved to another store. The new store itself is asked: members of
 * the old one that are late may be left without a quorum, but they know that it was frozen.
 */
export class StoreMoveWatch {
  readonly #options: StoreMoveWatchOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;

  constructor(options: StoreMoveWatchOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, logger, moved } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await pause(clock, lookMs, signal);
      try {
        const freeze = await this.#look();
        if (!freeze) continue;
        logger.warn({ to: freeze.to }, 'the cluster has moved to another store');
        await pause(clock, graceMs, signal);
        if (!signal.aborted) moved(freeze);
        return;
      } catch (error) {
        logger.debug({ error: StorError.from(error).message }, 'not known whether the store moves');
      }
    }
  }

  /** The move, once the other store is complete. */
  async #look(): Promise<FreezeRecord | null> {
    const { store } = this.#options;
    const item = await store.get(freezeKey, { local: true, signal: this.#closing.signal });
    if (!item) return null;
    const freeze = decodeFreeze(item.value);
    const target = await this.#options.openTarget(freeze.to, freeze.tls);
    try {
      const origin = await readOrigin(target);
      return origin?.id === freeze.id && origin.phase === 'complete' ? freeze : null;
    } finally {
      target.close();
    }
  }
}
