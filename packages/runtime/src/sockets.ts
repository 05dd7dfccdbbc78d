import { unlink } from 'node:fs/promises';
import net from 'node:net';
import { ReceiveBuffer, type ReceiveOptions } from './receive-buffer.ts';
import type { SharedBytes } from './shared-bytes.ts';
import { startTls, type TlsClient, type TlsServer, type TlsSession } from './tls.ts';
import { setSendBuffer } from './send-buffer.ts';
import { setUserTimeout } from './user-timeout.ts';

/**
 * Takes what has arrived: `bytes[start, end)`. Returns how many bytes of it are done with; the rest
 * is kept and given again, contiguous, with what follows. Everything is valid only during the call.
 */
export type DataHandler = (bytes: Buffer, start: number, end: number) => number;

/** A stream connection, TCP or UNIX; the simulator has its own. */
export interface StreamSocket {
  readonly remote: string;
  /** bytes given to `write` that the kernel has not taken yet */
  readonly pendingBytes: number;
  /**
   * The same, but it falls already when the kernel has taken a part of one large write: who watches it
   * sees whether the other side takes anything. Absent: `pendingBytes` is all there is.
   */
  readonly unsentBytes?: number;
  readonly destroyed: boolean;
  /** Called with received bytes; set it before the turn ends in which the socket was got. */
  onData: DataHandler;
  /** Called once when the connection has ended, by either side. */
  onClose: (error: Error | null) => void;
  /** Called when `pendingBytes` has fallen to zero after it was above the high-water mark. */
  onDrain: () => void;
  /**
   * From within `onData`: the message that it leaves unfinished has so many bytes in all. One that is
   * large is then received where nothing follows it.
   */
  expect?(bytes: number): void;
  /**
   * From within `onData`: the memory that it was given stays as it is until the caller releases it. Null:
   * `bytes` of it, which are what the caller needs, are to be copied; there may be others in it.
   */
  keep?(bytes: number): SharedBytes | null;
  /** Nothing has come for a while: memory that the connection receives into is given back until it is needed. */
  rest?(): void;
  /** The bytes must not change until `written` is called (or onClose). */
  write(bytes: Uint8Array, written?: () => void): void;
  /** Writes between cork and uncork leave in one system call. */
  cork(): void;
  uncork(): void;
  /** Stops reading: back-pressure towards the other side. */
  pause(): void;
  /**
   * Restarts reading. What `onData` had left is offered again, during this call unless it comes from
   * within `onData`: the other side may be waiting for its answer and send nothing more.
   */
  resume(): void;
  /** Ends after what was written has been sent. */
  end(): void;
  destroy(error?: Error): void;
  /**
   * Goes on as TLS, with the same handlers. Call it when the socket is paused, all that was written has
   * left (`written`), and nothing of what has arrived is left over: such bytes came in the clear, and
   * the connection ends. Then call `resume`. Rejects with why there is no TLS; the socket is destroyed
   * then. A peer that says nothing is waited for until the socket is destroyed.
   */
  startTls(options: TlsServer | TlsClient): Promise<TlsSession>;
}

export interface Listener {
  /** host:port, or the path of a UNIX socket */
  readonly address: string;
  readonly port: number;
  close(): Promise<void>;
}

/** Where a stream is listened for or connected to: TCP, or the path of a UNIX socket. */
export type SocketTarget = { host: string; port: number } | { path: string };

export interface ListenOptions extends ReceiveOptions {
  /**
   * data that the other host does not acknowledge for so long end a connection (ms). Absent: the kernel
   * gives up after about a quarter of an hour
   */
  vanishedMs?: number;
  /**
   * of a UNIX socket: what the kernel takes before the other side reads it (bytes); it may give less.
   * Absent: its own 208 KiB, in which an answer of 1 MiB leaves in pieces
   */
  sendBytes?: number;
}

export interface ConnectOptions extends ReceiveOptions {
  signal?: AbortSignal;
  connectTimeoutMs?: number;
}

/**
 * Stream connections as an argument. `systemNetwork` is the host's; a simulator has one of its own,
 * with delays, cuts and partitions.
 */
export interface Network {
  /** Rejects with the system's error, for example with the code EADDRINUSE. */
  listen(
    target: SocketTarget,
    onConnection: (socket: StreamSocket) => void,
    options?: ListenOptions,
  ): Promise<Listener>;
  /** Rejects with the system's error, for example with the code ECONNREFUSED, or AbortError. */
  connect(target: SocketTarget, options?: ConnectOptions): Promise<StreamSocket>;
  /** Removes the file of a UNIX socket that nobody serves any more. */
  removeSocketFile(path: string): Promise<void>;
}

