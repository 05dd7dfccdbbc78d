import type { RpcCall, RpcOutcome, RpcStreamCall, StorError } from '@stor/protocol';

/**
 * The services between processes: `stor` is the public API, `agent` what a node asks of another
 * (both in `protocol/proto`), `raft` the members of the embedded store (`embedded/raft-rpc.ts`).
 */
export type RpcServiceName = 'stor' | 'agent' | 'raft';

/** What a server's method knows of the call besides the request. */
export interface RpcContext {
  /** aborts when the caller has given up or is gone */
  signal: AbortSignal;
  /** a value of the call's metadata; empty when absent */
  header(name: string): string;
}

/** Rejects with what the caller is told; what is no StorError reaches it as INTERNAL. */
export type RpcMethod = (request: never, context: RpcContext) => Promise<object>;

/**
 * Answers with messages until it returns or rejects. `send` resolves when there is room for the next
 * one, which is never when the caller does not read: whoever waits for it looks at the time too.
 */
export type RpcStreamMethod = (
  request: never,
  context: RpcContext,
  send: (message: object) => Promise<void>,
) => Promise<void>;

/** Calls to one address. Connects when needed, forgets a connection that failed. */
export interface RpcChannel {
  readonly address: string;
  /** Never rejects: the outcome says what is known. */
  call(call: RpcCall): Promise<RpcOutcome>;
  /** Resolves when the stream is over; never rejects. */
  stream(call: RpcStreamCall): Promise<RpcOutcome>;
  /** Later calls are not sent; those under way go on. Works twice. */
  close(): void;
}

/** Sender of one-way streams of byte batches (the `Send` of Raft). */
export interface OutgoingStream {
  /**
   * False when what waits is above the transport's mark: `drained` says when to go on. The batch
   * must not change afterwards.
   */
  write(batch: Uint8Array): boolean;
  /** Ends it at once, without an event. Works twice. */
  close(): void;
}

/** None is called before `openStream` has returned. */
export interface OutgoingStreamEvents {
  /** The other side has accepted the stream, with this metadata; write only after that. */
  accepted(header: (name: string) => string): void;
  drained(): void;
  /** Once, when it could not be opened or has broken; a part of what was written is lost then. */
  broken(reason: string): void;
}

/** Receiver of such a stream. Exactly one of `accept` and `end` is called in the turn it arrives. */
export interface IncomingStream {
  header(name: string): string;
  /**
   * `batch`: in order, the bytes are the receiver's to keep; when it throws, the stream ends with that
   * error. `closed`: once, unless `end` came before. `metadata`: what the sender is told.
   */
  accept(
    events: { batch(bytes: Uint8Array): void; closed(): void },
    metadata?: Readonly<Record<string, string>>,
  ): void;
  /** Refuses the stream or ends it; the sender hears of it as `broken`. Works twice. */
  end(error: StorError): void;
}

/** Answers calls at one address. */
export interface RpcServer {
  /**
   * Methods by name in camelCase, in place of those that the service had. INTERNAL when one of the
   * service's is missing.
   */
  addService(
    name: RpcServiceName,
    methods: Readonly<Record<string, RpcMethod>>,
    streams?: Readonly<Record<string, RpcStreamMethod>>,
  ): void;
  /** In place of the receiver before. */
  addStream(receive: (stream: IncomingStream) => void): void;
  /**
   * Resolves with the port; 0 gives a free one. Rejects with the system's error, for example
   * EADDRINUSE. Services may be added before and after.
   */
  listen(host: string, port: number): Promise<number>;
  /** Cuts every connection and listens no more. Works twice. */
  forceShutdown(): void;
}

/**
 * Calls between processes as an argument: gRPC (`grpcTransport`) or a simulator's model of it
 * (`SocketRpcTransport` of `control-plane/testing`). Both pass `rpcTransportSuite`.
 */
export interface RpcTransport {
  channel(address: string, service: RpcServiceName): RpcChannel;
  openStream(
    address: string,
    metadata: Readonly<Record<string, string>>,
    events: OutgoingStreamEvents,
  ): OutgoingStream;
  createServer(): Promise<RpcServer>;
}
