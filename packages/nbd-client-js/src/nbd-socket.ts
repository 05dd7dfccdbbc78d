import net from 'node:net';
import { ClientHandshake } from './core/client-handshake.ts';
import type { HandshakeResult, HandshakeWishes } from './core/client-handshake.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdAddress } from './nbd-uri.ts';

/** Largest piece that one read of the socket takes (bytes); one such buffer per connection. */
const receiveBytes = 512 * 1024;

/** A connection after its handshake. */
export interface NegotiatedSocket {
  socket: net.Socket;
  result: HandshakeResult;
  /** Set by the owner in the turn in which it gets this; throws end the connection. */
  onBytes: (bytes: Buffer, start: number, end: number) => void;
  /** Called once when the connection is over. */
  onClose: (error: NbdError) => void;
}

export interface OpenOptions {
  signal?: AbortSignal | undefined;
  /** for connecting and handshake together (ms) */
  connectTimeoutMs: number;
  /** until the server's first bytes (ms) */
  greetingTimeoutMs?: number | undefined;
}

/**
 * Connects and shakes hands. Rejects with DISCONNECTED, TIMEOUT, ABORTED, REFUSED or PROTOCOL, and
 * leaves no socket behind then.
 */
export function openNegotiated(
  address: NbdAddress,
  wishes: HandshakeWishes,
  options: OpenOptions,
): Promise<NegotiatedSocket> {
  return new Promise((resolve, reject) => {
    new Opening(address, wishes, options, resolve, reject);
  });
}

/** One connection from `connect` to its end; the promise is settled when the handshake is over. */
class Opening {
  readonly #name: string;
  readonly #handshake: ClientHandshake;
  readonly #socket: net.Socket;
  readonly #resolve: (negotiated: NegotiatedSocket) => void;
  readonly #reject: (error: NbdError) => void;
  readonly #release: () => void;
  #negotiated: NegotiatedSocket | null = null;
  #failure: NbdError | null = null;
  #greetingTimer: NodeJS.Timeout | undefined;
  /** the part of the handshake that is not complete yet */
  #kept: Buffer = Buffer.alloc(0);

  constructor(
    address: NbdAddress,
    wishes: HandshakeWishes,
    options: OpenOptions,
    resolve: (negotiated: NegotiatedSocket) => void,
    reject: (error: NbdError) => void,
  ) {
    this.#name = 'path' in address ? address.path : `${address.host}:${address.port}`;
    this.#handshake = new ClientHandshake(wishes);
    this.#resolve = resolve;
    this.#reject = reject;
    this.#socket = net.connect({
      ...address,
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafeSlow(receiveBytes),
        callback: (length, buffer) => {
          this.#receive(buffer as Buffer, length);
          return true;
        },
      },
    });
    this.#release = this.#watch(options);
    this.#socket.on('error', (cause) => {
      const text = `the connection to ${this.#name} failed: ${cause.message}`;
      this.#failure ??= new NbdError('DISCONNECTED', text, { cause });
    });
    this.#socket.on('close', () => {
      this.#closed();
    });
  }

  /** Gives up at the timeout or the signal; the returned function ends that. */
  #watch({ signal, connectTimeoutMs, greetingTimeoutMs }: OpenOptions): () => void {
    if (greetingTimeoutMs !== undefined) {
      this.#greetingTimer = setTimeout(() => {
        const text = `no greeting of an NBD server from ${this.#name} within ${greetingTimeoutMs} ms`;
        this.#fail(new NbdError('TIMEOUT', text));
      }, greetingTimeoutMs);
    }
    const timer = setTimeout(() => {
      const text = `no NBD handshake with ${this.#name} within ${connectTimeoutMs} ms`;
      this.#fail(new NbdError('TIMEOUT', text));
    }, connectTimeoutMs);
    const onAbort = (): void => {
      this.#fail(new NbdError('ABORTED', 'connecting was aborted', { cause: signal?.reason }));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    return () => {
      clearTimeout(timer);
      clearTimeout(this.#greetingTimer);
      signal?.removeEventListener('abort', onAbort);
    };
  }

  #fail(error: NbdError): void {
    this.#failure ??= error;
    this.#socket.destroy();
  }

  #receive(buffer: Buffer, length: number): void {
    if (this.#failure) return;
    try {
      if (this.#negotiated) this.#negotiated.onBytes(buffer, 0, length);
      else this.#shake(buffer.subarray(0, length));
    } catch (error) {
      if (error instanceof NbdError && error.code === 'REFUSED') {
        this.#failure = error;
        // the goodbye still goes out
        this.#socket.destroySoon();
      } else if (error instanceof NbdError) {
        this.#fail(error);
      } else {
        const text = `the answer could not be handled: ${String(error)}`;
        this.#fail(new NbdError('PROTOCOL', text, { cause: error }));
      }
    }
  }

  #shake(chunk: Buffer): void {
    clearTimeout(this.#greetingTimer);
    const bytes = this.#kept.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#kept, chunk]);
    let used: number;
    try {
      used = this.#handshake.receive(bytes, 0, bytes.length);
    } finally {
      for (const part of this.#handshake.output.splice(0)) this.#socket.write(part);
    }
    this.#kept = bytes.subarray(used);
    const { result } = this.#handshake;
    if (!result) return;
    if (this.#kept.length > 0) {
      throw new NbdError('PROTOCOL', 'the server spoke without being asked');
    }
    this.#release();
    this.#negotiated = { socket: this.#socket, result, onBytes: () => {}, onClose: () => {} };
    this.#resolve(this.#negotiated);
  }

  #closed(): void {
    this.#release();
    const text = this.#negotiated
      ? `the connection to ${this.#name} was closed`
      : `${this.#name} closed the connection during the handshake`;
    const error = this.#failure ?? new NbdError('DISCONNECTED', text);
    if (this.#negotiated) this.#negotiated.onClose(error);
    else this.#reject(error);
  }
}