export const defaultReceive: ReceiveOptions = {
  receiveBytes: 1024 * 1024,
  maxReceiveBytes: 48 * 1024 * 1024,
};

/** A host that vanished without a word is found out when its connection has been idle for so long (ms). */
const keepAliveMs = 30_000;

class NodeSocket implements StreamSocket {
  readonly remote: string;
  onData: DataHandler = (_bytes, start, end) => end - start;
  onClose: (error: Error | null) => void = () => {};
  onDrain: () => void = () => {};
  /** what is written to and read from; over another one when there is TLS */
  #socket: net.Socket;
  /** what the host knows as the connection */
  readonly #plain: net.Socket;
  readonly #receive: ReceiveBuffer;
  #error: Error | null = null;
  #inHandler = false;

  constructor(socket: net.Socket, receive: ReceiveBuffer, remote: string) {
    this.#socket = socket;
    this.#plain = socket;
    this.#receive = receive;
    this.remote = remote;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    this.#listen(socket);
  }

  #listen(socket: net.Socket): void {
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.onClose(this.#error);
    });
    socket.on('drain', () => {
      if (this.#socket === socket) this.onDrain();
    });
  }

  async startTls(options: TlsServer | TlsClient): Promise<TlsSession> {
    const plain = this.#plain;
    if (this.#socket !== plain) throw new Error('this is TLS already');
    if (plain.destroyed) throw this.#error ?? new Error('the connection is closed');
    if (this.#receive.keptBytes > 0 || plain.writableLength > 0) {
      const error = new Error('bytes in the clear are left over at the start of TLS');
      this.destroy(error);
      throw error;
    }
    let started: ReturnType<typeof startTls>;
    try {
      started = startTls(plain, options);
    } catch (error) {
      // a certificate or key that is none
      this.destroy(error as Error);
      throw error;
    }
    const { secure, agreed } = started;
    this.#socket = secure;
    this.#listen(secure);
    // while the handshake is made nothing is read, and nothing is given to the handler before `resume`
    secure.on('data', (chunk: Buffer) => {
      this.receivedChunk(chunk);
    });
    secure.pause();
    return agreed;
  }

  /** `length` bytes have been read into the receive buffer. */
  received(length: number): void {
    if (this.#socket.destroyed) return;
    this.#inHandler = true;
    try {
      this.#receive.filled(length, this.onData);
    } finally {
      this.#inHandler = false;
    }
  }

  /** For a socket that could not be given a static buffer: copies the chunk into it. */
  receivedChunk(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) {
      const room = this.#receive.room();
      if (!room) {
        this.destroy(new Error('message exceeds the receive limit'));
        return;
      }
      const length = Math.min(room.length, chunk.length - at);
      chunk.copy(room, 0, at, at + length);
      at += length;
      this.received(length);
    }
  }

  get pendingBytes(): number {
    return this.#socket.writableLength;
  }
  get unsentBytes(): number {
    const { _handle: handle } = this.#plain as unknown as { _handle?: { writeQueueSize?: number } };
    return this.#socket.writableLength + (handle?.writeQueueSize ?? 0);
  }
  get destroyed(): boolean {
    return this.#socket.destroyed;
  }
  expect(bytes: number): void {
    this.#receive.expect(bytes);
  }
  keep(bytes: number): SharedBytes | null {
    return this.#receive.keep(bytes);
  }
  rest(): void {
    if (!this.#inHandler) this.#receive.rest();
  }
  write(bytes: Uint8Array, written?: () => void): void {
    if (this.#socket.destroyed) return;
    if (written) this.#socket.write(bytes, written);
    else this.#socket.write(bytes);
  }
  cork(): void {
    this.#socket.cork();
  }
  uncork(): void {
    this.#socket.uncork();
  }
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
    if (this.#inHandler || this.#socket.destroyed) return;
    this.#inHandler = true;
    try {
      this.#receive.offerKept(this.onData);
    } finally {
      this.#inHandler = false;
    }
  }
  end(): void {
    this.#socket.end();
  }
  destroy(error?: Error): void {
    this.#socket.destroy(error);
  }
}

/** Node's `onread` option for a receive buffer; the type of `@types/node` lacks the function form. */
function onreadOf(receive: ReceiveBuffer, owner: () => NodeSocket | null): net.OnReadOpts {
  const spare = Buffer.alloc(1);
  return {
    buffer: () => {
      const room = receive.room();
      if (room) return room;
      owner()?.destroy(new Error('message exceeds the receive limit'));
      return spare;
    },
    callback: (length: number) => {
      owner()?.received(length);
      return true;
    },
  };
}

/** Connects to `host:port` or to a UNIX socket path. Rejects with the system's error. */
export function connectSocket(
  target: SocketTarget,
  options: ConnectOptions = defaultReceive,
): Promise<StreamSocket> {
  return new Promise((resolve, reject) => {
    const receive = new ReceiveBuffer(options);
    let wrapped: NodeSocket | null = null;
    const socket = net.connect({ ...target, onread: onreadOf(receive, () => wrapped) });
    const name = 'path' in target ? target.path : `${target.host}:${target.port}`;
    const fail = (error: Error): void => {
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => {
      fail(new DOMException('connect aborted', 'AbortError'));
    };
    const timer =
      options.connectTimeoutMs === undefined
        ? null
        : setTimeout(() => {
            fail(new Error(`no connection to ${name} within ${options.connectTimeoutMs} ms`));
          }, options.connectTimeoutMs);
    options.signal?.addEventListener('abort', onAbort, { once: true });
    if (options.signal?.aborted) onAbort();
    socket.once('error', fail);
    socket.once('connect', () => {
      if (timer) clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
      socket.off('error', fail);
      wrapped = new NodeSocket(socket, receive, name);
      resolve(wrapped);
    });
    socket.once('close', () => {
      if (timer) clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    });
  });
}

/** A UNIX socket that is connected, as one of a pair; its descriptor is this one's from now on. */
export function adoptSocket(
  fd: number,
  name: string,
  { sendBytes, ...receiveOptions }: ReceiveOptions & Pick<ListenOptions, 'sendBytes'>,
): StreamSocket {
  const receive = new ReceiveBuffer(receiveOptions);
  let wrapped: NodeSocket | null = null;
  const socket = new net.Socket({
    fd,
    readable: true,
    writable: true,
    onread: onreadOf(receive, () => wrapped),
  } as net.SocketConstructorOpts);
  if (sendBytes !== undefined) setSendBuffer(socket, sendBytes);
  wrapped = new NodeSocket(socket, receive, name);
  socket.resume();
  return wrapped;
}

/** What Node gives to a server's handle; not in its documentation, so its absence is handled. */
interface ServerHandle {
  onconnection: ((error: number, handle: unknown) => void) | null;
}

/**
 * Accepted sockets cannot be given `onread` through Node's public interface. Where the handle's
 * callback has the known form the socket is built with it; else 'data' events are copied in.
 */
function takeOverAccept(
  server: net.Server,
  accept: (socket: net.Socket) => NodeSocket,
  options: ReceiveOptions,
): boolean {
  const handle = (server as unknown as { _handle?: ServerHandle })._handle;
  if (!handle || typeof handle.onconnection !== 'function') return false;
  handle.onconnection = (error, clientHandle) => {
    if (error || !clientHandle) return;
    let wrapped: NodeSocket | null = null;
    const receive = new ReceiveBuffer(options);
    const socket = new net.Socket({
      handle: clientHandle,
      allowHalfOpen: false,
      onread: onreadOf(receive, () => wrapped),
    } as net.SocketConstructorOpts);
    pendingReceive.set(socket, receive);
    wrapped = accept(socket);
    socket.resume();
  };
  return true;
}

const pendingReceive = new WeakMap<net.Socket, ReceiveBuffer>();

/** Listens on TCP or a UNIX socket. Rejects with the system's error, for example EADDRINUSE. */
export function listenSocket(
  target: SocketTarget,
  onConnection: (socket: StreamSocket) => void,
  options: ListenOptions = defaultReceive,
): Promise<Listener> {
  const open = new Set<NodeSocket>();
  const name = (socket: net.Socket): string =>
    'path' in target
      ? `unix:${target.path}`
      : `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? 0}`;
  const accept = (socket: net.Socket): NodeSocket => {
    const given = pendingReceive.get(socket);
    if (options.vanishedMs !== undefined) setUserTimeout(socket, options.vanishedMs);
    if (options.sendBytes !== undefined && 'path' in target) {
      setSendBuffer(socket, options.sendBytes);
    }
    const wrapped = new NodeSocket(socket, given ?? new ReceiveBuffer(options), name(socket));
    open.add(wrapped);
    socket.once('close', () => open.delete(wrapped));
    onConnection(wrapped);
    if (!given) socket.on('data', (chunk: Buffer) => wrapped.receivedChunk(chunk));
    return wrapped;
  };
  const server = net.createServer((socket) => {
    accept(socket);
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(target, () => {
      server.off('error', reject);
      takeOverAccept(server, accept, options);
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      resolve({
        address: 'path' in target ? target.path : `${target.host}:${port}`,
        port,
        close: () =>
          new Promise<void>((closed) => {
            server.close(() => closed());
            for (const socket of open) socket.destroy();
          }),
      });
    });
  });
}

/** The sockets of the host. */
export const systemNetwork: Network = {
  listen: listenSocket,
  connect: connectSocket,
  removeSocketFile: unlink,
};
