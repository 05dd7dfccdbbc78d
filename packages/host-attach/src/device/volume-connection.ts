import { isPublicationEnded, StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import {
  errno,
  NbdError,
  ReconnectingNbdClient,
  transmissionFlag,
  type ExportAddress,
  type ReconnectLimits,
} from 'nbd-client-js';
import { endsVolume } from '../core/device-errno.ts';
import { piecesOf } from '../core/request-pieces.ts';
import type { DeviceSpec } from './device-processes.ts';
import type { DeviceVolume } from './device-volume.ts';

export const deviceReconnectLimits: Readonly<Partial<ReconnectLimits>> = {
  // An error on a mounted file system is the worst: ext4 turns read-only, xfs shuts down. An outage that
  // people can end in minutes is waited for.
  giveUpMs: 10 * 60_000,
  // whoever starts a device waits for it
  firstGiveUpMs: 30_000,
  maxUnanswered: 1_024,
};

/**
 * An idle device asks for a byte so often (ms). So its connection stands while nobody uses it: the
 * volume stays with its primary, nobody takes its publication for unused, and its state is true.
 */
const keepAliveMs = 10_000;
/** Without an answer by then it is tried again later (ms). */
const keepAliveTimeoutMs = 60_000;
/** Of requests that fail one line is written in so long, with their number (ms). */
const failureLogMs = 10_000;

type ConnectionSpec = Pick<
  DeviceSpec,
  'exportName' | 'addresses' | 'tls' | 'readOnly' | 'sizeBytes'
>;

interface ConnectionHost {
  clock: Clock;
  logger: Logger;
  limits?: Partial<ReconnectLimits>;
}

/** The volume over one client; over another one when it has grown, as a connection has one size. */
export class VolumeConnection implements DeviceVolume {
  readonly #spec: ConnectionSpec;
  readonly #host: ConnectionHost;
  #client: ReconnectingNbdClient;
  #addresses: readonly ExportAddress[];
  #failure: string | null = null;
  #closing = false;
  #failed = 0;
  #loggedMs = -Infinity;
  /** requests that were made, and those that were answered */
  #asked = 0;
  #answered = 0;
  #cancelKeepAlive: () => void = () => {};
  /** clients that answer what they were asked still */
  readonly #leaving = new Map<ReconnectingNbdClient, Promise<void>>();

  private constructor(spec: ConnectionSpec, host: ConnectionHost, client: ReconnectingNbdClient) {
    this.#spec = spec;
    this.#host = host;
    this.#client = client;
    this.#addresses = spec.addresses;
    this.#keepAliveLater();
  }

  /** NOT_FOUND, FAILED_PRECONDITION (refused, or smaller than it must be), UNAVAILABLE, ABORTED. */
  static async open(
    spec: ConnectionSpec,
    host: ConnectionHost,
    signal: AbortSignal,
  ): Promise<VolumeConnection> {
    const client = await connect(spec, host, spec.addresses, signal);
    const isReadOnly = (client.flags & transmissionFlag.readOnly) !== 0;
    const refuse = async (text: string): Promise<never> => {
      await client.close();
      throw new StorError('FAILED_PRECONDITION', text);
    };
    const { sizeBytes } = client;
    if (sizeBytes < spec.sizeBytes) {
      return refuse(
        `the volume has ${sizeBytes} bytes, less than the ${spec.sizeBytes} of the device`,
      );
    }
    if (isReadOnly && !spec.readOnly) return refuse('the volume may only be read by this host');
    return new VolumeConnection(spec, host, client);
  }

  get address(): string | null {
    return this.#client.address;
  }

  /** `transmissionFlag` bits of the server */
  get flags(): number {
    return this.#client.flags;
  }

  /** Why every request fails from now on. */
  get failure(): string | null {
    return this.#failure;
  }

  setAddresses(addresses: readonly ExportAddress[]): void {
    try {
      this.#client.setAddresses(addresses);
    } catch (error) {
      throw connectError(error);
    }
    this.#addresses = addresses;
  }

  /** From then on the volume has this size here. UNAVAILABLE when it has not grown so far. */
  async grow(sizeBytes: number, signal: AbortSignal): Promise<void> {
    if (sizeBytes <= this.#client.sizeBytes) return;
    const larger = await connect(this.#spec, this.#host, this.#addresses, signal);
    const old = this.#client;
    if (larger.sizeBytes < sizeBytes) {
      await larger.close();
      const text = `the volume has ${larger.sizeBytes} bytes and not ${sizeBytes} yet`;
      throw new StorError('UNAVAILABLE', text);
    }
    if (this.#closing) {
      await larger.close();
      throw new StorError('ABORTED', 'the device is being taken away');
    }
    this.#client = larger;
    // What the old one was asked it answers, beside the new one: requests that overlap and are not
    // answered may take effect in any order, and a FLUSH covers what either has answered.
    this.#leaving.set(
      old,
      old.disconnect().finally(() => this.#leaving.delete(old)),
    );
  }

  async read(offset: number, target: Buffer): Promise<void> {
    const client = this.#client;
    const pieces = piecesOf(offset, target.length, client.blockSizes.maximum);
    const parts = pieces.map((piece) => {
      const start = piece.offset - offset;
      const part = target.subarray(start, start + piece.length);
      return client.read(piece.offset, piece.length, part);
    });
    await this.#watch(client, allSettled(parts));
  }

  async write(offset: number, bytes: Buffer, { fua } = { fua: false }): Promise<void> {
    const client = this.#client;
    const pieces = piecesOf(offset, bytes.length, client.blockSizes.maximum);
    const parts = pieces.map((piece) => {
      const start = piece.offset - offset;
      return client.write(piece.offset, bytes.subarray(start, start + piece.length), { fua });
    });
    await this.#watch(client, allSettled(parts));
  }

  async zero(
    offset: number,
    length: number,
    { keepAllocated }: { keepAllocated: boolean },
  ): Promise<void> {
    const client = this.#client;
    if ((client.flags & transmissionFlag.sendWriteZeroes) === 0) {
      throw new NbdError('IO', 'the server has no WRITE_ZEROES', { errno: errno.ENOTSUP });
    }
    await this.#watch(client, client.writeZeroes(offset, length, { noHole: keepAllocated }));
  }

  async flush(): Promise<void> {
    const client = this.#client;
    await this.#watch(client, client.flush());
  }

  /** Makes everything durable and says goodbye. Works twice. */
  async leave(): Promise<void> {
    if (this.#closing) return;
    await this.flush();
    this.#closing = true;
    this.#cancelKeepAlive();
    await Promise.all([this.#client.disconnect(), ...this.#leaving.values()]);
  }

  /** At once: what is not answered fails, and all that comes. Works twice. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#cancelKeepAlive();
    const clients = [this.#client, ...this.#leaving.keys()];
    await Promise.all(clients.map((client) => client.close()));
  }

  #keepAliveLater(): void {
    const seen = this.#answered;
    this.#cancelKeepAlive = this.#host.clock.after(keepAliveMs, () => {
      const isIdle = this.#asked === this.#answered && this.#answered === seen;
      void (isIdle ? this.#keepAlive() : Promise.resolve()).then(() => {
        if (!this.#closing && this.#failure === null) this.#keepAliveLater();
      });
    });
  }

  /** Never rejects. */
  async #keepAlive(): Promise<void> {
    const client = this.#client;
    const stop = new AbortController();
    const cancel = this.#host.clock.after(keepAliveTimeoutMs, () => stop.abort());
    try {
      await client.read(0, 1, undefined, { signal: stop.signal });
    } catch (error) {
      if (!stop.signal.aborted) this.#noteFailure(client, error);
    }
    cancel();
  }

  async #watch<T>(client: ReconnectingNbdClient, request: Promise<T>): Promise<T> {
    this.#asked += 1;
    try {
      return await request;
    } catch (error) {
      this.#noteFailure(client, error);
      throw error;
    } finally {
      this.#answered += 1;
    }
  }

  #noteFailure(client: ReconnectingNbdClient, error: unknown): void {
    if (this.#closing) return;
    const { message } = error as Error;
    const { clock, logger } = this.#host;
    if (endsVolume(error) && client === this.#client && this.#failure === null) {
      this.#failure = message;
      logger.error({ error: message }, 'the volume is lost to this device: every request fails');
    }
    this.#failed += 1;
    if (clock.monotonicMs() - this.#loggedMs < failureLogMs) return;
    logger.error({ error: message, requests: this.#failed }, 'requests have failed');
    this.#failed = 0;
    this.#loggedMs = clock.monotonicMs();
  }
}

/** Settles when all have: until then their bytes are in use. */
async function allSettled(requests: Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(requests)) {
    if (result.status === 'rejected') throw result.reason;
  }
}

async function connect(
  { exportName, tls }: ConnectionSpec,
  { limits }: ConnectionHost,
  addresses: readonly ExportAddress[],
  signal: AbortSignal,
): Promise<ReconnectingNbdClient> {
  try {
    return await ReconnectingNbdClient.connect({
      ...deviceReconnectLimits,
      ...limits,
      addresses,
      exportName,
      ...(tls ? { tls } : {}),
      metaContexts: [],
      isFinal: ({ message }) => isPublicationEnded(message, exportName),
      signal,
    });
  } catch (error) {
    throw connectError(error);
  }
}

function connectError(error: unknown): StorError {
  if (!(error instanceof NbdError)) return StorError.from(error);
  const options = { cause: error };
  const { code, message } = error;
  if (code === 'ABORTED') return new StorError('ABORTED', message, options);
  if (code === 'INVALID_ARGUMENT') return new StorError('INVALID_ARGUMENT', message, options);
  if (code === 'REFUSED' || code === 'TLS') {
    return new StorError('FAILED_PRECONDITION', `the volume is refused: ${message}`, options);
  }
  return new StorError('UNAVAILABLE', `no node serves the volume: ${message}`, options);
}
