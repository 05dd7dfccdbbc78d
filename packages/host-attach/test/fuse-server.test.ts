import { errno, NbdError } from 'nbd-client-js';
import { silentLogger } from '@stor/runtime';
import t, { type Test } from 'tap';
import { FuseDisk } from '../src/core/fuse-disk.ts';
import { linuxErrno } from '../src/core/fuse-numbers.ts';
import type { ChannelError, FuseChannel } from '../src/device/fuse-channel.ts';
import { FuseServer, type DeviceVolume, type FuseServerLimits } from '../src/device/fuse-server.ts';
import {
  body,
  fallocateMessage,
  fsyncMessage,
  readMessage,
  writeMessage,
} from './support/fuse-messages.ts';

type Reader = (error: ChannelError | null, message: Buffer) => void;

/** A kernel that a test plays. */
class FakeChannel implements FuseChannel {
  readonly #readers: Reader[] = [];
  readonly #messages: Buffer[] = [];
  #over = false;
  readonly answers = new Map<bigint, Buffer>();
  #wake: (() => void)[] = [];

  /** reads that wait */
  get waiting(): number {
    return this.#readers.length;
  }

  read(target: Buffer, done: (error: ChannelError | null, length: number) => void): void {
    this.#readers.push((error, bytes) => done(error, error ? 0 : bytes.copy(target)));
    setImmediate(() => this.#hand());
  }

  write(parts: readonly Buffer[]): void {
    const answer = Buffer.concat(parts);
    this.answers.set(answer.readBigUInt64LE(8), answer);
    for (const wake of this.#wake.splice(0)) wake();
  }

  send(...messages: Buffer[]): void {
    this.#messages.push(...messages);
    this.#hand();
  }

  /** As when it is unmounted. */
  end(code = 'ENODEV'): void {
    this.#over = true;
    this.#code = code;
    this.#hand();
  }
  #code = '';

  async answer(unique: bigint): Promise<Buffer> {
    for (;;) {
      const found = this.answers.get(unique);
      if (found) return found;
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  #hand(): void {
    while (this.#readers.length > 0 && this.#messages.length > 0) {
      this.#readers.shift()?.(null, this.#messages.shift() ?? Buffer.alloc(0));
    }
    if (!this.#over) return;
    const error = Object.assign(new Error(this.#code), { code: this.#code });
    for (const reader of this.#readers.splice(0)) reader(error, Buffer.alloc(0));
  }
}

/** A volume in memory whose requests a test may hold. */
class FakeVolume implements DeviceVolume {
  readonly bytes = Buffer.alloc(4 * 1024 * 1024);
  flushes = 0;
  error: Error | null = null;
  held = 0;
  #gate: Promise<void> | null = null;
  #open: () => void = () => {};

  hold(): void {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  release(): void {
    this.#gate = null;
    this.#open();
  }

  async read(offset: number, length: number): Promise<Buffer> {
    await this.#pass();
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    await this.#pass();
    bytes.copy(this.bytes, offset);
  }

  async zero(offset: number, length: number): Promise<void> {
    await this.#pass();
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    await this.#pass();
    this.flushes += 1;
  }

  async #pass(): Promise<void> {
    this.held += 1;
    await this.#gate;
    this.held -= 1;
    if (this.error) throw this.error;
  }
}

function serve(t: Test, limits: Partial<FuseServerLimits> = {}) {
  const channel = new FakeChannel();
  const volume = new FakeVolume();
  const disk = new FuseDisk({ sizeBytes: volume.bytes.length, readOnly: false });
  const server = new FuseServer({ channel, disk, volume, logger: silentLogger, limits });
  server.start();
  t.teardown(() => {
    volume.release();
    channel.end();
    return server.ended;
  });
  return { channel, volume, server };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('what was written is read, small and large, and zeros after a hole', async (t) => {
  const { channel, volume } = serve(t);
  const small = Buffer.alloc(512, 1);
  const large = Buffer.alloc(1024 * 1024, 2);
  channel.send(writeMessage(0, small, 1n), writeMessage(65536, large, 2n));
  t.equal((await channel.answer(1n)).readUInt32LE(16), small.length);
  t.equal((await channel.answer(2n)).readUInt32LE(16), large.length);
  channel.send(readMessage(0, 65536 + 4096, { unique: 3n }));
  const expected = Buffer.concat([small, Buffer.alloc(65536 - 512), large.subarray(0, 4096)]);
  t.ok(body(await channel.answer(3n)).equals(expected));
  channel.send(fallocateMessage(65536, 4096, 3, 4n));
  await channel.answer(4n);
  t.equal(volume.bytes.readUInt32LE(65536), 0);
  channel.send(fsyncMessage(5n));
  t.equal((await channel.answer(5n)).readInt32LE(4), 0);
  t.equal(volume.flushes, 1);
});

t.test('buffers of writes that wait are not overwritten by later requests', async (t) => {
  const { channel, volume } = serve(t);
  volume.hold();
  const size = 256 * 1024;
  for (let n = 0; n < 12; n += 1) {
    channel.send(writeMessage(n * size, Buffer.alloc(size, n + 1), BigInt(n + 1)));
    await settle();
  }
  channel.send(writeMessage(0, Buffer.alloc(16, 99), 99n));
  await settle();
  volume.release();
  for (let n = 0; n < 12; n += 1) await channel.answer(BigInt(n + 1));
  await channel.answer(99n);
  for (let n = 1; n < 12; n += 1) {
    t.ok(volume.bytes.subarray(n * size, (n + 1) * size).every((byte) => byte === n + 1));
  }
});

t.test(
  'errors of the volume are told by their number, and the next request is served',
  async (t) => {
    const { channel, volume } = serve(t);
    let unique = 0n;
    const told = async (error: Error): Promise<number> => {
      volume.error = error;
      channel.send(readMessage(0, 16, { unique: ++unique }));
      return -(await channel.answer(unique)).readInt32LE(4);
    };
    const reply = (number: number): NbdError => new NbdError('IO', 'no', { errno: number });
    t.equal(await told(reply(errno.ENOSPC)), linuxErrno.ENOSPC);
    t.equal(await told(reply(errno.EPERM)), linuxErrno.EPERM);
    t.equal(await told(reply(errno.ENOTSUP)), linuxErrno.EOPNOTSUPP);
    t.equal(await told(reply(errno.EIO)), linuxErrno.EIO);
    t.equal(await told(reply(4711)), linuxErrno.EIO);
    t.equal(await told(new NbdError('DISCONNECTED', 'gone')), linuxErrno.EIO);
    t.equal(await told(new Error('odd')), linuxErrno.EIO);
    volume.error = null;
    channel.send(readMessage(0, 16, { unique: 100n }));
    t.equal(body(await channel.answer(100n)).length, 16);
  },
);

t.test('no more is read than may wait', async (t) => {
  const limits = { readers: 2, unanswered: 4 };
  const { channel, volume } = serve(t, limits);
  volume.hold();
  for (let n = 1; n <= 20; n += 1) channel.send(readMessage(0, 16, { unique: BigInt(n) }));
  for (let turns = 0; turns < 20; turns += 1) await settle();
  t.ok(volume.held >= limits.unanswered, 'as many as may');
  t.ok(volume.held <= limits.unanswered + limits.readers - 1, 'readers that had begun');
  t.equal(channel.waiting, 0);
  volume.release();
  for (let n = 1; n <= 20; n += 1) await channel.answer(BigInt(n));
});

t.test('it ends when it is unmounted and all is answered', async (t) => {
  const { channel, volume, server } = serve(t);
  volume.hold();
  channel.send(readMessage(0, 16, { unique: 1n }));
  await settle();
  channel.end();
  let ended = false;
  void server.ended.then(() => (ended = true));
  await settle();
  t.equal(ended, false, 'a request is under way');
  volume.release();
  await server.ended;
  t.ok(channel.answers.has(1n));
});
