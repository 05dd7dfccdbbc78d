import {
  Client,
  Metadata,
  credentials as grpcCredentials,
  type ChannelCredentials,
  type ClientWritableStream,
  type ServiceError,
} from '@grpc/grpc-js';
import type { Clock, Logger, Random } from '@stor/runtime';
import { fromBytes, sendPath, toBytes } from './raft-rpc.ts';
import { splitBatch } from './raft-frames.ts';

/** Bounds of what waits for one peer; Raft sends again what is dropped. */
const maxQueuedBatches = 1_024;
const maxQueuedBytes = 16 * 1024 * 1024;
/** A peer that has not accepted the stream by then is tried anew (ms). */
const connectTimeoutMs = 2_000;
/** First and longest wait before the next try; half of it is chance (ms). */
const minBackoffMs = 50;
const maxBackoffMs = 1_000;
/** An open connection is probed this often, and given up after this long without answer (ms). */
const keepaliveMs = 2_000;
const keepaliveTimeoutMs = 2_000;

export interface PeerLinkOptions {
  address: string;
  /** of every stream */
  metadata: Record<string, string>;
  clock: Clock;
  random: Random;
  logger: Logger;
  credentials?: ChannelCredentials | undefined;
}

type Stream = ClientWritableStream<Uint8Array>;

/**
 * Raft messages on their way to one peer: a stream that is opened when there is something to send
 * and opened again, with back-off, when it broke. Batches keep their order or are lost.
 */
export class PeerLink {
  readonly #options: PeerLinkOptions;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #client: Client | null = null;
  #stream: Stream | null = null;
  #state: 'idle' | 'connecting' | 'open' | 'full' | 'backingOff' | 'closed' = 'idle';
  #backoffMs = minBackoffMs;
  #cancelTimer: () => void = () => {};
  #reachable: boolean | null = null;

  constructor(options: PeerLinkOptions) {
    this.#options = options;
  }

  /** Never blocks nor throws. What does not fit is dropped. */
  send(batch: Uint8Array): void {
    if (this.#state === 'closed' || this.#state === 'backingOff') return;
    const full =
      this.#queue.length >= maxQueuedBatches || this.#queuedBytes + batch.length > maxQueuedBytes;
    // one batch may be larger than the whole queue: a snapshot
    if (full && this.#queue.length > 0) return;
    this.#queue.push(batch);
    this.#queuedBytes += batch.length;
    if (this.#state === 'idle') this.#connect();
    else if (this.#state === 'open') this.#drain();
  }

  close(): void {
    if (this.#state === 'closed') return;
    this.#drop();
    this.#state = 'closed';
  }

  #connect(): void {
    const { address, clock, credentials } = this.#options;
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(this.#options.metadata)) metadata.set(key, value);
    // a client of its own for each try: gRPC would sit out its own back-off when the peer is back
    this.#client = new Client(address, credentials ?? grpcCredentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_retries': 0,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    });
    const stream: Stream = this.#client.makeClientStreamRequest(
      sendPath,
      toBytes,
      fromBytes,
      metadata,
      (error: ServiceError | null) => {
        this.#broken(stream, error?.message ?? 'the peer ended the stream');
      },
    );
    this.#stream = stream;
    this.#state = 'connecting';
    stream.on('error', (error: Error) => {
      this.#broken(stream, error.message);
    });
    // the peer answers with headers once it has accepted us
    stream.on('metadata', () => {
      this.#accepted(stream);
    });
    stream.on('drain', () => {
      if (this.#stream !== stream || this.#state !== 'full') return;
      this.#state = 'open';
      this.#drain();
    });
    this.#cancelTimer = clock.after(connectTimeoutMs, () => {
      this.#broken(stream, `no answer within ${connectTimeoutMs} ms`);
    });
  }

  #accepted(stream: Stream): void {
    if (this.#stream !== stream || this.#state !== 'connecting') return;
    this.#cancelTimer();
    this.#backoffMs = minBackoffMs;
    this.#state = 'open';
    this.#noteReachable(true, '');
    this.#drain();
  }

  #drain(): void {
    while (this.#state === 'open' && this.#stream) {
      const batch = this.#queue.shift();
      if (!batch) return;
      this.#queuedBytes -= batch.length;
      let room = true;
      for (const piece of splitBatch(batch)) room = this.#stream.write(piece);
      if (!room) this.#state = 'full';
    }
  }

  #broken(stream: Stream, reason: string): void {
    if (this.#stream !== stream) return;
    this.#noteReachable(false, reason);
    this.#drop();
    this.#state = 'backingOff';
    const waitMs = this.#backoffMs * (0.5 + this.#options.random.next() / 2);
    this.#backoffMs = Math.min(this.#backoffMs * 2, maxBackoffMs);
    this.#cancelTimer = this.#options.clock.after(waitMs, () => {
      this.#state = 'idle';
    });
  }

  #drop(): void {
    this.#cancelTimer();
    const stream = this.#stream;
    const client = this.#client;
    this.#stream = null;
    this.#client = null;
    this.#queue = [];
    this.#queuedBytes = 0;
    stream?.cancel();
    client?.close();
  }

  /** Logs changes only: a dead peer is tried for as long as it is dead. */
  #noteReachable(reachable: boolean, reason: string): void {
    if (this.#reachable === reachable) return;
    this.#reachable = reachable;
    const { logger, address } = this.#options;
    if (reachable) logger.info({ peer: address }, 'connected to a member of the cluster store');
    else logger.warn({ peer: address, reason }, 'no connection to a member of the cluster store');
  }
}
