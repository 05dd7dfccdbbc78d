import { encodeRpcError, StorError } from '@stor/protocol';
import type { Listener, Network, StreamSocket } from '@stor/runtime';
import type { ServiceDefinition } from '@grpc/grpc-js';
import { methodName } from '../rpc/grpc-server.ts';
import type {
  IncomingStream,
  RpcMethod,
  RpcServer,
  RpcServiceName,
  RpcStreamMethod,
} from '../rpc/rpc-transport.ts';
import { rpcReceive } from './rpc-connection.ts';
import {
  FramedBatches,
  frame,
  frameKind,
  splitHead,
  takeFrames,
  withHead,
  type Frame,
} from './rpc-frame.ts';

interface KnownMethod {
  definition: ServiceDefinition[string];
  run: RpcMethod | null;
  stream: RpcStreamMethod | null;
}

/** Above this a method that answers with messages waits (bytes). */
const fullBytes = 64 * 1024;

function errorBody(error: unknown): Uint8Array {
  return encodeRpcError(StorError.from(error)).metadata;
}

/** The answering end of the model of gRPC. */
export class SocketRpcServer implements RpcServer {
  readonly #network: Network;
  readonly #definitions: Readonly<Record<RpcServiceName, ServiceDefinition>>;
  readonly #methods = new Map<string, KnownMethod>();
  readonly #connections = new Set<ServerConnection>();
  #receive: ((stream: IncomingStream) => void) | null = null;
  #listener: Listener | null = null;
  #isShut = false;

  constructor(network: Network, definitions: Readonly<Record<RpcServiceName, ServiceDefinition>>) {
    this.#network = network;
    this.#definitions = definitions;
  }

