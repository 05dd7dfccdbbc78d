import { hasCode, StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { applyChange, emptyState } from './cluster-state.ts';
import type { ClusterState } from './cluster-state.ts';
import { everythingPrefix, rootPrefix } from './keys.ts';
import { longLivedController } from './long-lived.ts';
import { pause } from './pause.ts';

/** After a watch broke (ms). */
const retryMs = 200;
/** Records decoded in one turn of the event loop when all are read: some 20 ms. */
const loadBatch = 1_000;

/**
 * The resources as this member of the store has applied them, kept current by a watch. It may lag
 * behind: whoever acts on it compares revisions when it writes.
 */
export class StateCache {
  readonly #store: ClusterStore;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners = new Set<(keys: readonly string[] | null) => void>();
  readonly #closing = longLivedController();
  readonly #running: Promise<void>;
  #state: ClusterState = emptyState();
  #loaded = false;

  constructor(store: ClusterStore, clock: Clock, logger: Logger) {
    this.#store = store;
    this.#clock = clock;
    this.#logger = logger;
    this.#running = this.#run();
  }

  get state(): ClusterState {
    return this.#state;
  }

  /** false until the resources were read once */
  get loaded(): boolean {
    return this.#loaded;
  }

  /** Called after each change with the keys that changed, null: all were read anew; returns the undo. */
  onChange(listener: (keys: readonly string[] | null) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /**
   * Resolves with what `look` finds, now or after a later change; with undefined when the time is
   * over. Rejects ABORTED.
   */
  waitFor<T>(
    look: (state: ClusterState) => T | undefined,
    options: { timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<T | undefined> {
    const found = look(this.#state);
    if (found !== undefined) return Promise.resolve(found);
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        undo();
        cancel();
        options.signal?.removeEventListener('abort', onAbort);
        this.#closing.signal.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        finish();
        reject(new StorError('ABORTED', 'the wait was given up'));
      };
      const undo = this.onChange(() => {
        const value = look(this.#state);
        if (value === undefined) return;
        finish();
        resolve(value);
      });
      const cancel = this.#clock.after(options.timeoutMs, () => {
        finish();
        resolve(undefined);
      });
      options.signal?.addEventListener('abort', onAbort, { once: true });
      this.#closing.signal.addEventListener('abort', onAbort, { once: true });
      if (options.signal?.aborted || this.#closing.signal.aborted) onAbort();
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        const revision = await this.#load();
        for await (const events of this.#store.watch(everythingPrefix, revision, signal)) {
          const own = events.filter(({ key }) => key.startsWith(rootPrefix));
          for (const { key, value, revision: modRevision } of own) {
            this.#apply(this.#state, { key, value, modRevision });
          }
          // what is beside the resources counts too: this is how far the cache has come
          this.#state.revision = Math.max(this.#state.revision, events[0]?.revision ?? 0);
          if (own.length > 0) this.#notify(own.map(({ key }) => key));
        }
      } catch (error) {
        // FAILED_PRECONDITION: the changes since are no longer kept, so everything is read again
        if (!hasCode(error, 'FAILED_PRECONDITION', 'UNAVAILABLE', 'TIMEOUT', 'ABORTED')) {
          this.#logger.error({ error: StorError.from(error).message }, 'watch failed');
        }
      }
      await pause(this.#clock, retryMs, signal);
    }
  }

  /** Decodes some at a time: 10,000 volumes take a second, and heartbeats of Raft cannot wait for that. */
  async #load(): Promise<number> {
    const { signal } = this.#closing;
    const { revision, items } = await this.#store.list(rootPrefix, { local: true });
    const state = emptyState();
    for (const [index, item] of items.entries()) {
      if (index > 0 && index % loadBatch === 0) await pause(this.#clock, 0, signal);
      this.#apply(state, item);
    }
    if (signal.aborted) return revision;
    state.revision = revision;
    this.#state = state;
    this.#loaded = true;
    this.#notify(null);
    return revision;
  }

  #apply(
    state: ClusterState,
    change: { key: string; value: Uint8Array | null; modRevision: number },
  ): void {
    const error = applyChange(state, change);
    state.revision = Math.max(state.revision, change.modRevision);
    if (error)
      this.#logger.error({ key: change.key, error: error.message }, 'a record cannot be read');
  }

  #notify(keys: readonly string[] | null): void {
    for (const listener of [...this.#listeners]) listener(keys);
  }
}
