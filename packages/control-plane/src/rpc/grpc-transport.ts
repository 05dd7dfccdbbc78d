import {
  Client,
  Metadata,
  Server,
  ServerCredentials,
  credentials as grpcCredentials,
  type ChannelCredentials,
  type ClientWritableStream,
  type ServiceDefinition,
  type ServiceError,
} from '@grpc/grpc-js';
import {
  loadServices,
  RpcEndpoint,
  type RpcCall,
  type RpcOutcome,
  type RpcStreamCall,
} from '@stor/protocol';
import { splitBatch } from '../embedded/raft-frames.ts';
import { fromBytes, raftServiceDefinition, sendPath, toBytes } from '../embedded/raft-rpc.ts';
import { GrpcServer, headerOf } from './grpc-server.ts';
import type {
  OutgoingStream,
  OutgoingStreamEvents,
  RpcChannel,
  RpcServer,
  RpcServiceName,
  RpcTransport,
} from './rpc-transport.ts';

/** Transactions carry values up to 1 MiB each; Raft messages carry several (bytes). */
const maxReceiveBytes = 64 * 1024 * 1024;
/** An open stream is probed this often, and given up after this long without answer (ms). */
const keepaliveMs = 2_000;
const keepaliveTimeoutMs = 2_000;

export interface GrpcTransportOptions {
  /** of the streams to other members; default: without TLS */
  credentials?: ChannelCredentials;
}

/** Calls between processes over gRPC. */
export function grpcTransport(options: GrpcTransportOptions = {}): RpcTransport {
  return {
    channel: (address, service) => new GrpcChannel(address, service),
    openStream: (address, metadata, events) =>
      new GrpcStream(address, metadata, events, options.credentials),
    createServer: async (): Promise<RpcServer> => {
      const services = await loadServices();
      const server = new Server({ 'grpc.max_receive_message_length': maxReceiveBytes });
      return new GrpcServer(
        server,
        { ...services, raft: raftServiceDefinition },
        ServerCredentials.createInsecure(),
      );
    },
  };
}

async function definitionOf(service: RpcServiceName): Promise<ServiceDefinition> {
  return service === 'raft' ? raftServiceDefinition : (await loadServices())[service];
}

/** An `RpcEndpoint` whose service definition is loaded at the first call. */
class GrpcChannel implements RpcChannel {
  readonly address: string;
  readonly #service: RpcServiceName;
  #endpoint: Promise<RpcEndpoint> | null = null;
  #isClosed = false;

  constructor(address: string, service: RpcServiceName) {
    this.address = address;
    this.#service = service;
  }

  async call(call: RpcCall): Promise<RpcOutcome> {
    if (this.#isClosed) return { type: 'not-sent' };
    return (await this.#opened()).call(call);
  }

  async stream(call: RpcStreamCall): Promise<RpcOutcome> {
    if (this.#isClosed) return { type: 'not-sent' };
    return (await this.#opened()).stream(call);
  }

  close(): void {
    this.#isClosed = true;
    void this.#endpoint?.then((endpoint) => {
      endpoint.close();
    });
  }

  #opened(): Promise<RpcEndpoint> {
    this.#endpoint ??= definitionOf(this.#service).then(
      (definition) => new RpcEndpoint(this.address, definition),
    );
    return this.#endpoint;
  }
}

class GrpcStream implements OutgoingStream {
  readonly #client: Client;
  readonly #stream: ClientWritableStream<Uint8Array>;
  #isOver = false;

  constructor(
    address: string,
    headers: Readonly<Record<string, string>>,
    events: OutgoingStreamEvents,
    credentials: ChannelCredentials = grpcCredentials.createInsecure(),
  ) {
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(headers)) metadata.set(key, value);
    // a client of its own for each try: gRPC would sit out its own back-off when the peer is back
    this.#client = new Client(address, credentials, {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_retries': 0,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    });
    const broken = (reason: string): void => {
      if (this.#isOver) return;
      this.close();
      events.broken(reason);
    };
    this.#stream = this.#client.makeClientStreamRequest(
      sendPath,
      toBytes,
      fromBytes,
      metadata,
      (error: ServiceError | null) => {
        broken(error?.message ?? 'the peer ended the stream');
      },
    );
    this.#stream.on('error', (error: Error) => {
      broken(error.message);
    });
    // the peer answers with headers once it has accepted us
    this.#stream.on('metadata', (accepted: Metadata) => {
      if (!this.#isOver) events.accepted((name) => headerOf(accepted, name));
    });
    this.#stream.on('drain', () => {
      if (!this.#isOver) events.drained();
    });
  }

  write(batch: Uint8Array): boolean {
    let room = true;
    for (const piece of splitBatch(batch)) room = this.#stream.write(piece);
    return room;
  }

  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stream.cancel();
    this.#client.close();
  }
}
