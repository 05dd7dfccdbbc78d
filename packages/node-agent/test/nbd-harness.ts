import net from 'node:net';
import tls from 'node:tls';
import { StorError } from '@stor/protocol';
import type { DirtyExtent } from '@stor/replicator';
import { silentLogger, systemClock, type Clock, type Network } from '@stor/runtime';
import {
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  greetingBytes,
  optionReplyHeaderBytes,
  optionType,
  requestHeaderBytes,
  writeRequest,
} from 'nbd-client-js';
import type { Test } from 'tap';
import type { NbdLimits } from '../src/core/nbd/nbd-limits.ts';
import type { ConnectionTls } from '../src/nbd/nbd-connection.ts';
import type { NbdCaller, NbdExportLease, NbdExports } from '../src/nbd/nbd-exports.ts';
import { NbdServer } from '../src/nbd/nbd-server.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

/** What the harness says of changes is said of so many bytes. */
export const changedBytes = 64 * 1024;

/** Volumes in memory, with a count of leases that must come out even. */
export class TestExports implements NbdExports {
  readonly volumes = new Map<string, MemoryBlockDevice>();
  /** of each volume, the chunks of 64 KiB that have changed since; exported as `volume@snapshot` too */
  readonly snapshots = new Map<string, Map<string, Set<number>>>();
  /** who asked for what */
  readonly asked: { what: string; caller: NbdCaller }[] = [];
  opened = 0;
  released = 0;
  /** leases released while requests of the device were unfinished */
  releasedTooEarly = 0;
  openError: StorError | null = null;
  /** opens wait for it */
  openGate: Promise<void> | null = null;
  readonly revokers = new Set<() => void>();

  add(name: string, sizeBytes: number): MemoryBlockDevice {
    const device = new MemoryBlockDevice(sizeBytes);
    this.volumes.set(name, device);
    return device;
  }

  list(caller: NbdCaller): Promise<string[]> {
    this.asked.push({ what: 'list', caller });
    return Promise.resolve([...this.volumes.keys()]);
  }

  async info(
    name: string,
    caller: NbdCaller,
  ): Promise<{ sizeBytes: number; name: string; readOnly: boolean }> {
    this.asked.push({ what: `info ${name}`, caller });
    return { name, sizeBytes: this.#device(name).sizeBytes, readOnly: name.includes('@') };
  }

  async describe(name: string): Promise<string> {
    return `memory of ${this.#device(name).sizeBytes} bytes`;
  }

  async snapshotsOf(name: string, asked: readonly string[] | 'all'): Promise<string[]> {
    this.#device(name);
    const all = [...(this.snapshots.get(name)?.keys() ?? [])];
    return asked === 'all' ? all : all.filter((each) => asked.includes(each));
  }

  async open(name: string, caller: NbdCaller): Promise<NbdExportLease> {
    this.asked.push({ what: `open ${name}`, caller });
    if (this.openGate) await this.openGate;
    if (this.openError) throw this.openError;
    const device = this.#device(name);
    this.opened += 1;
    let isReleased = false;
    return {
      device,
      readOnly: name.includes('@'),
      changedSince: (snapshot, offset, length, limit, done) => {
        const changed = this.snapshots.get(name)?.get(snapshot);
        if (!changed) {
          done(new StorError('NOT_FOUND', `no snapshot ${snapshot}`), []);
          return;
        }
        const extents: DirtyExtent[] = [];
        for (let at = offset; at < offset + length && extents.length <= limit;) {
          const chunk = Math.floor(at / changedBytes);
          const end = Math.min(offset + length, (chunk + 1) * changedBytes);
          const last = extents.at(-1);
          if (last?.dirty === changed.has(chunk)) last.length += end - at;
          else extents.push({ offset: at, length: end - at, dirty: changed.has(chunk) });
          at = end;
        }
        setImmediate(() => {
          done(null, extents.slice(0, limit));
        });
      },
      name,
      volumeId: `v-${name}`,
      isRelay: false,
      release: () => {
        if (isReleased) throw new Error('a lease was released twice');
        isReleased = true;
        this.released += 1;
        if (device.pending > 0) this.releasedTooEarly += 1;
      },
      onRevoked: (listener) => {
        this.revokers.add(listener);
      },
    };
  }

  #device(name: string): MemoryBlockDevice {
    const device = this.volumes.get(name);
    if (!device) throw new StorError('NOT_FOUND', `no volume ${JSON.stringify(name)}`);
    return device;
  }
}

