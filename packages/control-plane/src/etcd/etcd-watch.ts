import { hasCode, StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { WatchEvent } from '../cluster-store.ts';
import { judgeEtcdError } from '../core/etcd/etcd-errors.ts';
import type { EtcdWatchResponse } from '../core/etcd/etcd-messages.ts';
import { keyBytes, rangeEnd } from '../core/etcd/etcd-values.ts';
import { WatchAssembler } from '../core/etcd/watch-assembler.ts';
import { pause } from '../resources/pause.ts';
import type { EtcdCalls } from './etcd-calls.ts';
import type { EtcdEndpoint } from './etcd-endpoint.ts';

/** Batches that wait for the reader before the stream is paused. */
const maxWaiting = 64;
/** First and longest wait before a broken stream is opened again (ms). */
const minRetryMs = 20;
const maxRetryMs = 1_000;
/** A server that does not confirm a new stream within this is left (ms). */
const openTimeoutMs = 2_000;

export interface EtcdWatchOptions {
  calls: EtcdCalls;
  /** of the keys that are watched, with `keyPrefix` in front */
  prefix: string;
  /** taken off the keys */
  keyPrefix: string;
  afterRevision: number;
  clock: Clock;
  logger: Logger;
  signal: AbortSignal;
  closed: AbortSignal;
}

/**
 * The body of `ClusterStore.watch` over etcd: one stream at a time, opened again elsewhere after
 * what was given out last. Ends when either signal aborts.
 */
export async function* watchEtcd(options: EtcdWatchOptions): AsyncGenerator<WatchEvent[]> {
  const { calls, clock, logger, signal, closed } = options;
  const assembler = new WatchAssembler(options.keyPrefix, options.afterRevision);
  let retryMs = minRetryMs;
  let wasDenied = false;
  while (!signal.aborted && !closed.aborted) {
    const endpoint = calls.current;
    const limits = { timeoutMs: openTimeoutMs, signal };
    const refused = await endpoint.signIn(wasDenied, limits);
    if (refused?.type === 'refused') {
      const verdict = judgeEtcdError(refused.message);
      if (verdict.fate === 'final') throw verdict.error;
    }
    // after a break it may be another one, or one that has gone back: it would be silent for ever
    const unknown = await calls.trust(endpoint, limits);
    if (unknown) {
      calls.leave(endpoint);
      await pause(clock, retryMs, signal);
      retryMs = Math.min(retryMs * 2, maxRetryMs);
      continue;
    }
    const stream = new EtcdWatchStream(options, endpoint, assembler);
    try {
      for (;;) {
        const batch = await stream.next();
        if (batch === null) break;
        retryMs = minRetryMs;
        yield batch;
      }
    } finally {
      stream.close();
    }
    if (signal.aborted || closed.aborted) return;
    // a token that the server has forgotten is told as this too: once more, with a new one
    const isDenied = hasCode(stream.error, 'PERMISSION_DENIED', 'UNAUTHENTICATED');
    if (stream.error && (!isDenied || wasDenied)) throw stream.error;
    wasDenied = isDenied;
    logger.debug({ endpoint: endpoint.address, reason: stream.reason }, 'etcd watch broke');
    if (!stream.moved) {
      calls.leave(endpoint);
      await pause(clock, retryMs, signal);
      retryMs = Math.min(retryMs * 2, maxRetryMs);
    }
  }
}

class EtcdWatchStream {
  /** why the watch as a whole cannot go on */
  error: StorError | null = null;
  /** why this stream ended; another may go on */
  reason = '';
  /** another server is in use now */
  moved = false;
  readonly #options: EtcdWatchOptions;
  readonly #endpoint: EtcdEndpoint;
  readonly #assembler: WatchAssembler;
  readonly #opened: ReturnType<EtcdEndpoint['openStream']>;
  readonly #waiting: WatchEvent[][] = [];
  readonly #undo: (() => void)[] = [];
  #isOver = false;
  #wake: () => void = () => {};
  readonly #cancelOpening: () => void;

  constructor(options: EtcdWatchOptions, endpoint: EtcdEndpoint, assembler: WatchAssembler) {
    this.#options = options;
    this.#endpoint = endpoint;
    this.#assembler = assembler;
    assembler.restart();
    this.#opened = endpoint.openStream('Watch', 'Watch');
    const { stream } = this.#opened;
    stream.on('data', (response: EtcdWatchResponse) => {
      this.#take(response);
    });
    stream.on('error', (error: Error & { details?: string }) => {
      this.#endWith(error.details ?? error.message);
    });
    stream.on('end', () => {
      this.#endWith('the server ended the stream');
    });
    this.#undo.push(
      options.calls.onMove(() => {
        this.moved = true;
        this.#endWith('another server is used');
      }),
    );
    this.#cancelOpening = options.clock.after(openTimeoutMs, () => {
      this.#endWith('the server did not confirm the watch in time');
    });
    for (const signal of [options.signal, options.closed]) this.#endOn(signal);
    stream.write({
      createRequest: {
        key: keyBytes(options.prefix),
        rangeEnd: rangeEnd(options.prefix),
        startRevision: assembler.afterRevision + 1,
        // of a deleted key: its lease
        prevKv: true,
        fragment: true,
      },
    });
  }

  /** The next batch; null when the stream has ended and all of it was read. */
  async next(): Promise<WatchEvent[] | null> {
    for (;;) {
      const { signal, closed } = this.#options;
      if (signal.aborted || closed.aborted) return null;
      const batch = this.#waiting.shift();
      if (batch) {
        if (this.#waiting.length === 0 && !this.#isOver) this.#opened.stream.resume();
        return batch;
      }
      if (this.#isOver) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.#isOver = true;
    this.#cancelOpening();
    for (const undo of this.#undo.splice(0)) undo();
    this.#opened.close();
  }

  #take(response: EtcdWatchResponse): void {
    if (this.#isOver) return;
    try {
      this.#options.calls.observe(response.header, this.#endpoint);
      if (response.created) this.#cancelOpening();
      if (response.canceled) {
        this.#refuse(response);
        return;
      }
      this.#waiting.push(...this.#assembler.add(response));
    } catch (error) {
      this.error = StorError.from(error);
      this.#endWith(this.error.message);
    }
    if (this.#waiting.length >= maxWaiting) this.#opened.stream.pause();
    this.#wake();
  }

  #refuse({ compactRevision, cancelReason }: EtcdWatchResponse): void {
    const after = this.#assembler.afterRevision;
    const verdict = judgeEtcdError(cancelReason);
    if (compactRevision !== '0') {
      this.error = new StorError(
        'FAILED_PRECONDITION',
        `changes after revision ${after} are no longer kept (etcd is compacted up to ${compactRevision}): list again and watch from there`,
      );
    } else if (verdict.fate === 'final') this.error = verdict.error;
    this.#endWith(cancelReason);
  }

  /** The batches that came before are still read. */
  #endWith(reason: string): void {
    if (this.#isOver) return;
    this.reason = reason;
    this.close();
    this.#wake();
  }

  #endOn(signal: AbortSignal): void {
    const end = (): void => {
      this.#endWith('the watch is over');
    };
    signal.addEventListener('abort', end, { once: true });
    this.#undo.push(() => {
      signal.removeEventListener('abort', end);
    });
    if (signal.aborted) end();
  }
}
