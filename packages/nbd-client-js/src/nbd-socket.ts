import { ClientHandshake } from './core/client-handshake.ts';
import type { HandshakeResult, HandshakeWishes } from './core/client-handshake.ts';
import type { NbdClock } from './nbd-clock.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdNetwork, NbdStream, TlsClientStart } from './nbd-network.ts';
import type { NbdAddress } from './nbd-uri.ts';
import { isTlsError, tlsFailure } from './tls-client.ts';
import { tlsStartOf } from './tls-options.ts';
import type { NbdTlsOptions } from './tls-options.ts';

/** Largest piece that one read of the connection takes (bytes); one such buffer per connection. */
const receiveBytes = 512 * 1024;
/** How long a server that refused may take to close, after the goodbye (ms). */
const goodbyeMs = 1_000;

/** A connection after its handshake. */
export interface NegotiatedSocket {
  socket: NbdStream;
  result: HandshakeResult;
  /** Set by the owner in the turn in which it gets this; throws end the connection. */
  onBytes: (bytes: Buffer, start: number, end: number) => void;
  /** Called once when the connection is over. */
  onClose: (error: NbdError) => void;
}

export interface OpenOptions {
  network: NbdNetwork;
  clock: NbdClock;
  signal?: AbortSignal | undefined;
  /** for connecting and handshake together (ms) */
  connectTimeoutMs: number;
  /** until the server's first bytes (ms) */
  greetingTimeoutMs?: number | undefined;
  /** absent: in the clear */
  tls?: NbdTlsOptions | undefined;
}

/**
 * Connects and shakes hands. Rejects with DISCONNECTED, TLS, TIMEOUT, ABORTED, REFUSED or PROTOCOL, and
 * leaves no socket behind then.
 */
export function openNegotiated(
  address: NbdAddress,
  wishes: HandshakeWishes,
  options: OpenOptions,
): Promise<NegotiatedSocket> {
  return new Promise((resolve, reject) => {
    const { tls } = options;
    // what is wrong with certificates and keys is said before anybody is asked
    const start = tls ? tlsStartOf(tls, address) : null;
    const all = { ...wishes, ...(tls ? { tls: tls.mode ?? 'require' } : {}) };
    new Opening(address, all, { ...options, start }, resolve, reject).start();
  });
}

/** One connection from `connect` to its end; the promise is settled when the handshake is over. */
class Opening {
  readonly #address: NbdAddress;
  readonly #name: string;
  readonly #handshake: ClientHandshake;
  readonly #options: OpenOptions & { start: TlsClientStart | null };
  readonly #resolve: (negotiated: NegotiatedSocket) => void;
  readonly #reject: (error: NbdError) => void;
  readonly #connecting = new AbortController();
  #socket: NbdStream | null = null;
  #release: () => void = () => {};
  #cancelGreeting: () => void = () => {};
  #cancelGoodbye: () => void = () => {};
  #negotiated: NegotiatedSocket | null = null;
  #failure: NbdError | null = null;
  #isSecuring = false;
  /** TLS has been agreed on */
  #isSecure = false;
  /** the part of the handshake that is not complete yet */
  #kept: Buffer = Buffer.alloc(0);

  constructor(
    address: NbdAddress,
    wishes: HandshakeWishes,
    options: OpenOptions & { start: TlsClientStart | null },
    resolve: (negotiated: NegotiatedSocket) => void,
    reject: (error: NbdError) => void,
  ) {
    this.#address = address;
    this.#name = 'path' in address ? address.path : `${address.host}:${address.port}`;
    this.#handshake = new ClientHandshake(wishes);
    this.#options = options;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  start(): void {
    this.#release = this.#watch();
    const { signal } = this.#connecting;
    const sizes = { receiveBytes, maxReceiveBytes: receiveBytes };
    this.#options.network.connect(this.#address, { ...sizes, signal }).then(
      (socket) => {
        this.#socket = socket;
        socket.onData = (bytes, start, end) => {
          this.#receive(bytes, start, end);
          return end - start;
        };
        socket.onClose = (cause) => {
          // the start of TLS tells why it came to nothing
          if (this.#isSecuring) return;
          if (cause) this.#lost(cause);
          this.#closed();
        };
        if (this.#failure) socket.destroy();
      },
      (cause: unknown) => {
        this.#lost(cause);
        this.#closed();
      },
    );
  }

  #lost(cause: unknown): void {
    if (this.#isSecure && !this.#negotiated && isTlsError(cause)) {
      this.#failure ??= this.#noTls(cause);
      return;
    }
    const text = cause instanceof Error ? cause.message : String(cause);
    const message = `the connection to ${this.#name} failed: ${text}`;
    this.#failure ??= new NbdError('DISCONNECTED', message, { cause });
  }

