import net from 'node:net';
import type { Test } from 'tap';
import {
  command,
  encodeGreeting,
  encodeInfo,
  encodeOptionReply,
  optionReplyType,
  optionType,
  readU64,
  requestHeaderBytes,
  simpleReplyBytes,
  writeSimpleReply,
} from '../../src/index.ts';

export const defaultFlags = 0x1ed;

/** What several servers serve: bytes, and which requests got to them. */
export class FakeDisk {
  readonly bytes: Buffer;
  flushes = 0;
  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  apply(request: FakeRequest): Buffer {
    const { type, offset, length } = request;
    if (type === command.write) this.bytes.set(request.payload, offset);
    if (type === command.writeZeroes || type === command.trim) {
      this.bytes.fill(0, offset, offset + length);
    }
    if (type === command.flush) this.flushes += 1;
    if (type !== command.read) return Buffer.alloc(0);
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }
}

export interface FakeRequest {
  connection: FakeConnection;
  type: number;
  flags: number;
  offset: number;
  length: number;
  payload: Buffer;
  cookie: number;
}

/** How a server meets a client that asks for the export. */
export type Meeting = 'grant' | 'unknown' | 'policy' | 'shutdown' | 'silent' | 'no-grant';

/** An NBD server of one export that does what a test tells it to. */
export class FakeNbdServer {
  readonly disk: FakeDisk;
  port = 0;
  meeting: Meeting | (() => Meeting) = 'grant';
  sizeBytes: number;
  flags = defaultFlags;
  /** connections accepted, and of these granted */
  accepted = 0;
  granted = 0;
  /** ends a connection when it has got so many bytes of requests */
  dropAfterBytes = Infinity;
  /** all requests that arrived */
  readonly requests: FakeRequest[] = [];
  /** Answers a request; unless given it is applied and answered at once. */
  onRequest: (request: FakeRequest) => void = (request) => this.answer(request);
  onGone: (connection: FakeConnection) => void = () => {};
  /** called before the export is granted */
  onGranting: () => void = () => {};
  readonly connections = new Set<FakeConnection>();
  #waiting: (() => void)[] = [];
  readonly #server = net.createServer((socket) => {
    this.accepted += 1;
    this.connections.add(new FakeConnection(this, socket));
    this.changed();
  });

  constructor(disk: FakeDisk) {
    this.disk = disk;
    this.sizeBytes = disk.bytes.length;
  }

  get address(): { host: string; port: number } {
    return { host: '127.0.0.1', port: this.port };
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.listen(this.port, '127.0.0.1', resolve);
    });
    this.port = (this.#server.address() as net.AddressInfo).port;
  }

  /** As when its process dies. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.drop();
    await closed;
  }

  drop(): void {
    for (const { socket } of this.connections) socket.destroy();
  }

  answer(request: FakeRequest): void {
    request.connection.reply(request, 0, this.disk.apply(request));
  }

  fail(request: FakeRequest, errno: number): void {
    request.connection.reply(request, errno, Buffer.alloc(0));
  }

  changed(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Resolves when something happened and `condition` is true. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Resolves with the request number `index` (from 0) as soon as it is there. */
  async request(index: number): Promise<FakeRequest> {
    await this.until(() => this.requests.length > index);
    return this.requests[index]!;
  }
}

export class FakeConnection {
  readonly server: FakeNbdServer;
  readonly socket: net.Socket;
  #got: Buffer = Buffer.alloc(0);
  #step: 'flags' | 'options' | 'requests' = 'flags';
  #bytes = 0;

  constructor(server: FakeNbdServer, socket: net.Socket) {
    this.server = server;
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('close', () => {
      server.connections.delete(this);
      server.onGone(this);
      server.changed();
    });
    if (this.#meeting() !== 'silent') socket.write(encodeGreeting(3));
  }

  reply(request: FakeRequest, errno: number, data: Buffer): void {
    const header = Buffer.alloc(simpleReplyBytes);
    writeSimpleReply(header, 0, errno, 0, request.cookie);
    this.socket.write(Buffer.concat([header, data]));
  }

  #meeting(): Meeting {
    const { meeting } = this.server;
    return typeof meeting === 'function' ? meeting() : meeting;
  }

  #receive(chunk: Buffer): void {
    this.#got = Buffer.concat([this.#got, chunk]);
    if (this.#step === 'requests') {
      this.#bytes += chunk.length;
      if (this.#bytes >= this.server.dropAfterBytes) {
        this.server.dropAfterBytes = Infinity;
        this.socket.destroy();
        return;
      }
    }
    while (!this.socket.destroyed && this.#takeOne()) this.server.changed();
  }

  #take(length: number): Buffer {
    const bytes = this.#got.subarray(0, length);
    this.#got = this.#got.subarray(length);
    return bytes;
  }

  #takeOne(): boolean {
    if (this.#step === 'flags') {
      if (this.#got.length < 4) return false;
      this.#take(4);
      this.#step = 'options';
      return true;
    }
    if (this.#step === 'options') {
      if (this.#got.length < 16) return false;
      const length = this.#got.readUInt32BE(12);
      if (this.#got.length < 16 + length) return false;
      this.#option(this.#take(16 + length).readUInt32BE(8));
      return true;
    }
    return this.#takeRequest();
  }

  #option(option: number): void {
    if (option === optionType.abort) {
      this.socket.end();
      return;
    }
    const say = (type: number, body?: Buffer): boolean =>
      this.socket.write(encodeOptionReply(option, type, body));
    if (option !== optionType.go) {
      say(optionReplyType.errUnsup);
      return;
    }
    const meeting = this.#meeting();
    const why = Buffer.from(`${meeting} says ${this.server.port}`);
    if (meeting === 'unknown') say(optionReplyType.errUnknown, why);
    if (meeting === 'policy') say(optionReplyType.errPolicy, why);
    if (meeting === 'shutdown') say(optionReplyType.errShutdown, why);
    if (meeting !== 'grant') return;
    this.server.onGranting();
    const { sizeBytes, flags } = this.server;
    say(optionReplyType.info, encodeInfo({ kind: 'export', sizeBytes, flags }));
    say(optionReplyType.ack);
    this.#step = 'requests';
    this.server.granted += 1;
  }

  #takeRequest(): boolean {
    if (this.#got.length < requestHeaderBytes) return false;
    const type = this.#got.readUInt16BE(6);
    const length = this.#got.readUInt32BE(24);
    const total = requestHeaderBytes + (type === command.write ? length : 0);
    if (this.#got.length < total) return false;
    const bytes = Buffer.from(this.#take(total));
    if (type === command.disconnect) {
      this.socket.end();
      return true;
    }
    const request: FakeRequest = {
      connection: this,
      type,
      flags: bytes.readUInt16BE(4),
      offset: readU64(bytes, 16),
      length,
      payload: bytes.subarray(requestHeaderBytes),
      cookie: bytes.readUInt32BE(12),
    };
    this.server.requests.push(request);
    this.server.onRequest(request);
    return true;
  }
}

/** Servers of one disk; they are closed with the test. */
export async function startServers(
  t: Test,
  count: number,
  sizeBytes: number = 1 << 20,
): Promise<{ disk: FakeDisk; servers: FakeNbdServer[] }> {
  const disk = new FakeDisk(sizeBytes);
  const servers: FakeNbdServer[] = [];
  for (let n = 0; n < count; n += 1) {
    const server = new FakeNbdServer(disk);
    await server.listen();
    servers.push(server);
    t.teardown(() => server.close());
  }
  return { disk, servers };
}