  addService(
    name: RpcServiceName,
    methods: Readonly<Record<string, RpcMethod>>,
    streams: Readonly<Record<string, RpcStreamMethod>> = {},
  ): void {
    for (const [key, definition] of Object.entries(this.#definitions[name])) {
      if (definition.requestStream) continue;
      const named = methodName(key, definition.originalName);
      const stream = (definition.responseStream ? streams[named] : null) ?? null;
      const run = (definition.responseStream ? null : methods[named]) ?? null;
      if (!run && !stream) throw new StorError('INTERNAL', `no implementation of ${key}`);
      this.#methods.set(`${name}/${key}`, { definition, run, stream });
    }
  }

  addStream(receive: (stream: IncomingStream) => void): void {
    this.#receive = receive;
  }

  async listen(host: string, port: number): Promise<number> {
    const accept = (socket: StreamSocket): void => {
      if (this.#isShut) {
        socket.destroy();
        return;
      }
      const connection: ServerConnection = new ServerConnection(socket, {
        method: (key) => this.#methods.get(key),
        stream: (stream) => {
          if (this.#receive) this.#receive(stream);
          else stream.end(new StorError('UNAVAILABLE', 'this node takes no streams'));
        },
        closed: () => this.#connections.delete(connection),
      });
      this.#connections.add(connection);
    };
    this.#listener = await this.#network.listen({ host, port }, accept, rpcReceive);
    return this.#listener.port;
  }

  forceShutdown(): void {
    if (this.#isShut) return;
    this.#isShut = true;
    for (const connection of [...this.#connections]) connection.destroy();
    this.#listener?.close().catch(() => {});
  }
}

interface ServerConnectionOptions {
  method(key: string): KnownMethod | undefined;
  stream(stream: IncomingStream): void;
  closed(): void;
}

class ServerConnection {
  readonly #socket: StreamSocket;
  readonly #options: ServerConnectionOptions;
  readonly #calls = new Map<number, AbortController>();
  #stream: SocketIncomingStream | null = null;
  #isOver = false;
  #onRoom = new Set<() => void>();

  constructor(socket: StreamSocket, options: ServerConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.onData = (bytes, start, end) => {
      try {
        return takeFrames(bytes, start, end, (received) => {
          if (!this.#isOver) this.#receive(received);
        });
      } catch {
        this.destroy();
        return end - start;
      }
    };
    socket.onClose = () => {
      this.#end();
    };
    socket.onDrain = () => {
      const waiting = [...this.#onRoom];
      this.#onRoom.clear();
      for (const wake of waiting) wake();
    };
  }

  destroy(): void {
    this.#socket.destroy();
    this.#end();
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const gone of [...this.#calls.values()]) gone.abort();
    this.#calls.clear();
    this.#stream?.gone();
    this.#options.closed();
  }

  #receive(received: Frame): void {
    switch (received.kind) {
      case frameKind.call:
        this.#call(received);
        return;
      case frameKind.cancel:
        this.#calls.get(received.call)?.abort();
        return;
      case frameKind.openStream:
        this.#stream = new SocketIncomingStream(
          this.#socket,
          splitHead(received.body).head.metadata,
        );
        this.#options.stream(this.#stream);
        return;
      case frameKind.batch:
      case frameKind.piece:
        this.#stream?.receive(received);
        return;
      case frameKind.ping:
        this.#socket.write(frame(frameKind.pong, 0));
        return;
      default:
        throw new Error(`no frame of kind ${received.kind} is known`);
    }
  }

  #call({ call, body }: Frame): void {
    const { head, body: bytes } = splitHead(body);
    const method = this.#options.method(`${head.service}/${head.method}`);
    if (!method) {
      this.#socket.write(frame(frameKind.unknown, call));
      return;
    }
    const gone = new AbortController();
    this.#calls.set(call, gone);
    const reply = (answer: () => Buffer): void => {
      if (!this.#calls.delete(call) || this.#isOver) return;
      this.#socket.write(answer());
    };
    const { definition, run, stream } = method;
    const header = (name: string): string => head.metadata[name] ?? '';
    const context = { signal: gone.signal, header };
    const request = definition.requestDeserialize(bytes) as never;
    if (stream) {
      const send = (message: object): Promise<void> => {
        if (this.#isOver || !this.#calls.has(call)) return Promise.resolve();
        const body = definition.responseSerialize(message);
        this.#socket.write(frame(frameKind.message, call, body));
        if (this.#socket.pendingBytes <= fullBytes) return Promise.resolve();
        return new Promise((resolve) => this.#onRoom.add(resolve));
      };
      stream(request, context, send).then(
        () => {
          reply(() => frame(frameKind.over, call));
        },
        (error: unknown) => {
          reply(() => frame(frameKind.refused, call, errorBody(error)));
        },
      );
      return;
    }
    run?.(request, context).then(
      (response) => {
        reply(() => frame(frameKind.answer, call, definition.responseSerialize(response)));
      },
      (error: unknown) => {
        reply(() => frame(frameKind.refused, call, errorBody(error)));
      },
    );
  }
}

class SocketIncomingStream implements IncomingStream {
  readonly #socket: StreamSocket;
  readonly #metadata: Readonly<Record<string, string>>;
  readonly #batches = new FramedBatches();
  #events: Parameters<IncomingStream['accept']>[0] | null = null;
  #isOver = false;

  constructor(socket: StreamSocket, metadata: Readonly<Record<string, string>>) {
    this.#socket = socket;
    this.#metadata = metadata;
  }

  header(name: string): string {
    return this.#metadata[name] ?? '';
  }

  accept(
    events: { batch(bytes: Uint8Array): void; closed(): void },
    metadata: Readonly<Record<string, string>> = {},
  ): void {
    this.#events = events;
    const head = { service: 'raft', method: 'Send', metadata };
    this.#socket.write(frame(frameKind.accepted, 0, withHead(head)));
  }

  end(error: StorError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#socket.write(frame(frameKind.ended, 0, errorBody(error)));
    this.#socket.end();
  }

  receive(received: Frame): void {
    if (this.#isOver) return;
    try {
      const batch = this.#batches.add(received);
      if (batch) this.#events?.batch(batch);
    } catch (error) {
      this.end(StorError.from(error));
      this.#events?.closed();
    }
  }

  /** The connection is over. */
  gone(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#events?.closed();
  }
}