  /** Gives up at the timeout or the signal; the returned function ends that. */
  #watch(): () => void {
    const { signal, connectTimeoutMs, greetingTimeoutMs, clock } = this.#options;
    if (greetingTimeoutMs !== undefined) {
      this.#cancelGreeting = clock.after(greetingTimeoutMs, () => {
        const text = `no greeting of an NBD server from ${this.#name} within ${greetingTimeoutMs} ms`;
        this.#fail(new NbdError('TIMEOUT', text));
      });
    }
    const cancelTimer = clock.after(connectTimeoutMs, () => {
      const text = `no NBD handshake with ${this.#name} within ${connectTimeoutMs} ms`;
      this.#fail(new NbdError('TIMEOUT', text));
    });
    const onAbort = (): void => {
      this.#fail(new NbdError('ABORTED', 'connecting was aborted', { cause: signal?.reason }));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    return () => {
      cancelTimer();
      this.#cancelGreeting();
      signal?.removeEventListener('abort', onAbort);
    };
  }

  #fail(error: NbdError): void {
    this.#failure ??= error;
    if (this.#socket) this.#socket.destroy();
    else this.#connecting.abort();
  }

  #receive(buffer: Buffer, start: number, end: number): void {
    if (this.#failure) return;
    try {
      if (this.#negotiated) this.#negotiated.onBytes(buffer, start, end);
      else this.#shake(buffer.subarray(start, end));
    } catch (error) {
      if (error instanceof NbdError && error.code === 'REFUSED') {
        this.#failure = error;
        // the goodbye still goes out
        this.#socket?.end();
        this.#cancelGoodbye = this.#options.clock.after(goodbyeMs, () => this.#socket?.destroy());
      } else if (error instanceof NbdError) {
        this.#fail(error);
      } else {
        const text = `the answer could not be handled: ${String(error)}`;
        this.#fail(new NbdError('PROTOCOL', text, { cause: error }));
      }
    }
  }

  #shake(chunk: Buffer): void {
    this.#cancelGreeting();
    const bytes = this.#kept.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#kept, chunk]);
    const socket = this.#socket;
    if (!socket) return;
    let used: number;
    try {
      used = this.#handshake.receive(bytes, 0, bytes.length);
    } finally {
      for (const part of this.#handshake.output.splice(0)) socket.write(part);
    }
    this.#kept = bytes.subarray(used);
    if (this.#handshake.needsTls) {
      this.#beginTls(socket);
      return;
    }
    const { result } = this.#handshake;
    if (!result) return;
    if (this.#kept.length > 0) {
      throw new NbdError('PROTOCOL', 'the server spoke without being asked');
    }
    this.#release();
    this.#negotiated = { socket, result, onBytes: () => {}, onClose: () => {} };
    this.#resolve(this.#negotiated);
  }

  /** What the server has said in the clear must never be taken for what it says over TLS. */
  #beginTls(socket: NbdStream): void {
    const { start } = this.#options;
    if (!start || this.#kept.length > 0) {
      throw new NbdError('PROTOCOL', 'the server sent bytes in the clear behind STARTTLS');
    }
    socket.pause();
    // not from within onData
    queueMicrotask(() => {
      if (this.#failure) return;
      this.#isSecuring = true;
      socket.startTls(start).then(
        () => {
          this.#isSecuring = false;
          if (this.#failure) return;
          this.#isSecure = true;
          this.#handshake.secured();
          for (const part of this.#handshake.output.splice(0)) socket.write(part);
          socket.resume();
        },
        (error: unknown) => {
          this.#fail(this.#noTls(error));
          this.#closed();
        },
      );
    });
  }

  #noTls(cause: unknown): NbdError {
    const { start } = this.#options;
    const as = start?.psk
      ? `as ${JSON.stringify(start.psk.identity)}`
      : `for ${start?.serverName ?? ''}`;
    const text = `no TLS with ${this.#name} ${as}: ${tlsFailure(cause)}`;
    return new NbdError('TLS', text, { cause });
  }

  #closed(): void {
    this.#release();
    this.#cancelGoodbye();
    const hint = this.#isSecure ? ': it may not accept the certificate of this client' : '';
    const text = this.#negotiated
      ? `the connection to ${this.#name} was closed`
      : `${this.#name} closed the connection during the handshake${hint}`;
    const error = this.#failure ?? new NbdError('DISCONNECTED', text);
    if (this.#negotiated) this.#negotiated.onClose(error);
    else this.#reject(error);
  }
}
