// What the device process answers to the kernel's NBD, with a small client in the kernel's place.
import { silentLogger, adoptSocket, openSocketPair } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import fc from 'fast-check';
import { command, commandFlag, errno, NbdError, transmissionFlag } from 'nbd-client-js';
import t, { type Test } from 'tap';
import { KernelDisk } from '../src/core/kernel-disk.ts';
import type { DeviceVolume } from '../src/device/device-volume.ts';
import { KernelNbdServer, type KernelServerLimits } from '../src/device/kernel-nbd-server.ts';
import { FakeKernelDevice } from './support/fake-kernel-nbd.ts';

const MiB = 1024 * 1024;
const { hasFlags, readOnly, sendFlush, sendFua, sendTrim, sendWriteZeroes, canMultiConn } =
  transmissionFlag;
const serverFlags = hasFlags | sendFlush | sendFua | sendWriteZeroes;

class MemoryVolume implements DeviceVolume {
  readonly bytes = Buffer.alloc(4 * MiB);
  readonly seen: string[] = [];
  error: Error | null = null;
  /** requests take effect when this is over */
  gate: Promise<void> = Promise.resolve();

  async read(offset: number, target: Buffer): Promise<void> {
    await this.#do(`read ${offset} ${target.length}`);
    this.bytes.copy(target, 0, offset, offset + target.length);
  }

  async write(offset: number, bytes: Buffer, { fua } = { fua: false }): Promise<void> {
    await this.#do(`write ${offset} ${bytes.length}${fua ? ' fua' : ''}`);
    bytes.copy(this.bytes, offset);
  }

  async zero(offset: number, length: number, options: { keepAllocated: boolean }): Promise<void> {
    await this.#do(`zero ${offset} ${length}${options.keepAllocated ? ' kept' : ''}`);
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    await this.#do('flush');
  }

  async #do(what: string): Promise<void> {
    this.seen.push(what);
    await this.gate;
    if (this.error) throw this.error;
  }
}

interface Setup {
  server: KernelNbdServer;
  kernel: FakeKernelDevice;
  volume: MemoryVolume;
  disk: KernelDisk;
  clock: FakeClock;
  /** Time goes by, and no timer fires, as while a process is stopped. */
  stopFor: (ms: number) => void;
  failures: string[];
}

