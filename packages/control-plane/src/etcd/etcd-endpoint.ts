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
import type { EtcdLogin } from './etcd-login.ts';
import type { EtcdServiceName, EtcdServices } from './etcd-services.ts';

/** A page of a listing: 500 records of ours are well below 1 MiB, of the largest values 500 MiB. */
const maxReceiveBytes = 1024 * 1024 * 1024;
/**
 * An open connection with calls is probed this often, and given up after this long without an
 * answer (ms). etcd cuts connections that are probed more often than every 5 s.
 */
const keepaliveMs = 6_000;
const keepaliveTimeoutMs = 2_000;

/** A reason for failing connections is looked for at most so often (ms). */
const explainedMs = 2_000;
/** Checking a password takes a server some 100 ms, which others may wait for (ms). */
const minLoginMs = 1_000;
/** The second: users were turned on after the login, which was none. */
const staleToken = /invalid auth token|user name is empty/;

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
  readonly #login: EtcdLogin | null;
  readonly #explain: () => Promise<string | null>;
  #client: Client | null = null;
  /** of the login; '' when the server has no users */
  #token: string | null = null;
  #loggingIn: Promise<EtcdOutcome | null> | null = null;
  #explainedMs = -Infinity;
  #trouble: string | null = null;
  #isClosed = false;

  constructor(
    address: string,
    services: EtcdServices,
    credentials: ChannelCredentials,
    options: {
      /** @default nobody logs in */
      login?: EtcdLogin | null;
      /** why connections fail, when that can be said @default it cannot */
      explain?: () => Promise<string | null>;
    } = {},
  ) {
    this.address = address;
    this.#services = services;
    this.#credentials = credentials;
    this.#login = options.login ?? null;
    this.#explain = options.explain ?? (async () => null);
  }

  /**
   * Why connections fail, as far as it is known by now; null: not known, or they do not. Nobody waits
   * for it: who calls again hears of it.
   */
  trouble(): string | null {
    const nowMs = Date.now();
    if (!this.#isClosed && nowMs - this.#explainedMs > explainedMs) {
      this.#explainedMs = nowMs;
      const done = (reason: string | null): void => {
        this.#trouble = reason;
      };
      this.#explain().then(done, () => {
        done(null);
      });
    }
    return this.#trouble;
  }

  /** One request, one answer; also of a method that streams both ways (the first answer counts). */
  async call(call: EtcdCall): Promise<EtcdOutcome> {
    const deadlineMs = Date.now() + call.timeoutMs;
    const connectMs = Math.min(deadlineMs, Date.now() + call.connectTimeoutMs);
    const client = await this.#connected(connectMs, call.signal);
    if (!client || call.signal.aborted) return { type: 'not-sent' };
    for (let tries = 0; ; tries++) {
      const failed = await this.#logIn(client, deadlineMs);
      if (failed) return failed;
      const token = this.#token;
      const outcome = await this.#send(client, call, deadlineMs);
      // nothing was done: the server was started anew, or nobody has used the token for minutes
      const isStale = outcome.type === 'refused' && staleToken.test(outcome.message);
      if (!isStale || !this.#login || tries > 0) return outcome;
      if (this.#token === token) this.#token = null;
    }
  }

  /**
   * Before a stream is opened, whose first message says nothing of tokens that are not valid any more:
   * logs in, also again when `anew`. Null when that is done, or there are no users.
   */
  async signIn(
    anew: boolean,
    limits: { timeoutMs: number; signal: AbortSignal },
  ): Promise<EtcdOutcome | null> {
    if (!this.#login) return null;
    if (anew) this.#token = null;
    const deadlineMs = Date.now() + limits.timeoutMs;
    const client = await this.#connected(deadlineMs, limits.signal);
    return client ? this.#logIn(client, deadlineMs) : { type: 'not-sent' };
  }

  /** Null when there is a token. Who is refused is told why; everything else was certainly not sent. */
  async #logIn(client: Client, deadlineMs: number): Promise<EtcdOutcome | null> {
    if (!this.#login || this.#token !== null) return null;
    this.#loggingIn ??= this.#authenticate(this.#login, client, deadlineMs).finally(() => {
      this.#loggingIn = null;
    });
    return this.#loggingIn;
  }

  async #authenticate(
    { user, password }: EtcdLogin,
    client: Client,
    deadlineMs: number,
  ): Promise<EtcdOutcome | null> {
    let request: { name: string; password: string };
    try {
      request = { name: user, password: password() };
    } catch (error) {
      return { type: 'refused', message: (error as Error).message };
    }
    const outcome = await this.#send(
      client,
      {
        service: 'Auth',
        method: 'Authenticate',
        request,
        timeoutMs: 0,
        connectTimeoutMs: 0,
        local: false,
        signal: new AbortController().signal,
      },
      Math.max(deadlineMs, Date.now() + minLoginMs),
    );
    if (outcome.type === 'answered') {
      this.#token = (outcome.response as { token: string }).token;
      return null;
    }
    if (outcome.type !== 'refused') return { type: 'not-sent' };
    if (!/authentication is not enabled/.test(outcome.message)) return outcome;
    this.#token = '';
    return null;
  }

  /**
   * A stream on a connection of its own: a reader that is slow must not hold up anybody else.
   * `close` ends both. Errors come as the stream's.
   */
  openStream(service: EtcdServiceName, method: string): { stream: EtcdStream; close(): void } {
    const client = this.#newClient();
    const stream = duplex(client, this.#methodOf(service, method), {}, this.#metadata(false));
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

  /** A server without a leader refuses at once, and ends streams, in place of being silent. */
  #metadata(local: boolean): Metadata {
    const metadata = new Metadata();
    if (!local) metadata.set('hasleader', 'true');
    if (this.#token) metadata.set('token', this.#token);
    return metadata;
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
        const stream = duplex(client, method, { deadline: deadlineMs }, this.#metadata(false));
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
          this.#metadata(call.local),
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

function duplex(
  client: Client,
  method: EtcdServices['KV'][string],
  options: { deadline?: number },
  metadata: Metadata,
): EtcdStream {
  return client.makeBidiStreamRequest<object, unknown>(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    metadata,
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
