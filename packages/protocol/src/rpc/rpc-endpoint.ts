import type * as GrpcModule from '@grpc/grpc-js';
import type { Client, Metadata, ServiceDefinition, ServiceError } from '@grpc/grpc-js';
import { StorError } from '../errors.ts';
import { decodeRpcError, errorMetadataKey } from './rpc-error.ts';

type Grpc = typeof GrpcModule;

/** A list of 10,000 volumes is some 10 MiB; gRPC's own default of 4 MiB would refuse it. */
const maxRpcMessageBytes = 64 * 1024 * 1024;

/** An open connection is probed this often, and given up after this long without an answer (ms). */
const keepaliveMs = 2_000;
const keepaliveTimeoutMs = 1_000;

export interface RpcCall {
  method: string;
  request: object;
  /** for the whole call, connecting included (ms) */
  timeoutMs: number;
  /** for getting a connection (ms) */
  connectTimeoutMs: number;
  metadata?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** A call that is answered with messages until one side ends it. */
export interface RpcStreamCall {
  method: string;
  request: object;
  /** for getting a connection (ms); an open stream lives on, and is probed */
  connectTimeoutMs: number;
  signal?: AbortSignal | undefined;
  /** One after the other: the next is read when this one is resolved. Must not reject. */
  received(message: unknown): Promise<void> | void;
}

/**
 * What became of a call. The difference between `not-sent` and `lost` decides whether a change may
 * be tried again elsewhere, so it is a value and not an exception.
 */
export type RpcOutcome =
  | { type: 'answered'; response: unknown }
  /** the server answered with an error of ours */
  | { type: 'refused'; error: StorError }
  /** no connection: the server has certainly not seen it */
  | { type: 'not-sent' }
  /** it was sent and no answer came: it may or may not have been done */
  | { type: 'lost'; cause: Error }
  /** as lost, because time ran out */
  | { type: 'timeout' }
  | { type: 'aborted' };

/** One server address: connects when needed, forgets a connection that failed. */
export class RpcEndpoint {
  readonly address: string;
  readonly #definition: ServiceDefinition;
  #client: Client | null = null;
  #closed = false;

  constructor(address: string, definition: ServiceDefinition) {
    this.address = address;
    this.#definition = definition;
  }

