import { StorError, hasCode } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { KeyValue, WatchEvent } from '../cluster-store.ts';
import { copyOfItem } from '../cluster-store-watch.ts';
import { OrderedKeys } from '../core/kv/ordered-keys.ts';
import { pause } from '../resources/pause.ts';
import type { KeyStore } from './etcd-keys.ts';

/** After the watch broke (ms). */
const retryMs = 500;

export interface EtcdMirrorOptions {
  keys: Pick<KeyStore, 'list' | 'watch'>;
  clock: Clock;
  logger: Logger;
  closed: AbortSignal;
  /** a key was put @default nobody wants to know */
  heard?: ((key: string, revision: number) => void) | undefined;
}

/**
 * All keys as this member has seen them last. Only for when no etcd server answers: a member must
 * know then what it knew before, as one of the embedded store does.
 */
export class EtcdMirror {
  readonly #options: EtcdMirrorOptions;
  readonly #running: Promise<void>;
  #items = new Map<string, KeyValue>();
  #keys = new OrderedKeys();
  #revision = 0;
  #isLoaded = false;

  constructor(options: EtcdMirrorOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  /** false: etcd was never reached, so nothing is known */
  get isLoaded(): boolean {
    return this.#isLoaded;
  }

  get(key: string): KeyValue | null {
    const item = this.#items.get(key);
    return item ? copyOfItem(item) : null;
  }

  list(prefix: string): { revision: number; items: KeyValue[] } {
    const keys = this.#keys.withPrefix(prefix);
    return {
      revision: this.#revision,
      items: keys.map((key) => copyOfItem(this.#items.get(key) as KeyValue)),
    };
  }

  /** After the `closed` signal. */
  settled(): Promise<void> {
    return this.#running;
  }

  async #run(): Promise<void> {
    const { keys, clock, logger, closed } = this.#options;
    while (!closed.aborted) {
      try {
        const { revision, items } = await keys.list('', { signal: closed });
        this.#items = new Map(items.map((item) => [item.key, item]));
        this.#keys = new OrderedKeys(items.map(({ key }) => key));
        this.#revision = revision;
        this.#isLoaded = true;
        for await (const batch of keys.watch('', revision, closed)) {
          for (const event of batch) this.#apply(event);
        }
      } catch (error) {
        // a foreign one is told of where it is found out
        if (!hasCode(error, 'FAILED_PRECONDITION', 'UNAVAILABLE', 'ABORTED', 'FOREIGN_DATA')) {
          logger.warn({ error: StorError.from(error).message }, 'etcd cannot be watched');
        }
        await pause(clock, retryMs, closed);
      }
    }
  }

  #apply({ key, value, revision, leaseId }: WatchEvent): void {
    const old = this.#items.get(key);
    this.#revision = revision;
    if (value === null) {
      this.#items.delete(key);
      if (old) this.#keys.remove(key);
      return;
    }
    this.#options.heard?.(key, revision);
    if (!old) this.#keys.add(key);
    const createRevision = old?.createRevision ?? revision;
    this.#items.set(key, { key, value, createRevision, modRevision: revision, leaseId });
  }
}
