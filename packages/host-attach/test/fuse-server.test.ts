import { errno, NbdError } from 'nbd-client-js';
import { silentLogger } from '@stor/runtime';
import t, { type Test } from 'tap';
import { FuseDisk } from '../src/core/fuse-disk.ts';
import { linuxErrno } from '../src/core/fuse-numbers.ts';
import type { DeviceVolume } from '../src/device/device-volume.ts';
import type { FuseChannel } from '../src/device/fuse-channel.ts';
import { FuseServer, type FuseServerLimits } from '../src/device/fuse-server.ts';
import {
  body,
  fallocateMessage,
  fsyncMessage,
  readMessage,
  writeMessage,
} from './support/fuse-messages.ts';

const MiB = 1024 * 1024;

/** A kernel that a test plays. */
class FakeChannel implements FuseChannel {
  readonly #messages: Buffer[] = [];
  #wakeServer: (() => void) | null = null;
  #error = '';
  readonly answers = new Map<bigint, Buffer>();
  #wakeTest: (() => void)[] = [];

  /** requests that nobody has read */
  get unread(): number {
    return this.#messages.length;
  }

  readNow(target: Buffer): number | string {
    const message = this.#messages.shift();
    if (message) return message.copy(target);
    return this.#error === '' ? 'EAGAIN' : this.#error;
  }

  whenReadable(done: () => void): void {
    this.#wakeServer = done;
    if (this.#messages.length > 0 || this.#error !== '') this.#wake();
  }

  write(parts: readonly Buffer[]): void {
    const answer = Buffer.concat(parts);
    this.answers.set(answer.readBigUInt64LE(8), answer);
    for (const wake of this.#wakeTest.splice(0)) wake();
  }

  send(...messages: Buffer[]): void {
    this.#messages.push(...messages);
    this.#wake();
  }

  /** As when it is unmounted. */
  end(): void {
    this.#error = 'ENODEV';
    this.#wake();
  }

  async answer(unique: bigint): Promise<Buffer> {
    for (;;) {
      const found = this.answers.get(unique);
      if (found) return found;
      await new Promise<void>((resolve) => this.#wakeTest.push(resolve));
    }
  }

  #wake(): void {
    const wake = this.#wakeServer;
    this.#wakeServer = null;
    if (wake) setImmediate(wake);
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

  async read(offset: number, target: Buffer): Promise<void> {
    await this.#pass();
    this.bytes.copy(target, 0, offset, offset + target.length);
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
  channel.send(
    writeMessage(0, Buffer.alloc(16, 98), 98n),
    writeMessage(16, Buffer.alloc(16, 99), 99n),
  );
  await settle();
  await settle();
  volume.release();
  for (let n = 0; n < 12; n += 1) await channel.answer(BigInt(n + 1));
  await channel.answer(98n);
  await channel.answer(99n);
  t.strictSame([volume.bytes[15], volume.bytes[16]], [98, 99], 'small ones neither');
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

t.test('reads that wait beside each other have buffers of their own', async (t) => {
  const { channel, volume } = serve(t);
  const size = 128 * 1024;
  for (let n = 0; n < 8; n += 1) volume.bytes.fill(n + 1, n * size, (n + 1) * size);
  for (const round of [0n, 100n]) {
    volume.hold();
    for (let n = 0; n < 8; n += 1) {
      channel.send(readMessage(n * size, size, { unique: round + BigInt(n) }));
      channel.send(writeMessage(3 * MiB, Buffer.alloc(size, 99), round + BigInt(50 + n)));
    }
    for (let turns = 0; turns < 5; turns += 1) await settle();
    volume.release();
    for (let n = 0; n < 8; n += 1) {
      const data = body(await channel.answer(round + BigInt(n)));
      t.ok(data.length === size && data.every((byte) => byte === n + 1));
    }
  }
});

t.test('no more is read than may wait', async (t) => {
  const { channel, volume } = serve(t, { unanswered: 4 });
  volume.hold();
  for (let n = 1; n <= 20; n += 1) channel.send(readMessage(0, 16, { unique: BigInt(n) }));
  for (let turns = 0; turns < 20; turns += 1) await settle();
  t.equal(volume.held, 4);
  t.equal(channel.unread, 16);
  volume.release();
  for (let n = 1; n <= 20; n += 1) await channel.answer(BigInt(n));
});

t.test('large writes are bounded by what they hold', async (t) => {
  const { channel, volume } = serve(t, { unansweredBytes: 2 * MiB });
  volume.hold();
  for (let n = 0; n < 4; n += 1)
    channel.send(writeMessage(n * MiB, Buffer.alloc(MiB, n + 1), BigInt(n + 1)));
  for (let turns = 0; turns < 20; turns += 1) await settle();
  t.equal(volume.held, 2);
  volume.release();
  for (let n = 0; n < 4; n += 1) await channel.answer(BigInt(n + 1));
  t.strictSame(
    [0, 1, 2, 3].map((n) => volume.bytes[n * MiB + 5]),
    [1, 2, 3, 4],
  );
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
