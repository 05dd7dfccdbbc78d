import { createServer, connect } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import {
  errno,
  NbdClient,
  NbdError,
  transmissionFlag,
} from '../packages/nbd-client-js/src/index.ts';
import t, { type Test } from 'tap';
import { RelayConnection, type RelayTarget } from '../benchmarks/src/relay/relay-connection.ts';

/** A volume in memory, and what it was asked. */
class MemoryTarget implements RelayTarget {
  readonly bytes = Buffer.alloc(1024 * 1024);
  readonly calls: string[] = [];
  readonly sizeBytes = this.bytes.length;
  readonly flags =
    transmissionFlag.hasFlags |
    transmissionFlag.sendFlush |
    transmissionFlag.sendFua |
    transmissionFlag.sendTrim |
    transmissionFlag.sendWriteZeroes |
    transmissionFlag.sendDf;
  failure: NbdError | null = null;

  async read(offset: number, length: number): Promise<Buffer> {
    if (this.failure) throw this.failure;
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }
  async write(offset: number, bytes: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    if (this.failure) throw this.failure;
    this.calls.push(`write ${offset} ${bytes.length}${options.fua === true ? ' fua' : ''}`);
    this.bytes.set(bytes, offset);
  }
  async flush(): Promise<void> {
    this.calls.push('flush');
  }
  async trim(offset: number, length: number): Promise<void> {
    this.calls.push(`trim ${offset} ${length}`);
  }
  async writeZeroes(offset: number, length: number, options: { noHole?: boolean } = {}) {
    this.calls.push(`zero ${offset} ${length}${options.noHole === true ? ' no-hole' : ''}`);
    this.bytes.fill(0, offset, offset + length);
  }
}

async function serve(t: Test, target: RelayTarget) {
  const path = join(t.testdir(), 'relay.sock');
  const errors: unknown[] = [];
  const server = createServer((socket) => {
    new RelayConnection(socket, target, (error) => errors.push(error));
  });
  server.listen(path);
  await once(server, 'listening');
  t.teardown(() => server.close());
  return { path, errors };
}

t.test('every request is handed on', async (t) => {
  const target = new MemoryTarget();
  const { path, errors } = await serve(t, target);
  const client = await NbdClient.connect({ path, exportName: 'any' });
  t.equal(client.sizeBytes, target.sizeBytes);
  t.equal(client.structuredReplies, false);
  t.equal(client.flags & transmissionFlag.sendDf, 0, 'needs structured replies');
  const some = Buffer.alloc(200_000, 7);
  await client.write(4096, some, { fua: true });
  t.ok((await client.read(4096, some.length)).equals(some));
  await client.writeZeroes(4096, 512, { noHole: true });
  await client.trim(8192, 4096);
  await client.flush();
  t.same(target.calls, [
    'write 4096 200000 fua',
    'zero 4096 512 no-hole',
    'trim 8192 4096',
    'flush',
  ]);
  // More than may be under way at once: the rest waits in the socket.
  const many = Array.from({ length: 300 }, (_, index) =>
    client.write(index * 512, Buffer.alloc(512, index % 251)),
  );
  await Promise.all(many);
  for (const index of [0, 150, 299]) {
    t.equal((await client.read(index * 512, 512))[17], index % 251);
  }
  await client.disconnect();
  t.same(errors, []);
});

t.test('an error is handed on under its number and counted', async (t) => {
  const target = new MemoryTarget();
  const { path, errors } = await serve(t, target);
  const client = await NbdClient.connect({ path, exportName: 'any' });
  target.failure = new NbdError('IO', 'full', { errno: errno.ENOSPC });
  await t.rejects(client.write(0, Buffer.alloc(512)), { code: 'IO', errno: errno.ENOSPC });
  target.failure = new NbdError('DISCONNECTED', 'gave up');
  await t.rejects(client.read(0, 512), { code: 'IO', errno: errno.EIO });
  t.equal(errors.length, 2);
  await client.disconnect();
});

t.test('what is no NBD client is thrown out', async (t) => {
  const { path, errors } = await serve(t, new MemoryTarget());
  const socket = connect(path);
  socket.resume();
  socket.write(Buffer.alloc(64, 0x41));
  await once(socket, 'close');
  t.match(errors, [/speaks no NBD/]);
});
