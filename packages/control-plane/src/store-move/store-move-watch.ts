import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import {
  decodeFreeze,
  decodeOrigin,
  embeddedStore,
  freezeKey,
  originKey,
  type FreezeRecord,
  type OriginRecord,
} from '../core/store-move/move-records.ts';
import { pause } from '../resources/pause.ts';
import type { OpenTarget } from './store-move.ts';

/** How often the store is looked at for a move (ms). */
const lookMs = 1_000;
/** From when a move is seen to be complete, so that others, and who asked, hear of it too (ms). */
const graceMs = 1_500;
/** For a read of the other store (ms). */
const readTimeoutMs = 3_000;

export interface StoreMoveWatchOptions {
  store: Pick<ClusterStore, 'get'>;
  openTarget: OpenTarget;
  /** this node's part of an embedded store that the cluster was to move to: the id of that move */
  begunMove(): string | null;
  /** that move was given up */
  dropMove(id: string): Promise<void>;
  clock: Clock;
  logger: Logger;
  /** once: the cluster is in another store, and this node must use that */
  moved: (freeze: FreezeRecord) => void;
}

/**
 * The origin of a store; null when no cluster was moved to it. `local` may be old, so it may miss one;
 * one that is complete stays so.
 */
export async function readOrigin(
  store: Pick<ClusterStore, 'get'>,
  { local = false }: { local?: boolean } = {},
): Promise<OriginRecord | null> {
  const item = await store.get(originKey, { timeoutMs: readTimeoutMs, local });
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
  #told = '';

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
        const { code, message } = StorError.from(error);
        const fields = { error: message };
        // told once: an operator has to do something
        if (code === 'FAILED_PRECONDITION' && message !== this.#told) {
          logger.warn(fields, 'this node cannot follow the cluster to its other store');
        } else logger.debug(fields, 'not known whether the store moves');
        this.#told = message;
      }
    }
  }

  /** The move, once the other store is complete. */
  async #look(): Promise<FreezeRecord | null> {
    const { store } = this.#options;
    const item = await store.get(freezeKey, { local: true, signal: this.#closing.signal });
    const freeze = item && decodeFreeze(item.value);
    await this.#dropOther(freeze?.id ?? null);
    if (!freeze) return null;
    const isEmbedded = freeze.to === embeddedStore;
    if (isEmbedded && !freeze.members) return null;
    const target = await this.#options.openTarget(freeze);
    try {
      // by what this member of the new store knows: nobody need lead it any more
      const origin = await readOrigin(target, { local: isEmbedded });
      return origin?.id === freeze.id && origin.phase === 'complete' ? freeze : null;
    } finally {
      target.close();
    }
  }

  /**
   * A move that was begun here and is not under way any more was given up. Only what is certainly so
   * counts: a member that began a second time would have forgotten what it promised.
   */
  async #dropOther(id: string | null): Promise<void> {
    const begun = this.#options.begunMove();
    if (begun === null || begun === id) return;
    const item = await this.#options.store.get(freezeKey, { timeoutMs: readTimeoutMs });
    if (item && decodeFreeze(item.value).id === begun) return;
    await this.#options.dropMove(begun);
  }
}
