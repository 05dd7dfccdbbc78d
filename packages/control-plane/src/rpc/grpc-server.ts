import { Metadata } from '@grpc/grpc-js';
import type {
  sendUnaryData,
  Server,
  ServerCredentials,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  StatusObject,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { encodeRpcError, errorMetadataKey, StorError } from '@stor/protocol';
import { BatchAssembler } from '../embedded/raft-frames.ts';
import type {
  IncomingStream,
  RpcContext,
  RpcMethod,
  RpcServer,
  RpcServiceName,
  RpcStreamMethod,
} from './rpc-transport.ts';

type UnaryCall = ServerUnaryCall<object, object>;
type AnswerCall = ServerWritableStream<object, object>;
type StreamCall = ServerReadableStream<Uint8Array, Uint8Array>;

/** A gRPC status with our error in its trailers. */
function statusOf(error: unknown): Partial<StatusObject> {
  const wire = encodeRpcError(StorError.from(error));
  const metadata = new Metadata();
  metadata.set(errorMetadataKey, Buffer.from(wire.metadata));
  return { code: wire.status, details: wire.text, metadata };
}

export function headerOf(metadata: Metadata, name: string): string {
  const value = metadata.get(name)[0];
  return typeof value === 'string' ? value : '';
}

/** The name by which our methods know a method of a service definition. */
export function methodName(name: string, originalName: string | undefined): string {
  return originalName ?? name.charAt(0).toLowerCase() + name.slice(1);
}

/** `RpcServer` on a server of grpc-js. */
export class GrpcServer implements RpcServer {
  readonly #server: Server;
  readonly #definitions: Readonly<Record<RpcServiceName, ServiceDefinition>>;
  readonly #credentials: ServerCredentials;
  #receive: ((stream: IncomingStream) => void) | null = null;

  constructor(
    server: Server,
    definitions: Readonly<Record<RpcServiceName, ServiceDefinition>>,
    credentials: ServerCredentials,
  ) {
    this.#server = server;
    this.#definitions = definitions;
    this.#credentials = credentials;
  }

  addService(
    name: RpcServiceName,
    methods: Readonly<Record<string, RpcMethod>>,
    streams: Readonly<Record<string, RpcStreamMethod>> = {},
  ): void {
    const definition = this.#definitions[name];
    const handlers: UntypedServiceImplementation = {};
    for (const [key, method] of Object.entries(definition)) {
      const { originalName, requestStream, responseStream } = method;
      if (requestStream) {
        handlers[key] = (call: StreamCall, callback: sendUnaryData<Uint8Array>) => {
          this.#take(call, callback);
        };
        continue;
      }
      const named = methodName(key, originalName);
      const streamed = streams[named];
      if (responseStream && streamed) {
        handlers[key] = (call: AnswerCall) => {
          answerWithStream(streamed, call);
        };
        continue;
      }
      const unary = methods[named];
      if (!unary || responseStream) throw new StorError('INTERNAL', `no implementation of ${key}`);
      handlers[key] = (call: UnaryCall, callback: sendUnaryData<object>) => {
        answer(unary, call, callback);
      };
    }
    // of a member of the store that was closed meanwhile: the newer one answers
    this.#server.removeService(definition);
    this.#server.addService(definition, handlers);
  }

  addStream(receive: (stream: IncomingStream) => void): void {
    this.#receive = receive;
  }

  listen(host: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(`${host}:${port}`, this.#credentials, (error, bound) => {
        if (error) reject(error);
        else resolve(bound);
      });
    });
  }

  forceShutdown(): void {
    this.#server.forceShutdown();
  }

  #take(call: StreamCall, callback: sendUnaryData<Uint8Array>): void {
    const stream = new GrpcIncomingStream(call, callback);
    if (this.#receive) this.#receive(stream);
    else stream.end(new StorError('UNAVAILABLE', 'this node takes no streams'));
  }
}

function answer(method: RpcMethod, call: UnaryCall, callback: sendUnaryData<object>): void {
  const gone = new AbortController();
  call.on('cancelled', () => {
    gone.abort();
  });
  const context: RpcContext = {
    signal: gone.signal,
    header: (name) => headerOf(call.metadata, name),
  };
  method(call.request as never, context).then(
    (response) => {
      callback(null, response);
    },
    (error: unknown) => {
      callback(statusOf(error));
    },
  );
}

/** gRPC says when it has room again; what it holds meanwhile is one message above its mark. */
function answerWithStream(method: RpcStreamMethod, call: AnswerCall): void {
  const gone = new AbortController();
  let isOver = false;
  let onRoom = (): void => {};
  call.on('drain', () => {
    onRoom();
  });
  call.on('cancelled', () => {
    gone.abort();
  });
  // a broken connection says so here too; without a listener it would end the process
  call.on('error', () => {
    gone.abort();
  });
  const context: RpcContext = {
    signal: gone.signal,
    header: (name) => headerOf(call.metadata, name),
  };
  const send = (message: object): Promise<void> => {
    if (isOver || gone.signal.aborted || call.write(message)) return Promise.resolve();
    return new Promise((resolve) => {
      onRoom = resolve;
    });
  };
  method(call.request as never, context, send).then(
    () => {
      isOver = true;
      if (!gone.signal.aborted) call.end();
    },
    (error: unknown) => {
      isOver = true;
      if (!gone.signal.aborted) call.emit('error', statusOf(error));
    },
  );
}

class GrpcIncomingStream implements IncomingStream {
  readonly #call: StreamCall;
  readonly #callback: sendUnaryData<Uint8Array>;
  #isOver = false;

  constructor(call: StreamCall, callback: sendUnaryData<Uint8Array>) {
    this.#call = call;
    this.#callback = callback;
  }

  header(name: string): string {
    return headerOf(this.#call.metadata, name);
  }

  accept(
    events: { batch(bytes: Uint8Array): void; closed(): void },
    headers: Readonly<Record<string, string>> = {},
  ): void {
    const batches = new BatchAssembler();
    const finish = (error: StorError | null): void => {
      if (this.#isOver) return;
      this.#isOver = true;
      if (error) this.#callback(statusOf(error));
      else this.#callback(null, new Uint8Array());
      events.closed();
    };
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(headers)) metadata.set(key, value);
    this.#call.sendMetadata(metadata);
    this.#call.on('data', (piece: Uint8Array) => {
      if (this.#isOver) return;
      try {
        const batch = batches.add(piece);
        if (batch) events.batch(batch);
      } catch (error) {
        finish(StorError.from(error));
      }
    });
    this.#call.on('end', () => {
      finish(null);
    });
    this.#call.on('error', (error: Error) => {
      finish(StorError.from(error));
    });
    this.#call.on('cancelled', () => {
      finish(new StorError('ABORTED', 'the peer went away'));
    });
  }

  end(error: StorError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#callback(statusOf(error));
  }
}