export interface TestServer {
  server: NbdServer;
  exports: TestExports;
  device: MemoryBlockDevice;
  port: number;
}

/** A server with one volume `db`, closed when the test is over. */
export async function startServer(
  t: Test,
  options: {
    sizeBytes?: number;
    limits?: Partial<NbdLimits>;
    path?: string;
    clock?: Clock;
    tls?: ConnectionTls;
    network?: Network;
    /** of a server before this one */
    exports?: TestExports;
  } = {},
): Promise<TestServer> {
  const exports = options.exports ?? new TestExports();
  const device = exports.volumes.get('db') ?? exports.add('db', options.sizeBytes ?? 1 << 20);
  const server = await NbdServer.listen({
    targets: [{ host: '127.0.0.1', port: 0 }, ...(options.path ? [{ path: options.path }] : [])],
    exports,
    clock: options.clock ?? systemClock,
    ...(options.network ? { network: options.network } : {}),
    logger: silentLogger,
    limits: { closeDrainMs: 2_000, ...options.limits },
    ...(options.tls ? { tls: options.tls } : {}),
  });
  t.teardown(() => server.close());
  return { server, exports, device, port: server.port };
}

/** Resolves when the condition holds; the test's own timeout ends a wait in vain. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise<void>((resolve) => setImmediate(resolve));
}

export interface RawRequest {
  type: number;
  flags?: number;
  offset?: number | bigint;
  length?: number;
  cookie?: number;
  payload?: Buffer;
}

export function encodeRequest(request: RawRequest): Buffer {
  const bytes = Buffer.alloc(requestHeaderBytes);
  const { type, flags = 0, offset = 0, payload = Buffer.alloc(0) } = request;
  writeRequest(bytes, 0, {
    type,
    flags,
    cookieHigh: 0xc00c1e,
    cookieLow: request.cookie ?? 1,
    offset: 0,
    length: request.length ?? payload.length,
  });
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  return Buffer.concat([bytes, payload]);
}

/** A client that sends bytes as a test wants them. */
export class RawClient {
  socket: net.Socket;
  #got: Buffer = Buffer.alloc(0);
  #wake: () => void = () => {};
  ended = false;

  constructor(target: net.NetConnectOpts) {
    this.socket = net.connect(target);
    this.socket.on('error', () => {});
    this.socket.on('data', (chunk) => {
      this.#got = Buffer.concat([this.#got, chunk]);
      this.#wake();
    });
    this.socket.on('close', () => {
      this.ended = true;
      this.#wake();
    });
  }

  /** Goes on as TLS, after the answer to STARTTLS. Rejects with why there is none. */
  async secure(options: tls.ConnectionOptions): Promise<tls.TLSSocket> {
    const plain = this.socket;
    plain.removeAllListeners('data');
    const secure = tls.connect({ ...options, socket: plain });
    secure.on('data', (chunk: Buffer) => {
      this.#got = Buffer.concat([this.#got, chunk]);
      this.#wake();
    });
    await new Promise<void>((resolve, reject) => {
      secure.once('secureConnect', resolve);
      secure.on('error', reject);
    });
    this.socket = secure;
    return secure;
  }

