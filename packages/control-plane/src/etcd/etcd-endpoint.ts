import {
  Client,
  Metadata,
  connectivityState,
  status,
  type ChannelCredentials,
  type ClientDuplexStream,
  type ClientUnaryCall,
  type ServiceError,
} from '@grpc/grpc-js';
import type { EtcdServiceName, EtcdServices } from './etcd-services.ts';

/** A page of a listing: 500 records of ours are well below 1 MiB, of the largest values 500 MiB. */
const maxReceiveBytes = 1024 * 1024 * 1024;
/**
 * An open connection with calls is probed this often, and given up after this long without an
 * answer (ms). etcd cuts connections that are probed more often than every 5 s.
 */
const keepaliveMs = 6_000;
const keepaliveTimeoutMs = 2_000;

export interface EtcdCall {
  service: EtcdServiceName;
  method: string;
  request: object;
  /** for the whole call, connecting included (ms) */
  timeoutMs: number;
  connectTimeoutMs: number;
  /** a server that knows no leader answers too */
  local: boolean;
  signal: AbortSignal;
}

/** What became of a call; as `RpcOutcome`. */
export type EtcdOutcome =
  | { type: 'answered'; response: unknown }
  /** the server answered with an error; `message` is etcd's text */
  | { type: 'refused'; message: string }
  /** no connection: the server has certainly not seen it */
  | { type: 'not-sent' }
  | { type: 'lost'; cause: Error }
  | { type: 'timeout' }
  | { type: 'aborted' };

export type EtcdStream = ClientDuplexStream<object, unknown>;

/** One etcd server: connects when needed, forgets a connection that failed. */
export class EtcdEndpoint {
  readonly address: string;
  readonly #services: EtcdServices;
  readonly #credentials: ChannelCredentials;
  #client: Client | null = null;
  #isClosed = false;

  constructor(address: string, services: EtcdServices, credentials: ChannelCredentials) {
    this.address = address;
    this.#services = services;
    this.#credentials = credentials;
  }

  /** One request, one answer; also of a method that streams both ways (the first answer counts). */
  async call(call: EtcdCall): Promise<EtcdOutcome> {
    const deadlineMs = Date.now() + call.timeoutMs;
    const connectMs = Math.min(deadlineMs, Date.now() + call.connectTimeoutMs);
    const client = await this.#connected(connectMs, call.signal);
    if (!client || call.signal.aborted) return { type: 'not-sent' };
    return this.#send(client, call, deadlineMs);
  }

  /**
   * A stream on a connection of its own: a reader that is slow must not hold up anybody else.
   * `close` ends both. Errors come as the stream's.
   */
  openStream(service: EtcdServiceName, method: string): { stream: EtcdStream; close(): void } {
    const client = this.#newClient();
    const stream = duplex(client, this.#methodOf(service, method), {});
    return {
      stream,
      close: () => {
        stream.cancel();
        client.close();
      },
    };
  }

  close(): void {
    this.#isClosed = true;
    this.#client?.close();
    this.#client = null;
  }

  #methodOf(service: EtcdServiceName, method: string) {
    const definition = this.#services[service][method];
    if (!definition) throw new Error(`etcd has no ${service}/${method}`);
    return definition;
  }

  #newClient(): Client {
    return new Client(this.address, this.#credentials, {
      // each try has a connection of its own: gRPC would sit out its back-off against a server
      // that is long back
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      // what was sent once must not be sent again behind our back
      'grpc.enable_retries': 0,
      'grpc.max_receive_message_length': maxReceiveBytes,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    });
  }

  async #connected(deadlineMs: number, signal: AbortSignal): Promise<Client | null> {
    if (this.#isClosed || signal.aborted) return null;
    const client = (this.#client ??= this.#newClient());
    const { IDLE, CONNECTING, READY } = connectivityState;
    for (;;) {
      const state = client.getChannel().getConnectivityState(true);
      if (state === READY) return client;
      if (state !== IDLE && state !== CONNECTING) break;
      if (signal.aborted || Date.now() >= deadlineMs) break;
      await stateChange(client, state, deadlineMs, signal);
    }
    if (this.#client === client) {
      this.#client = null;
      client.close();
    }
    return null;
  }

  #send(client: Client, call: EtcdCall, deadlineMs: number): Promise<EtcdOutcome> {
    const method = this.#methodOf(call.service, call.method);
    return new Promise((resolve) => {
      const finish = (error: ServiceError | null, response?: unknown): void => {
        call.signal.removeEventListener('abort', onAbort);
        if (!error) resolve({ type: 'answered', response });
        else if (call.signal.aborted) resolve({ type: 'aborted' });
        else resolve(outcomeOf(error));
      };
      let sent: ClientUnaryCall | EtcdStream;
      if (method.responseStream) {
        const stream = duplex(client, method, { deadline: deadlineMs });
        stream.once('data', (response: unknown) => {
          finish(null, response);
          stream.cancel();
        });
        // after the answer: of our own cancelling
        stream.on('error', finish);
        stream.once('end', () => {
          finish(Object.assign(new Error('the server ended the stream'), noStatus));
        });
        stream.write(call.request);
        sent = stream;
      } else {
        sent = client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          call.request,
          call.local ? new Metadata() : withLeader(),
          { deadline: deadlineMs },
          finish,
        );
      }
      const onAbort = (): void => {
        sent.cancel();
      };
      call.signal.addEventListener('abort', onAbort, { once: true });
      if (call.signal.aborted) onAbort();
    });
  }
}

const noStatus = { code: status.UNKNOWN, details: '', metadata: new Metadata() };

/** A server without a leader refuses at once, and ends streams, in place of being silent. */
function withLeader(): Metadata {
  const metadata = new Metadata();
  metadata.set('hasleader', 'true');
  return metadata;
}

function duplex(
  client: Client,
  method: EtcdServices['KV'][string],
  options: { deadline?: number },
): EtcdStream {
  return client.makeBidiStreamRequest<object, unknown>(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    withLeader(),
    options,
  );
}

/** Texts that begin so are the server's own; others are made up by the client's side. */
const ownText = /^(etcdserver|auth): /;

function outcomeOf(error: ServiceError): EtcdOutcome {
  if (ownText.test(error.details)) return { type: 'refused', message: error.details };
  if (error.code === status.DEADLINE_EXCEEDED) return { type: 'timeout' };
  return { type: 'lost', cause: error };
}

function stateChange(
  client: Client,
  state: number,
  deadlineMs: number,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      signal.removeEventListener('abort', done);
      resolve();
    };
    signal.addEventListener('abort', done, { once: true });
    client.getChannel().watchConnectivityState(state, deadlineMs, done);
  });
}
