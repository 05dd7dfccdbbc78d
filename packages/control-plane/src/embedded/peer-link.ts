import type { OutgoingStream, RpcTransport } from '../rpc/rpc-transport.ts';
import { versionHeader } from './raft-rpc.ts';
import type { Clock, Logger, Random } from '@stor/runtime';

/** Bounds of what waits for one peer; Raft sends again what is dropped. */
const maxQueuedBatches = 1_024;
const maxQueuedBytes = 16 * 1024 * 1024;
/** A peer that has not accepted the stream by then is tried anew (ms). */
const connectTimeoutMs = 2_000;
/** First and longest wait before the next try; half of it is chance (ms). */
const minBackoffMs = 50;
const maxBackoffMs = 1_000;

export interface PeerLinkOptions {
  address: string;
  /** of every stream */
  metadata: Record<string, string>;
  clock: Clock;
  random: Random;
  logger: Logger;
  transport: RpcTransport;
  /** told each time when the connection has broken or could not be made @default nobody */
  broken?: () => void;
}

/**
 * Raft messages on their way to one peer: a stream that is opened when there is something to send
 * and opened again, with back-off, when it broke. Batches keep their order or are lost.
 */
export class PeerLink {
  readonly #options: PeerLinkOptions;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #stream: OutgoingStream | null = null;
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
    const { address, metadata, clock, transport } = this.#options;
    const stream = transport.openStream(address, metadata, {
      accepted: (header) => {
        this.#accepted(stream, Number(header(versionHeader) || '1'));
      },
      drained: () => {
        if (this.#stream !== stream || this.#state !== 'full') return;
        this.#state = 'open';
        this.#drain();
      },
      broken: (reason) => {
        this.#broken(stream, reason);
      },
    });
    this.#stream = stream;
    this.#state = 'connecting';
    this.#cancelTimer = clock.after(connectTimeoutMs, () => {
      this.#broken(stream, `no answer within ${connectTimeoutMs} ms`);
    });
  }

  /** `version`: what both sides speak; a member that names none speaks the first. */
  #accepted(stream: OutgoingStream, version: number): void {
    if (this.#stream !== stream || this.#state !== 'connecting') return;
    this.#cancelTimer();
    this.#backoffMs = minBackoffMs;
    this.#state = 'open';
    this.#noteReachable(true, '', version);
    this.#drain();
  }

  #drain(): void {
    while (this.#state === 'open' && this.#stream) {
      const batch = this.#queue.shift();
      if (!batch) return;
      this.#queuedBytes -= batch.length;
      if (!this.#stream.write(batch)) this.#state = 'full';
    }
  }

  #broken(stream: OutgoingStream, reason: string): void {
    if (this.#stream !== stream) return;
    this.#noteReachable(false, reason);
    this.#drop();
    this.#state = 'backingOff';
    const waitMs = this.#backoffMs * (0.5 + this.#options.random.next() / 2);
    this.#backoffMs = Math.min(this.#backoffMs * 2, maxBackoffMs);
    this.#cancelTimer = this.#options.clock.after(waitMs, () => {
      this.#state = 'idle';
    });
    this.#options.broken?.();
  }

  #drop(): void {
    this.#cancelTimer();
    const stream = this.#stream;
    this.#stream = null;
    this.#queue = [];
    this.#queuedBytes = 0;
    stream?.close();
  }

  /** Logs changes only: a dead peer is tried for as long as it is dead. */
  #noteReachable(reachable: boolean, reason: string, version = 0): void {
    if (this.#reachable === reachable) return;
    this.#reachable = reachable;
    const { logger, address } = this.#options;
    if (reachable)
      logger.info({ peer: address, version }, 'connected to a member of the cluster store');
    else logger.warn({ peer: address, reason }, 'no connection to a member of the cluster store');
  }
}
