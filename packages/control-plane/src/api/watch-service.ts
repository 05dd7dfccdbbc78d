import { encodeWatchBatch, hasCode, StorError, watchKinds } from '@stor/protocol';
import type { WatchBatch, WatchStart } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { servedStreams, type OpenCalls } from './serve-unary.ts';
import { WatchCursor } from '../core/watch/watch-cursor.ts';
import { WatchHistory, watchLimits } from '../core/watch/watch-history.ts';
import type { WatchLimits } from '../core/watch/watch-history.ts';
import { every } from '../resources/every.ts';
import { clusterKey } from '../resources/keys.ts';
import { pause } from '../resources/pause.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { RpcContext, RpcStreamMethod } from '../rpc/rpc-transport.ts';
import { readSoon } from './read-soon.ts';
import { storeRoles } from './store-roles.ts';

/** Watches that one node serves at once: each holds the objects it is sending, and a socket's buffer. */
const maxWatchers = 256;
/** A client that takes no message for this long is let go (ms). */
const maxStallMs = 30_000;
/** While nothing happens a bookmark is sent this often (ms), so that a client knows how far it has come. */
const bookmarkMs = 5_000;
/** How often the leader of the store and the node's own lease are looked at (ms). */
const lookMs = 1_000;
/** The history is kept for so long after the last watch (ms), for those that come back. */
const lingerMs = 60_000;
/** A new watch waits at most this long until the node's cache has what was committed before it (ms). */
const catchUpMs = 300;
const catchUpStepMs = 5;
/** Objects described in one turn of the event loop when a history begins: some 20 ms. */
const fillBatch = 1_000;

export interface WatchServiceOptions {
  store: ClusterStore;
  cache: StateCache;
  clock: Clock;
  logger: Logger;
  random: Random;
  /** why this node may be behind the others; null: it is not */
  trouble: () => string | null;
  limits?: WatchLimits;
}

interface WireStart {
  kinds: string[];
  name: string;
  history: string;
  afterRevision: number;
  listAgain: boolean;
}

/** One watch that is served. */
interface Watcher {
  /** null: its history is still being put together */
  cursor: WatchCursor | null;
  /** it has ended: what it began goes no further */
  isOver: boolean;
  /** ends it, whatever it waits for */
  fail: (error: StorError) => void;
  /** rejects then */
  failed: Promise<never>;
  wake: () => void;
  send: (batch: WatchBatch) => Promise<void>;
}

/**
 * Serves watches of the API's objects (`stor.v1.Stor/Watch`) from what this node has of the cluster
 * store. Costs nothing while nobody watches: the history begins with the first watch, and is shared.
 */
export class WatchService {
  readonly #options: WatchServiceOptions;
  readonly #limits: WatchLimits;
  readonly #watchers = new Set<Watcher>();
  #history: WatchHistory | null = null;
  #filling: Promise<void> | null = null;
  #undo: (() => void)[] = [];
  #cancelLinger = (): void => {};
  #isClosed = false;