  send(...parts: Buffer[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async take(length: number): Promise<Buffer> {
    while (this.#got.length < length) {
      if (this.ended) throw new Error(`the server left after ${this.#got.length} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const bytes = this.#got.subarray(0, length);
    this.#got = this.#got.subarray(length);
    return bytes;
  }

  /** All that comes until the server closes. */
  async rest(): Promise<Buffer> {
    while (!this.ended) await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.#got;
  }

  async greet(flags = 3): Promise<void> {
    await this.take(greetingBytes);
    this.send(encodeClientFlags(flags));
  }

  async takeReply(): Promise<{ option: number; type: number; data: Buffer }> {
    const header = await this.take(optionReplyHeaderBytes);
    return {
      option: header.readUInt32BE(8),
      type: header.readUInt32BE(12),
      data: await this.take(header.readUInt32BE(16)),
    };
  }

  /** Sends an option and takes its replies up to the last. */
  async option(option: number, data?: Buffer): Promise<{ type: number; data: Buffer }[]> {
    this.send(encodeOption(option, data));
    const replies: { type: number; data: Buffer }[] = [];
    for (;;) {
      const reply = await this.takeReply();
      if (reply.option !== option) throw new Error(`reply to option ${reply.option}`);
      replies.push({ type: reply.type, data: reply.data });
      if (reply.type === 1 || reply.type >= 0x80000000) return replies;
    }
  }

  async go(
    name: string,
    options: { structured?: boolean; extended?: boolean; context?: boolean } = {},
  ): Promise<void> {
    await this.greet();
    if (options.extended) await this.option(optionType.extendedHeaders);
    if (options.structured) await this.option(optionType.structuredReply);
    if (options.context) {
      const queries = ['base:allocation'];
      await this.option(optionType.setMetaContext, encodeMetaContextBody({ name, queries }));
    }
    const replies = await this.option(optionType.go, encodeGoBody({ name, infos: [] }));
    if (replies.at(-1)?.type !== 1) throw new Error(`GO was refused`);
  }

  request(request: RawRequest): void {
    this.send(encodeRequest(request));
  }

  /** A request with an extended header; `length` unless given is that of the payload. */
  extended(request: Omit<RawRequest, 'length'> & { length?: number | bigint }): void {
    const { type, flags = 0, offset = 0, payload = Buffer.alloc(0) } = request;
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32BE(0x21e41c71, 0);
    bytes.writeUInt16BE(flags, 4);
    bytes.writeUInt16BE(type, 6);
    bytes.writeUInt32BE(0xc00c1e, 8);
    bytes.writeUInt32BE(request.cookie ?? 1, 12);
    bytes.writeBigUInt64BE(BigInt(offset), 16);
    bytes.writeBigUInt64BE(BigInt(request.length ?? payload.length), 24);
    this.send(bytes, payload);
  }

  async extendedChunk(): Promise<{
    flags: number;
    type: number;
    cookie: number;
    offset: bigint;
    body: Buffer;
  }> {
    const bytes = await this.take(32);
    if (bytes.readUInt32BE(0) !== 0x6e8a278c)
      throw new Error(`not an extended chunk: ${bytes.toString('hex')}`);
    if (bytes.readUInt32BE(8) !== 0xc00c1e) throw new Error('reply to another request');
    return {
      flags: bytes.readUInt16BE(4),
      type: bytes.readUInt16BE(6),
      cookie: bytes.readUInt32BE(12),
      offset: bytes.readBigUInt64BE(16),
      body: await this.take(Number(bytes.readBigUInt64BE(24))),
    };
  }

  /** A simple reply: its error number. Its cookie must be the one that `request` sends. */
  async simple(cookie = 1): Promise<number> {
    const bytes = await this.take(16);
    if (bytes.readUInt32BE(0) !== 0x67446698)
      throw new Error(`not a simple reply: ${bytes.toString('hex')}`);
    if (bytes.readUInt32BE(8) !== 0xc00c1e || bytes.readUInt32BE(12) !== cookie) {
      throw new Error('reply to another request');
    }
    return bytes.readUInt32BE(4);
  }

  async chunk(): Promise<{ flags: number; type: number; body: Buffer }> {
    const bytes = await this.take(20);
    if (bytes.readUInt32BE(0) !== 0x668e33ef)
      throw new Error(`not a chunk: ${bytes.toString('hex')}`);
    return {
      flags: bytes.readUInt16BE(4),
      type: bytes.readUInt16BE(6),
      body: await this.take(bytes.readUInt32BE(16)),
    };
  }
}

export function rawClient(t: Test, port: number): RawClient {
  const client = new RawClient({ host: '127.0.0.1', port });
  t.teardown(() => client.socket.destroy());
  return client;
}