function setUp(
  t: Test,
  given: { readOnly?: boolean; limits?: Partial<KernelServerLimits>; connections?: number } = {},
): Setup {
  const { limits = {}, connections = 2 } = given;
  const volume = new MemoryVolume();
  const clock = new FakeClock();
  const disk = new KernelDisk(
    { sizeBytes: 2 * MiB, readOnly: given.readOnly ?? false },
    serverFlags,
  );
  // the answers of a turn are sent at the end of it, which the fake clock would wait with
  let stoppedMs = 0;
  const ticking = {
    monotonicMs: () => clock.monotonicMs() + stoppedMs,
    wallMs: () => clock.wallMs(),
    after: (delayMs: number, fn: () => void) => clock.after(delayMs, fn),
    endOfTurn: (fn: () => void) => void setImmediate(fn),
  };
  const server = new KernelNbdServer({
    disk,
    volume,
    clock: ticking,
    logger: silentLogger,
    limits,
  });
  const failures: string[] = [];
  server.onFailure = (why) => failures.push(why);
  const pairs = Array.from({ length: connections }, () => openSocketPair());
  const size = { receiveBytes: 256 * 1024, maxReceiveBytes: 4 * MiB };
  for (const [own] of pairs) server.serve(adoptSocket(own, 'kernel', size));
  const kernel = new FakeKernelDevice({
    ...{ index: 0, backend: 'test', sizeBytes: disk.sizeBytes, flags: disk.flags },
    sockets: pairs.map(([, fd]) => fd),
  });
  t.teardown(() => {
    server.close();
    for (const socket of kernel.sockets) socket.destroy();
  });
  const stopFor = (ms: number): void => void (stoppedMs += ms);
  return { server, kernel, volume, disk, clock, stopFor, failures };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

t.test('what the kernel is told of a volume', async (t) => {
  const size = { sizeBytes: MiB, readOnly: false };
  const told = hasFlags | sendFlush | canMultiConn;
  t.equal(new KernelDisk(size, sendTrim).flags, told, 'what was discarded could not read as zeros');
  const { sendDf, sendCache } = transmissionFlag;
  const all = new KernelDisk(size, serverFlags | sendDf | sendCache | readOnly);
  t.equal(
    all.flags,
    told | sendFua | sendTrim | sendWriteZeroes,
    'what it could not use is left out',
  );
  t.equal(new KernelDisk({ ...size, readOnly: true }, 0).flags, told | readOnly);
});

t.test('what its requests mean', async (t) => {
  const disk = new KernelDisk({ sizeBytes: MiB, readOnly: false }, serverFlags);
  const ask = (type: number, offset: number, length: number, flags = 0) =>
    disk.step({ type, offset, length, flags, cookieHigh: 0, cookieLow: 0 });
  t.strictSame(ask(command.read, MiB - 512, 512), { kind: 'read' });
  t.strictSame(ask(command.write, 0, 512), { kind: 'write', fua: false });
  t.strictSame(ask(command.write, 0, 512, commandFlag.fua), { kind: 'write', fua: true });
  const zero = { kind: 'zero' as const, keepAllocated: false, fua: false };
  t.strictSame(ask(command.trim, 0, MiB), zero);
  t.strictSame(ask(command.trim, 0, MiB, commandFlag.fua), { ...zero, fua: true });
  t.strictSame(ask(command.writeZeroes, 0, 512), zero);
  t.strictSame(ask(command.writeZeroes, 0, 512, commandFlag.noHole), {
    ...zero,
    keepAllocated: true,
  });
  t.strictSame(ask(command.flush, 0, 0), { kind: 'flush' });
  t.strictSame(ask(command.disconnect, 0, 0), { kind: 'end' });
  const refused = (number: number) => ({ kind: 'refuse', errno: number });
  t.strictSame(ask(command.read, MiB - 511, 512), refused(errno.EINVAL));
  t.strictSame(ask(command.read, 0, 0), refused(errno.EINVAL));
  t.strictSame(ask(command.write, MiB, 512), refused(errno.ENOSPC));
  t.strictSame(ask(command.cache, 0, 512), refused(errno.EINVAL));
  t.strictSame(ask(77, 0, 512), refused(errno.EINVAL));
  disk.grow(2 * MiB);
  disk.grow(MiB);
  t.strictSame(ask(command.write, MiB, 512), { kind: 'write', fua: false });
  const fixed = new KernelDisk({ sizeBytes: MiB, readOnly: true }, serverFlags);
  for (const type of [command.write, command.trim, command.writeZeroes]) {
    const fields = { type, offset: 0, length: 512, flags: 0, cookieHigh: 0, cookieLow: 0 };
    t.strictSame(fixed.step(fields), refused(errno.EPERM));
  }
});

t.test('every kind of request is carried out and answered', async (t) => {
  const { server, kernel, volume, failures } = setUp(t);
  // one with its payload in memory of its own, and a small one
  const large = Buffer.from(Array.from({ length: MiB }, (_, n) => n % 251));
  await kernel.write(4096, large);
  await kernel.write(512, Buffer.alloc(512, 9), true);
  t.ok((await kernel.read(4096, large.length)).equals(large));
  t.ok((await kernel.read(512, 512)).equals(Buffer.alloc(512, 9)));
  const say = { offset: 8192, length: 4096 };
  t.equal((await kernel.ask({ type: command.trim, ...say })).errno, 0);
  t.equal((await kernel.ask({ type: command.writeZeroes, ...say })).errno, 0);
  const flags = commandFlag.noHole;
  t.equal((await kernel.ask({ type: command.writeZeroes, ...say, flags })).errno, 0);
  t.equal((await kernel.ask({ type: command.flush })).errno, 0);
  const durable = { type: command.writeZeroes, ...say, flags: commandFlag.fua };
  t.equal((await kernel.ask(durable)).errno, 0);
  t.strictSame(volume.seen, [
    ...[`write 4096 ${MiB}`, 'write 512 512 fua', `read 4096 ${MiB}`, 'read 512 512'],
    ...['zero 8192 4096', 'zero 8192 4096', 'zero 8192 4096 kept', 'flush'],
    ...['zero 8192 4096', 'flush'],
  ]);
  t.equal(
    (await kernel.ask({ type: command.read, offset: 2 * MiB, length: 512 })).errno,
    errno.EINVAL,
  );
  const refused = kernel.ask({ type: command.write, offset: 2 * MiB, payload: large });
  t.equal((await refused).errno, errno.ENOSPC);
  t.ok((await kernel.read(4096, 4096)).equals(large.subarray(0, 4096)), 'it is in step still');
  kernel.disconnect();
  await server.ended;
  t.strictSame(failures, []);
});

t.test('errors of the volume are errors of the request', async (t) => {
  const { kernel, volume } = setUp(t);
  const answers: [Error, number][] = [
    [new NbdError('DISCONNECTED', 'no node'), errno.EIO],
    [new NbdError('IO', 'full', { errno: errno.ENOSPC }), errno.ENOSPC],
    [new Error('a fault'), errno.EIO],
  ];
  for (const [error, number] of answers) {
    volume.error = error;
    for (const type of [command.read, command.writeZeroes, command.trim, command.flush]) {
      t.equal((await kernel.ask({ type, offset: 0, length: 512 })).errno, number);
    }
    t.equal((await kernel.ask({ type: command.write, payload: Buffer.alloc(MiB) })).errno, number);
  }
  volume.error = null;
  await kernel.write(0, Buffer.alloc(MiB, 3));
  t.equal((await kernel.read(MiB - 1, 1))[0], 3);
});

t.test('whatever is written over whichever connection is read again', async (t) => {
  const place = fc.record({
    block: fc.nat(511),
    blocks: fc.integer({ min: 1, max: 512 }),
    over: fc.nat(3),
    byte: fc.integer({ min: 1, max: 255 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(place, { minLength: 1, maxLength: 20 }), async (places) => {
      const { server, kernel, volume } = setUp(t, { connections: 4 });
      const model = Buffer.alloc(2 * MiB);
      for (const { block, blocks, over, byte } of places) {
        const offset = block * 512;
        const payload = Buffer.alloc(blocks * 512, byte);
        payload.copy(model, offset);
        const { errno: number } = await kernel.ask({ type: command.write, offset, payload, over });
        t.equal(number, 0);
      }
      const reads = places.map(({ block, blocks, over }) => {
        return kernel.ask({ type: command.read, offset: block * 512, length: blocks * 512, over });
      });
      for (const [n, { data }] of (await Promise.all(reads)).entries()) {
        const { block, blocks } = places[n] ?? { block: 0, blocks: 0 };
        t.ok(data.equals(model.subarray(block * 512, (block + blocks) * 512)));
      }
      t.ok(volume.bytes.subarray(0, 2 * MiB).equals(model));
      kernel.disconnect();
      await server.ended;
    }),
    { numRuns: 20 },
  );
});

t.test('no more is read than there is room for', async (t) => {
  const { kernel, volume } = setUp(t, { limits: { unanswered: 3 } });
  let open: () => void = () => {};
  volume.gate = new Promise((resolve) => (open = resolve));
  const asked = Array.from({ length: 20 }, (_, n) =>
    kernel.write(n * 4096, Buffer.alloc(4096, n + 1)),
  );
  await until(() => volume.seen.length === 3);
  // whatever else has arrived is looked at by now
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  t.equal(volume.seen.length, 3);
  open();
  await Promise.all(asked);
  t.equal(volume.seen.length, 20);
  t.equal(volume.bytes[19 * 4096], 20);
});

t.test('what was written stays as it was until the volume has it', async (t) => {
  const { kernel, volume } = setUp(t, { connections: 1 });
  let open: () => void = () => {};
  volume.gate = new Promise((resolve) => (open = resolve));
  const asked: Promise<void>[] = [];
  // each comes when the one before has been taken up, so that it is received where that was
  for (const [n, bytes] of [512, 4096, 65_536, 131_072, 512, 131_072, 4096].entries()) {
    asked.push(kernel.write(n * 131_072, Buffer.alloc(bytes, n + 1)));
    await until(() => volume.seen.length === n + 1);
  }
  open();
  await Promise.all(asked);
  for (const [n, what] of volume.seen.entries()) {
    const bytes = Number(what.split(' ')[2]);
    const is = volume.bytes.subarray(n * 131_072, n * 131_072 + bytes);
    t.ok(is.equals(Buffer.alloc(bytes, n + 1)), what);
  }
});

t.test('a device that cannot go on fails as a whole', async (t) => {
  await t.test('the kernel ends one connection', async (t) => {
    const { server, kernel, volume, failures } = setUp(t);
    let open: () => void = () => {};
    volume.gate = new Promise((resolve) => (open = resolve));
    void kernel.write(0, Buffer.alloc(512, 1));
    await until(() => volume.seen.length === 1);
    kernel.sockets[0]?.destroy();
    await until(() => failures.length > 0);
    t.match(failures, [/the kernel has ended a connection/]);
    await until(() => kernel.broken === 2);
    open();
    await server.ended;
  });

  await t.test('what it sends is no request', async (t) => {
    const { kernel, failures } = setUp(t);
    kernel.sockets[0]?.write(Buffer.alloc(28, 7));
    await until(() => failures.length > 0);
    t.match(failures, [/no request/]);
    await until(() => kernel.broken === 2);
  });

  await t.test('a request is not answered before the kernel loses its patience', async (t) => {
    const { server, kernel, volume, clock, failures } = setUp(t, { limits: { oldestMs: 60_000 } });
    let open: () => void = () => {};
    volume.gate = new Promise((resolve) => (open = resolve));
    void kernel.write(0, Buffer.alloc(512, 1));
    await until(() => volume.seen.length === 1);
    clock.advance(59_000);
    t.strictSame(failures, []);
    clock.advance(11_000);
    t.match(failures, [/not answered within 1 minutes/]);
    await until(() => kernel.broken === 2);
    open();
    await server.ended;
  });

  await t.test('this process was stopped meanwhile: what came then is not taken up', async (t) => {
    const { kernel, volume, stopFor, failures } = setUp(t, { limits: { oldestMs: 60_000 } });
    volume.gate = new Promise(() => {});
    void kernel.write(0, Buffer.alloc(512, 1));
    await until(() => volume.seen.length === 1);
    stopFor(70_000);
    void kernel.write(512, Buffer.alloc(512, 2));
    await until(() => failures.length > 0);
    t.equal(volume.seen.length, 1);
  });
});