  constructor(options: WatchServiceOptions) {
    this.#options = options;
    this.#limits = options.limits ?? watchLimits;
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  /** For `RpcServer.addService`. */
  readonly streams: Readonly<Record<'watch', RpcStreamMethod>> = {
    watch: (request: WireStart, context, send) => this.#serve(request, context, send),
  };

  async #serve(
    request: WireStart,
    { signal }: RpcContext,
    send: (message: object) => Promise<void>,
  ): Promise<void> {
    const start = parseStart(request);
    if (this.#isClosed) throw new StorError('UNAVAILABLE', 'the node is stopping');
    if (this.#watchers.size >= maxWatchers) {
      throw new StorError(
        'UNAVAILABLE',
        `this node serves ${maxWatchers} watches already: ask another one`,
      );
    }
    const watcher = newWatcher((batch) =>
      this.#patiently(Promise.race([send(encodeWatchBatch(batch)), watcher.failed])),
    );
    const onAbort = (): void => {
      watcher.fail(new StorError('ABORTED', 'the watch is over'));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    this.#watchers.add(watcher);
    this.#cancelLinger();
    try {
      await Promise.race([this.#run(watcher, start), watcher.failed]);
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#watchers.delete(watcher);
      watcher.fail(new StorError('ABORTED', 'the watch is over'));
      if (this.#watchers.size === 0) this.#linger();
    }
  }

  /** Ends by an error only. */
  async #run(watcher: Watcher, start: WatchStart): Promise<never> {
    const { clock } = this.#options;
    this.#checkLease();
    await this.#catchUp(watcher);
    // nobody would close a history that is begun for a watch that has ended
    if (watcher.isOver) return watcher.failed;
    const cursor = new WatchCursor(await this.#opened(), start);
    watcher.cursor = cursor;
    // one that goes on hears at once that it does
    let sentMs = -Infinity;
    for (;;) {
      const batch = cursor.next();
      if (batch) {
        await watcher.send(batch);
        sentMs = clock.monotonicMs();
        // a list of 10,000 volumes is many messages: others have their turn in between
        if (batch.listing && !batch.complete) await pause(clock, 0);
      } else if (clock.monotonicMs() - sentMs >= bookmarkMs) {
        await watcher.send(cursor.bookmark());
        sentMs = clock.monotonicMs();
      } else {
        await this.#somethingNew(watcher);
      }
    }
  }

  /** Resolves at the next change, or after a while. */
  #somethingNew(watcher: Watcher): Promise<void> {
    return new Promise((resolve) => {
      watcher.wake = resolve;
    });
  }

  #patiently(sent: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = this.#options.clock.after(maxStallMs, () => {
        reject(
          new StorError(
            'TOO_SLOW',
            `nothing was read for ${maxStallMs / 1_000} s: list again and watch from there`,
          ),
        );
      });
      sent.finally(cancel).then(resolve, reject);
    });
  }

  /**
   * Proves that this node is not cut off, and waits until its cache has what was committed before the
   * watch began. Over etcd the cache may be a moment behind all the same: others move the revision too.
   */
  async #catchUp(watcher: Watcher): Promise<void> {
    const { store, cache, clock } = this.#options;
    const { revision } = await readSoon((options) => store.list(clusterKey, options));
    const untilMs = clock.monotonicMs() + catchUpMs;
    while (!cache.loaded || cache.state.revision < revision) {
      const isLate = cache.loaded && clock.monotonicMs() >= untilMs;
      if (isLate || watcher.isOver) return;
      await pause(clock, catchUpStepMs);
    }
  }

  #checkLease(): void {
    const trouble = this.#options.trouble();
    if (trouble === null) return;
    throw new StorError('UNAVAILABLE', `this node may be behind the others: ${trouble}`);
  }

  /** The history, whole. */
  async #opened(): Promise<WatchHistory> {
    this.#filling ??= this.#open();
    await this.#filling;
    if (!this.#history) throw new StorError('UNAVAILABLE', 'the node is stopping');
    return this.#history;
  }

  async #open(): Promise<void> {
    const { store, cache, clock, random } = this.#options;
    const storeId = store.members?.storeId;
    const history = new WatchHistory(
      // of a store that nothing tells apart from one restored, a position is good on this node only
      storeId === undefined ? Buffer.from(random.bytes(8)).toString('hex') : `raft:${storeId}`,
      this.#limits,
    );
    this.#history = history;
    let isReloaded = false;
    this.#undo = [
      cache.onChange((keys) => {
        if (keys === null) isReloaded = true;
        else history.apply(cache.state, keys);
        if (keys === null && history.isReady) this.#end(readAnew());
        else this.#wakeAll();
      }),
      every(clock, lookMs, () => {
        if (history.isReady) history.look(cache.state, storeRoles(store));
        this.#lookAtWatchers();
      }),
    ];
    do {
      isReloaded = false;
      const names = history.begin(cache.state, storeRoles(store));
      for (let at = 0; at < names.length && !isReloaded; at += fillBatch) {
        if (at > 0) await pause(clock, 0);
        history.fill(cache.state, names.slice(at, at + fillBatch));
      }
    } while (isReloaded);
    history.ready(cache.state);
  }

  #lookAtWatchers(): void {
    try {
      this.#checkLease();
    } catch (error) {
      for (const watcher of this.#watchers) watcher.fail(StorError.from(error));
      return;
    }
    for (const watcher of this.#watchers) this.#checkPace(watcher);
    this.#wakeAll();
  }

  /** One that waits for its client does not look itself. */
  #checkPace(watcher: Watcher): void {
    try {
      watcher.cursor?.check();
    } catch (error) {
      if (!hasCode(error, 'TOO_SLOW')) throw error;
      this.#options.logger.info({ watchers: this.#watchers.size }, 'a watch was too slow');
      watcher.fail(error);
    }
  }

  #wakeAll(): void {
    for (const { wake } of this.#watchers) wake();
  }

  #linger(): void {
    this.#cancelLinger();
    if (this.#isClosed) return;
    this.#cancelLinger = this.#options.clock.after(lingerMs, () => {
      if (this.#watchers.size === 0) this.#forget();
    });
  }

  /** The next watch begins with another history. */
  #forget(): void {
    for (const undo of this.#undo.splice(0)) undo();
    this.#history = null;
    this.#filling = null;
  }

  #end(error: StorError): void {
    this.#forget();
    for (const { fail } of this.#watchers) fail(error);
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelLinger();
    this.#end(new StorError('UNAVAILABLE', 'the node is stopping'));
  }
}

/** The watches of a node, as `RpcServer.addService` takes them; `undo` ends them. */
export function watchStreams(
  options: WatchServiceOptions,
  served: { calls: OpenCalls; logger: Logger },
  undo: (() => void)[],
): Record<string, RpcStreamMethod> {
  const watches = new WatchService(options);
  undo.push(() => {
    watches.close();
  });
  return servedStreams(watches.streams, served);
}

function readAnew(): StorError {
  return new StorError(
    'COMPACTED',
    'the node had to read all records anew: list again and watch from there',
  );
}

function newWatcher(send: (batch: WatchBatch) => Promise<void>): Watcher {
  let reject: (error: StorError) => void = () => {};
  const failed = new Promise<never>((_resolve, fail) => {
    reject = fail;
  });
  // it may fail while nobody waits for it
  failed.catch(() => {});
  const watcher: Watcher = {
    cursor: null,
    isOver: false,
    fail: (error) => {
      watcher.isOver = true;
      reject(error);
    },
    failed,
    wake: () => {},
    send,
  };
  return watcher;
}

/** INVALID_ARGUMENT */
function parseStart({ kinds, name, history, afterRevision, listAgain }: WireStart): WatchStart {
  const known = watchKinds.filter((kind) => kinds.length === 0 || kinds.includes(kind));
  const unknown = kinds.find((kind) => !watchKinds.some((other) => other === kind));
  if (unknown !== undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `kind ${JSON.stringify(unknown.slice(0, 64))} cannot be watched: this node knows ${watchKinds.join(', ')}`,
    );
  }
  const after = history === '' ? null : { history, revision: afterRevision };
  return { kinds: known, name, after, listAgain };
}
