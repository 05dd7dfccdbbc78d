import { hasCode, StorError } from './errors.ts';
import type { RpcOutcome, RpcStreamCall } from './rpc/rpc-endpoint.ts';
import { WatchFold } from './watch-fold.ts';
import { decodeWatchBatch, encodeWatchStart, watchKinds } from './watch.ts';
import type { WatchBatch, WatchEvent, WatchKind } from './watch.ts';

/** First and longest wait before a watch that broke is begun again (ms); all nodes are tried in turn. */
const minRetryMs = 100;
const maxRetryMs = 5_000;
/** A node that does not take a connection is left after this (ms). */
const connectTimeoutMs = 800;

export interface WatchOptions {
  /** default: all */
  kinds?: readonly WatchKind[];
  /** only the object with this name or id, of each of the kinds; it need not exist yet */
  name?: string;
  signal?: AbortSignal;
  /** Hears why nothing comes at the moment, and null when it goes on. */
  onTrouble?: (error: StorError | null) => void;
}

/** Watching, beside the calls of `StorApi`. */
export interface WatchApi {
  /**
   * Every object as ADDED, then SYNCED, then each change as it happens, in order and none twice. It
   * goes on by itself at another node when one is lost, and lists again when it was away for too long.
   * BOOKMARK now and then, while nothing changes. Holds all objects that it has told of. Whoever reads
   * slowly slows nobody else: it may hear of several changes of an object as one.
   *
   * Objects are as the records of the cluster say. What only a primary knows of itself is not in them
   * (a volume's `serving`, `allocatedBytes`, `space` and what a replica still lacks, a snapshot's
   * `ownBytes`), nor an NBD address while nobody is attached: `getVolume` asks for it.
   *
   * Ends when the signal aborts or the client is closed. INVALID_ARGUMENT; FAILED_PRECONDITION when every node is of a version
   * that knows no watch; other errors are waited out.
   */
  watch(options?: WatchOptions): AsyncIterable<WatchEvent>;
}

/** What a watch is made of: a stream to the node that is next, and time. */
export interface WatchTransport {
  /** how many nodes there are to try */
  readonly nodes: number;
  /** aborts when the client is closed, which ends its watches */
  readonly closed: AbortSignal;
  /** To the `turn`-th node in the order of preference. */
  stream(turn: number, call: RpcStreamCall): Promise<RpcOutcome>;
  /** Resolves after the time, or when the signal aborts. */
  pause(ms: number, signal: AbortSignal): Promise<void>;
}

/** The body of `WatchApi.watch`. */
export async function* watchResources(
  transport: WatchTransport,
  options: WatchOptions,
): AsyncGenerator<WatchEvent> {
  const stop = new AbortController();
  const onAbort = (): void => {
    stop.abort();
  };
  const signals = [transport.closed, options.signal];
  for (const signal of signals) {
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
  }
  const feed = new Feed(stop.signal);
  const running = keepWatching(transport, options, feed, stop.signal);
  try {
    for (;;) {
      const events = await feed.take();
      if (!events) break;
      yield* events;
    }
    if (!stop.signal.aborted) await running;
  } finally {
    stop.abort();
    for (const signal of signals) signal?.removeEventListener('abort', onAbort);
    await running.catch(() => {});
  }
}

async function keepWatching(
  transport: WatchTransport,
  options: WatchOptions,
  feed: Feed,
  signal: AbortSignal,
): Promise<void> {
  const { kinds = watchKinds, name = '' } = options;
  const fold = new WatchFold();
  const trouble = new Trouble(options.onTrouble);
  let waitMs = minRetryMs;
  let unknowing = 0;
  try {
    for (let turn = 0; !signal.aborted; turn++) {
      const start = { kinds, name, after: fold.position, listAgain: fold.needsList };
      fold.begin();
      let hasCome = false;
      const outcome = await transport.stream(turn, {
        method: 'Watch',
        request: encodeWatchStart(start),
        connectTimeoutMs,
        signal,
        received: (message) => {
          hasCome = true;
          trouble.over();
          return feed.put(fold.apply(decodeWatchBatch(message) satisfies WatchBatch));
        },
      });
      if (signal.aborted) return;
      if (hasCome) waitMs = minRetryMs;
      const error = errorOf(outcome);
      unknowing = hasCode(error, 'FAILED_PRECONDITION') ? unknowing + 1 : 0;
      const isFinal = hasCode(error, 'INVALID_ARGUMENT') || unknowing >= transport.nodes;
      if (isFinal) throw StorError.from(error);
      if (hasCode(error, 'COMPACTED', 'TOO_SLOW')) fold.expire();
      // it is this node that has just said so: another one need not be asked
      if (hasCode(error, 'COMPACTED') && !hasCome) turn -= 1;
      else trouble.tell(error);
      await transport.pause(waitMs, signal);
      waitMs = Math.min(waitMs * 2, maxRetryMs);
    }
  } finally {
    feed.end();
  }
}

function errorOf(outcome: RpcOutcome): StorError {
  switch (outcome.type) {
    case 'refused':
      return outcome.error;
    case 'lost':
      return new StorError('UNAVAILABLE', 'the connection broke', { cause: outcome.cause });
    case 'answered':
      return new StorError('UNAVAILABLE', 'the node ended the watch');
    case 'not-sent':
    case 'timeout':
    case 'aborted':
      return new StorError('UNAVAILABLE', 'the node does not answer');
  }
}

/** Says only what is new. */
class Trouble {
  readonly #tell: ((error: StorError | null) => void) | undefined;
  #message = '';

  constructor(tell: ((error: StorError | null) => void) | undefined) {
    this.#tell = tell;
  }

  tell(error: StorError): void {
    if (error.message === this.#message) return;
    this.#message = error.message;
    this.#tell?.(error);
  }

  over(): void {
    if (this.#message === '') return;
    this.#message = '';
    this.#tell?.(null);
  }
}

/**
 * Hands the events of one batch to the reader; the next batch is taken from the wire when they are
 * read, so that memory here is bounded too, and the node notices who is slow.
 */
class Feed {
  readonly #signal: AbortSignal;
  #events: WatchEvent[] = [];
  #isOver = false;
  #reader: () => void = () => {};
  #writer: () => void = () => {};

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener('abort', () => {
      this.end();
    });
  }

  put(events: WatchEvent[]): Promise<void> {
    if (events.length === 0 || this.#isOver) return Promise.resolve();
    this.#events = events;
    this.#reader();
    return new Promise((resolve) => {
      this.#writer = resolve;
    });
  }

  /** null: it is over */
  async take(): Promise<WatchEvent[] | null> {
    this.#writer();
    while (this.#events.length === 0 && !this.#isOver) {
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
    if (this.#signal.aborted || this.#events.length === 0) return null;
    const events = this.#events;
    this.#events = [];
    return events;
  }

  end(): void {
    this.#isOver = true;
    this.#reader();
    this.#writer();
  }
}
