import { decodeRpcError, StorError } from '@stor/protocol';
import type { RpcCall, RpcOutcome, RpcStreamCall, Services } from '@stor/protocol';
import type { Clock, Network, SocketTarget } from '@stor/runtime';
import { raftServiceDefinition } from '../embedded/raft-rpc.ts';
import type {
  OutgoingStream,
  OutgoingStreamEvents,
  RpcChannel,
  RpcServer,
  RpcServiceName,
  RpcTransport,
} from '../rpc/rpc-transport.ts';
import { batchFrames, frame, frameKind, splitHead, withHead, type Frame } from './rpc-frame.ts';
import { RpcConnection } from './rpc-connection.ts';
import { SocketRpcServer } from './socket-rpc-server.ts';

export interface SocketRpcOptions {
  /** the sockets of one process */
  network: Network;
  clock: Clock;
  /** `await loadServices()`, done once before any simulated time runs, as it reads files */
  services: Services;
}

export type Definitions = Services & { raft: typeof raftServiceDefinition };

/**
 * The model of gRPC: `RpcTransport` over the sockets and the clock of one simulated process, with
 * the real encodings of the messages, and the time limits, keepalive and outcomes of the real one.
 * What the network does to a socket (delay, stall, reset) it does to calls.
 */
export class SocketRpcTransport implements RpcTransport {
  readonly #network: Network;
  readonly #clock: Clock;
  readonly #definitions: Definitions;

  constructor({ network, clock, services }: SocketRpcOptions) {
    this.#network = network;
    this.#clock = clock;
    this.#definitions = { ...services, raft: raftServiceDefinition };
  }

