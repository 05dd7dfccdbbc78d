import {
  defaultReceive,
  type Clock,
  type Network,
  type SocketTarget,
  type StreamSocket,
} from '@stor/runtime';
import { frame, frameKind, maxFrameBytes, takeFrames, type Frame } from './rpc-frame.ts';

export const rpcReceive = {
  ...defaultReceive,
  receiveBytes: 16 * 1024,
  maxReceiveBytes: 2 * maxFrameBytes,
};

export interface RpcConnectionOptions {
  target: SocketTarget;
  keepalive: { everyMs: number; timeoutMs: number };
  opened(): void;
  frame(frame: Frame): void;
  drained(): void;
  /** Once, unless `close` came before; never within the constructor. */
  closed(reason: string): void;
}

/** The calling end of a connection of the model of gRPC: connects, and probes while told to. */
export class RpcConnection {
  readonly #clock: Clock;
  readonly #options: RpcConnectionOptions;
  readonly #connecting = new AbortController();
  #socket: StreamSocket | null = null;
  #isOver = false;
  #cancelProbe: (() => void) | null = null;

  constructor(network: Network, clock: Clock, options: RpcConnectionOptions) {
    this.#clock = clock;
    this.#options = options;
    network.connect(options.target, { ...rpcReceive, signal: this.#connecting.signal }).then(
      (socket) => {
        if (this.#isOver) socket.destroy();
        else this.#open(socket);
      },
      (error: unknown) => {
        this.#end(error instanceof Error ? error.message : String(error));
      },
    );
  }

  get isOpen(): boolean {
    return this.#socket !== null && !this.#isOver;
  }

  get pendingBytes(): number {
    return this.#socket?.pendingBytes ?? 0;
  }

  write(bytes: Uint8Array): void {
    if (!this.#isOver) this.#socket?.write(bytes);
  }

  /** Starts or stops looking whether the other side still answers. */
  probe(isWanted: boolean): void {
    if (!isWanted) {
      this.#cancelProbe?.();
      this.#cancelProbe = null;
    } else if (!this.#cancelProbe && !this.#isOver) {
      this.#cancelProbe = this.#clock.after(this.#options.keepalive.everyMs, () => {
        this.#ping();
      });
    }
  }

  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.probe(false);
    this.#connecting.abort();
    this.#socket?.destroy();
  }

  #open(socket: StreamSocket): void {
    this.#socket = socket;
    socket.onData = (bytes, start, end) => {
      try {
        return takeFrames(bytes, start, end, (received) => {
          this.#receive(received);
        });
      } catch (error) {
        this.#end(String(error));
        return end - start;
      }
    };
    socket.onClose = (error) => {
      this.#end(error?.message ?? 'the connection was closed');
    };
    socket.onDrain = () => {
      if (!this.#isOver) this.#options.drained();
    };
    this.#options.opened();
  }

  #receive(received: Frame): void {
    if (this.#isOver) return;
    if (received.kind !== frameKind.pong) {
      this.#options.frame(received);
      return;
    }
    if (!this.#cancelProbe) return;
    this.probe(false);
    this.probe(true);
  }

  #ping(): void {
    this.write(frame(frameKind.ping, 0));
    const { timeoutMs } = this.#options.keepalive;
    this.#cancelProbe = this.#clock.after(timeoutMs, () => {
      this.#end(`no answer to a keepalive within ${timeoutMs} ms`);
    });
  }

  #end(reason: string): void {
    if (this.#isOver) return;
    this.close();
    this.#options.closed(reason);
  }
}