  async call(call: RpcCall): Promise<RpcOutcome> {
    if (call.signal?.aborted) return { type: 'aborted' };
    const grpc = await import('@grpc/grpc-js');
    const deadlineMs = Date.now() + call.timeoutMs;
    const client = await this.#connected(grpc, {
      deadlineMs: Math.min(deadlineMs, Date.now() + call.connectTimeoutMs),
      signal: call.signal,
    });
    if (call.signal?.aborted) return { type: 'aborted' };
    if (!client) return { type: 'not-sent' };
    return this.#send(grpc, client, call, deadlineMs);
  }

  /** Never rejects; `answered` (with null): the server has ended it. */
  async stream(call: RpcStreamCall): Promise<RpcOutcome> {
    if (call.signal?.aborted) return { type: 'aborted' };
    const grpc = await import('@grpc/grpc-js');
    const deadlineMs = Date.now() + call.connectTimeoutMs;
    const client = await this.#connected(grpc, { deadlineMs, signal: call.signal });
    if (call.signal?.aborted) return { type: 'aborted' };
    return client ? this.#receive(grpc, client, call) : { type: 'not-sent' };
  }

  close(): void {
    this.#closed = true;
    this.#client?.close();
    this.#client = null;
  }

  /**
   * A client whose channel is ready, or null. Each try after a failure has a channel (and a pool)
   * of its own: gRPC would otherwise sit out its back-off against a server that is long back.
   */
  async #connected(
    grpc: Grpc,
    limits: { deadlineMs: number; signal: AbortSignal | undefined },
  ): Promise<Client | null> {
    if (this.#closed) return null;
    const client = (this.#client ??= new grpc.Client(
      this.address,
      grpc.credentials.createInsecure(),
      {
        'grpc.use_local_subchannel_pool': 1,
        'grpc.max_receive_message_length': maxRpcMessageBytes,
        // an http_proxy of the environment is not meant for traffic between nodes
        'grpc.enable_http_proxy': 0,
        'grpc.keepalive_time_ms': keepaliveMs,
        'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
      },
    ));
    const channel = client.getChannel();
    const { IDLE, CONNECTING, READY } = grpc.connectivityState;
    for (;;) {
      const state = channel.getConnectivityState(true);
      if (state === READY) return client;
      if (state !== IDLE && state !== CONNECTING) break;
      if (limits.signal?.aborted || Date.now() >= limits.deadlineMs) break;
      await stateChange(channel, state, limits);
    }
    if (this.#client === client) this.#client = null;
    client.close();
    return null;
  }

  #send(grpc: Grpc, client: Client, call: RpcCall, deadlineMs: number): Promise<RpcOutcome> {
    const method = this.#definition[call.method];
    if (!method) throw new StorError('INTERNAL', `there is no call ${call.method}`);
    const metadata = new grpc.Metadata();
    for (const [key, value] of Object.entries(call.metadata ?? {})) metadata.set(key, value);
    return new Promise((resolve) => {
      let onAbort = (): void => {};
      const unary = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        call.request,
        metadata,
        { deadline: deadlineMs },
        (error: ServiceError | null, response?: unknown) => {
          call.signal?.removeEventListener('abort', onAbort);
          if (!error) resolve({ type: 'answered', response });
          else if (call.signal?.aborted) resolve({ type: 'aborted' });
          else resolve(outcomeOf(grpc, error));
        },
      );
      onAbort = () => unary.cancel();
      call.signal?.addEventListener('abort', onAbort, { once: true });
      if (call.signal?.aborted) onAbort();
    });
  }

  async #receive(grpc: Grpc, client: Client, call: RpcStreamCall): Promise<RpcOutcome> {
    const method = this.#definition[call.method];
    if (!method) throw new StorError('INTERNAL', `there is no call ${call.method}`);
    const stream = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      call.request,
    );
    const onAbort = (): void => {
      stream.cancel();
    };
    call.signal?.addEventListener('abort', onAbort, { once: true });
    try {
      for await (const message of stream) {
        await call.received(message);
        if (call.signal?.aborted) break;
      }
      return call.signal?.aborted ? { type: 'aborted' } : { type: 'answered', response: null };
    } catch (error) {
      return call.signal?.aborted ? { type: 'aborted' } : outcomeOf(grpc, error as ServiceError);
    } finally {
      stream.cancel();
      call.signal?.removeEventListener('abort', onAbort);
    }
  }
}

function stateChange(
  channel: ReturnType<Client['getChannel']>,
  state: number,
  limits: { deadlineMs: number; signal: AbortSignal | undefined },
): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      limits.signal?.removeEventListener('abort', done);
      resolve();
    };
    limits.signal?.addEventListener('abort', done, { once: true });
    channel.watchConnectivityState(state, limits.deadlineMs, done);
  });
}

/** A failing channel hands out errors without metadata, whatever their type says. */
function ownError(metadata: Metadata | undefined): StorError | null {
  const value = metadata?.get(errorMetadataKey)[0];
  return value instanceof Uint8Array ? decodeRpcError(value) : null;
}

function outcomeOf(grpc: Grpc, error: ServiceError): RpcOutcome {
  const own = ownError(error.metadata);
  if (own) return { type: 'refused', error: own };
  if (error.code === grpc.status.DEADLINE_EXCEEDED) return { type: 'timeout' };
  if (error.code === grpc.status.UNIMPLEMENTED) {
    const message = 'the node does not know this call: it runs another version of Stor';
    return { type: 'refused', error: new StorError('FAILED_PRECONDITION', message) };
  }
  return { type: 'lost', cause: error };
}
