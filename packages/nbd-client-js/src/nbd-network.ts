import net from 'node:net';
import { startTlsClient } from './tls-client.ts';
import type { NbdAddress } from './nbd-uri.ts';

/** The client's side of TLS. Certificates and keys are PEM text. */
export interface TlsClientStart {
  side: 'client';
  /** name or address that the server's certificate must be for */
  serverName: string;
  /** false: any certificate will do; pre-shared keys prove both sides in any case */
  verifyPeer: boolean;
  /** who may vouch for the server; those that Node knows unless given */
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  /** instead of certificates */
  psk?: { identity: string; key: Uint8Array } | undefined;
}

/** A stream connection, TCP or UNIX. */
export interface NbdStream {
  /**
   * Takes `bytes[start, end)`, valid only during the call, and returns how many of them it is done
   * with. Set it in the turn in which the stream was got.
   */
  onData: (bytes: Buffer, start: number, end: number) => number;
  /** Called once when the connection has ended, by either side. */
  onClose: (error: Error | null) => void;
  /** The bytes must not change until they have left. */
  write(bytes: Uint8Array): void;
  /** Writes between cork and uncork leave in one system call. */
  cork(): void;
  uncork(): void;
  /** Ends after what was written has been sent. */
  end(): void;
  destroy(): void;
  pause(): void;
  resume(): void;
  /**
   * Goes on as TLS. It is called paused, outside of `onData`, when all that was written has left and all
   * that has come was taken; `resume` follows. Rejects with why there is none, and is over then.
   */
  startTls(options: TlsClientStart): Promise<unknown>;
}

/** Where connections come from; a test or a simulator gives its own. */
export interface NbdNetwork {
  /** Rejects with the system's error, or when the signal aborts. */
  connect(
    target: NbdAddress,
    options: { receiveBytes: number; maxReceiveBytes: number; signal: AbortSignal },
  ): Promise<NbdStream>;
}

/** The sockets of the host. */
export const systemNetwork: NbdNetwork = {
  connect: (target, { receiveBytes, signal }) =>
    new Promise((resolve, reject) => {
      let stream: SocketStream | null = null;
      const socket = net.connect({
        ...target,
        noDelay: true,
        onread: {
          // one buffer per connection, and the handler of this package always takes all of it
          buffer: Buffer.allocUnsafeSlow(receiveBytes),
          callback: (length, buffer) => {
            stream?.onData(buffer as Buffer, 0, length);
            return true;
          },
        },
      });
      let failure: Error | null = null;
      const onAbort = (): void => {
        socket.destroy(new DOMException('connecting was aborted', 'AbortError'));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      socket.on('error', (error) => {
        failure = error;
      });
      socket.once('connect', () => {
        signal.removeEventListener('abort', onAbort);
        stream = new SocketStream(socket);
        resolve(stream);
      });
      socket.once('close', () => {
        signal.removeEventListener('abort', onAbort);
        if (stream) stream.closed(socket, failure);
        else reject(failure ?? new Error('the connection was closed'));
      });
    }),
};

class SocketStream implements NbdStream {
  onData: NbdStream['onData'] = (_bytes, start, end) => end - start;
  onClose: NbdStream['onClose'] = () => {};
  /** over another one when there is TLS */
  #socket: net.Socket;

  constructor(socket: net.Socket) {
    this.#socket = socket;
  }

  closed(socket: net.Socket, error: Error | null): void {
    if (this.#socket === socket) this.onClose(error);
  }

  async startTls(options: TlsClientStart): Promise<void> {
    const plain = this.#socket;
    let started: ReturnType<typeof startTlsClient>;
    try {
      started = startTlsClient(plain, options);
    } catch (error) {
      // a certificate or key that is none
      plain.destroy();
      throw error;
    }
    const { secure, agreed } = started;
    this.#socket = secure;
    let failure: Error | null = null;
    secure.on('error', (error) => {
      failure ??= error;
    });
    secure.once('close', () => {
      this.closed(secure, failure);
    });
    secure.on('data', (chunk: Buffer) => {
      this.onData(chunk, 0, chunk.length);
    });
    secure.pause();
    await agreed;
  }

  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }

  write(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }
  cork(): void {
    this.#socket.cork();
  }
  uncork(): void {
    this.#socket.uncork();
  }
  end(): void {
    this.#socket.end();
  }
  destroy(): void {
    this.#socket.destroy();
  }
}