  channel(address: string, service: RpcServiceName): RpcChannel {
    return new SocketChannel(address, service, this.#definitions, this.#network, this.#clock);
  }

  openStream(
    address: string,
    metadata: Readonly<Record<string, string>>,
    events: OutgoingStreamEvents,
  ): OutgoingStream {
    return new SocketStream(address, metadata, events, this.#network, this.#clock);
  }

  createServer(): Promise<RpcServer> {
    return Promise.resolve(new SocketRpcServer(this.#network, this.#definitions));
  }
}

function targetOf(address: string): SocketTarget {
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}

/** As the real endpoint's keepalive: probe an open connection with calls, give it up (ms). */
const callKeepalive = { everyMs: 2_000, timeoutMs: 1_000 };
/** As the real streams' (ms). */
const streamKeepalive = { everyMs: 2_000, timeoutMs: 2_000 };
/** Above this a stream's writer is told to wait (bytes). */
const fullBytes = 64 * 1024;

class SocketChannel implements RpcChannel {
  readonly address: string;
  readonly #service: RpcServiceName;
  readonly #definitions: Definitions;
  readonly #network: Network;
  readonly #clock: Clock;
  readonly #pending = new Map<number, (outcome: RpcOutcome) => void>();
  /** calls that are answered with messages */
  readonly #streams = new Map<number, (message: Buffer) => void>();
  #connection: RpcConnection | null = null;
  /** told when the connection is open (true) or cannot be had */
  #waiting: ((isOpen: boolean) => void)[] = [];
  #nextCall = 1;
  #isClosed = false;

  constructor(
    address: string,
    service: RpcServiceName,
    definitions: Definitions,
    network: Network,
    clock: Clock,
  ) {
    this.address = address;
    this.#service = service;
    this.#definitions = definitions;
    this.#network = network;
    this.#clock = clock;
  }

  async call(call: RpcCall): Promise<RpcOutcome> {
    if (call.signal?.aborted) return { type: 'aborted' };
    const startMs = this.#clock.monotonicMs();
    const isOpen = await this.#connected(call);
    if (call.signal?.aborted) return { type: 'aborted' };
    if (!isOpen) return { type: 'not-sent' };
    const leftMs = call.timeoutMs - (this.#clock.monotonicMs() - startMs);
    return leftMs > 0 ? this.#send(call, leftMs) : { type: 'timeout' };
  }

  /** Messages wait here without bound while one is being read: what a test must not rely on. */
  async stream(call: RpcStreamCall): Promise<RpcOutcome> {
    if (call.signal?.aborted) return { type: 'aborted' };
    const isOpen = await this.#connected({ ...call, timeoutMs: call.connectTimeoutMs });
    if (call.signal?.aborted) return { type: 'aborted' };
    if (!isOpen) return { type: 'not-sent' };
    let reading: Promise<void> = Promise.resolve();
    const method = this.#definitions[this.#service][call.method];
    const outcome = await this.#send(call, null, (body) => {
      const message: unknown = method?.responseDeserialize(body);
      reading = reading.then(() => {
        if (!call.signal?.aborted) return call.received(message);
      });
    });
    await reading;
    return call.signal?.aborted ? { type: 'aborted' } : outcome;
  }

  close(): void {
    this.#isClosed = true;
    if (this.#pending.size === 0) this.#forget();
  }

  #connected(call: Pick<RpcCall, 'timeoutMs' | 'connectTimeoutMs' | 'signal'>): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    if (this.#connection?.isOpen) return Promise.resolve(true);
    this.#connection ??= this.#connect();
    const connection = this.#connection;
    return new Promise((resolve) => {
      const done = (isOpen: boolean): void => {
        cancel();
        call.signal?.removeEventListener('abort', giveUp);
        this.#waiting = this.#waiting.filter((other) => other !== done);
        resolve(isOpen);
      };
      // a try that is given up is given up for all: the next call begins a new one
      const giveUp = (): void => {
        done(false);
        if (this.#connection === connection && !connection.isOpen) this.#forget();
      };
      const cancel = this.#clock.after(Math.min(call.timeoutMs, call.connectTimeoutMs), giveUp);
      call.signal?.addEventListener('abort', giveUp, { once: true });
      this.#waiting.push(done);
    });
  }

  #connect(): RpcConnection {
    const connection: RpcConnection = new RpcConnection(this.#network, this.#clock, {
      target: targetOf(this.address),
      keepalive: callKeepalive,
      opened: () => {
        if (this.#connection !== connection) return;
        for (const wake of [...this.#waiting]) wake(true);
      },
      frame: (received) => {
        this.#settle(received);
      },
      drained: () => {},
      closed: (reason) => {
        if (this.#connection === connection) this.#lose(reason);
      },
    });
    return connection;
  }

  #lose(reason: string): void {
    this.#connection = null;
    for (const wake of [...this.#waiting]) wake(false);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const settle of pending) settle({ type: 'lost', cause: new Error(reason) });
  }

  /** Drops the connection, which has no calls under way. */
  #forget(): void {
    const connection = this.#connection;
    this.#connection = null;
    for (const wake of [...this.#waiting]) wake(false);
    connection?.close();
  }

  /** `leftMs` null: it may last; `onMessage`: it is answered with messages. */
  #send(
    call: Pick<RpcCall, 'method' | 'request' | 'metadata' | 'signal'>,
    leftMs: number | null,
    onMessage?: (message: Buffer) => void,
  ): Promise<RpcOutcome> {
    const connection = this.#connection;
    if (!connection?.isOpen) return Promise.resolve({ type: 'not-sent' });
    const method = this.#definitions[this.#service][call.method];
    if (!method) throw new StorError('INTERNAL', `there is no call ${call.method}`);
    const id = this.#nextCall++;
    return new Promise((resolve) => {
      const finish = (outcome: RpcOutcome): void => {
        cancel();
        call.signal?.removeEventListener('abort', onAbort);
        this.#pending.delete(id);
        this.#streams.delete(id);
        if (this.#pending.size === 0) connection.probe(false);
        if (this.#pending.size === 0 && this.#isClosed) this.#forget();
        resolve(outcome);
      };
      const giveUp = (outcome: RpcOutcome): void => {
        connection.write(frame(frameKind.cancel, id));
        finish(outcome);
      };
      const onAbort = (): void => {
        giveUp({ type: 'aborted' });
      };
      const cancel =
        leftMs === null
          ? (): void => {}
          : this.#clock.after(leftMs, () => {
              giveUp({ type: 'timeout' });
            });
      if (onMessage) this.#streams.set(id, onMessage);
      call.signal?.addEventListener('abort', onAbort, { once: true });
      this.#pending.set(id, (outcome) => {
        finish(
          outcome.type === 'answered' && outcome.response !== null
            ? { type: 'answered', response: method.responseDeserialize(outcome.response as Buffer) }
            : outcome,
        );
      });
      const head = { service: this.#service, method: call.method, metadata: call.metadata ?? {} };
      const body = method.requestSerialize(call.request) as Uint8Array;
      connection.write(frame(frameKind.call, id, withHead(head, body)));
      connection.probe(true);
    });
  }

  #settle({ kind, call, body }: Frame): void {
    const settle = this.#pending.get(call);
    if (!settle) return;
    if (kind === frameKind.message) this.#streams.get(call)?.(Buffer.from(body));
    else if (kind === frameKind.over) settle({ type: 'answered', response: null });
    else if (kind === frameKind.answer) settle({ type: 'answered', response: Buffer.from(body) });
    else if (kind === frameKind.refused) settle({ type: 'refused', error: errorOf(body) });
    else settle({ type: 'refused', error: unknownMethod() });
  }
}

function errorOf(body: Uint8Array): StorError {
  return decodeRpcError(body) ?? new StorError('PROTOCOL', 'an error that cannot be read');
}

function unknownMethod(): StorError {
  const message = 'the node does not know this call: it runs another version of Stor';
  return new StorError('FAILED_PRECONDITION', message);
}

class SocketStream implements OutgoingStream {
  readonly #connection: RpcConnection;
  #isFull = false;
  #isOver = false;

  constructor(
    address: string,
    metadata: Readonly<Record<string, string>>,
    events: OutgoingStreamEvents,
    network: Network,
    clock: Clock,
  ) {
    const broken = (reason: string): void => {
      if (this.#isOver) return;
      this.close();
      events.broken(reason);
    };
    this.#connection = new RpcConnection(network, clock, {
      target: targetOf(address),
      keepalive: streamKeepalive,
      opened: () => {
        const head = { service: 'raft', method: 'Send', metadata };
        this.#connection.write(frame(frameKind.openStream, 0, withHead(head)));
        this.#connection.probe(true);
      },
      frame: ({ kind, body }) => {
        if (this.#isOver) return;
        if (kind === frameKind.accepted) {
          const { metadata: told } = splitHead(body).head;
          events.accepted((name) => told[name] ?? '');
        } else broken(kind === frameKind.ended ? errorOf(body).message : 'no streams are taken');
      },
      drained: () => {
        if (!this.#isFull || this.#isOver) return;
        this.#isFull = false;
        events.drained();
      },
      closed: broken,
    });
  }

  write(batch: Uint8Array): boolean {
    for (const bytes of batchFrames(batch)) this.#connection.write(bytes);
    this.#isFull = this.#connection.pendingBytes > fullBytes;
    return !this.#isFull;
  }

  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#connection.close();
  }
}
