import net from 'node:net';
import { SharedSocket } from '@stor/runtime';
import {
  formatClientContext,
  openNegotiated,
  type ClientIdentity,
  type NbdClock,
  type NbdNetwork,
  type NbdStream,
} from 'nbd-client-js';

/** From connecting to the server's first bytes, and to the grant of the export (ms): as of every client. */
const greetingTimeoutMs = 3_000;
const grantTimeoutMs = 30_000;
/** An idle connection to a host that is gone without a word is over so long, and some 10 s, later (ms). */
const keepAliveMs = 10_000;

export interface TcpAddress {
  host: string;
  port: number;
}

/** A connection after its handshake, which nobody reads. */
export interface GrantedSocket {
  socket: SharedSocket;
  address: TcpAddress;
  sizeBytes: number;
  /** `transmissionFlag` bits */
  flags: number;
}

/**
 * Connects and shakes hands as a kernel can go on: simple replies, in the clear. It says who it is all the
 * same, so the server ends the older connection first: what that still holds, and the kernel sends again
 * over this one, never takes effect later. Rejects as `openNegotiated`.
 */
export async function openForKernel(
  address: TcpAddress,
  exportName: string,
  identity: ClientIdentity,
  { clock, signal }: { clock: NbdClock; signal: AbortSignal },
): Promise<GrantedSocket> {
  const network = new HandshakeNetwork();
  const wishes = {
    exportName,
    structuredReplies: false,
    metaContexts: [formatClientContext(identity)],
    saysContexts: true,
    listOnly: false,
  };
  const { result } = await openNegotiated(address, wishes, {
    network,
    clock,
    signal,
    greetingTimeoutMs,
    connectTimeoutMs: grantTimeoutMs,
  });
  const { sizeBytes, flags } = result;
  return { socket: network.take(), address, sizeBytes, flags };
}

/** One connection, whose socket can be taken away from Node when nothing more is to come. */
class HandshakeNetwork implements NbdNetwork {
  #socket: net.Socket | null = null;

  connect(
    target: Parameters<NbdNetwork['connect']>[0],
    { signal }: { signal: AbortSignal },
  ): Promise<NbdStream> {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ ...target, noDelay: true });
      this.#socket = socket;
      let failure: Error | null = null;
      let stream: NbdStream | null = null;
      const onAbort = (): void => {
        socket.destroy(new Error('connecting was aborted'));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      socket.on('error', (error) => (failure = error));
      socket.once('connect', () => {
        socket.setKeepAlive(true, keepAliveMs);
        stream = streamOf(socket);
        resolve(stream);
      });
      socket.once('close', () => {
        signal.removeEventListener('abort', onAbort);
        if (stream) stream.onClose(failure);
        else reject(failure ?? new Error('the connection was closed'));
      });
    });
  }

  /** The server says nothing unasked, so Node has read nothing that the kernel would miss. */
  take(): SharedSocket {
    const { _handle: handle } = (this.#socket ?? {}) as { _handle?: { fd?: number } | null };
    const { fd = -1 } = handle ?? {};
    const shared = new SharedSocket(fd);
    // closes Node's descriptor alone: the connection lives on with the other one
    this.#socket?.destroy();
    return shared;
  }
}

function streamOf(socket: net.Socket): NbdStream {
  const stream: NbdStream = {
    onData: (_bytes, start, end) => end - start,
    onClose: () => {},
    write: (bytes) => void socket.write(bytes),
    cork: () => socket.cork(),
    uncork: () => socket.uncork(),
    end: () => void socket.end(),
    destroy: () => void socket.destroy(),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    startTls: () => Promise.reject(new Error('a kernel speaks no TLS')),
  };
  socket.on('data', (chunk: Buffer) => stream.onData(chunk, 0, chunk.length));
  return stream;
}
