import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
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
} from 'nbd-client-js';
import t, { type Test } from 'tap';
import { openNbdSession } from '../src/nbd-client-session.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';

const mib = 2 ** 20;
const sizeBytes = 16 * mib;

/** Nodes of one volume: one has it; the others refuse until it is dead, and a while longer. */
class FakeNodes {
  readonly bytes = Buffer.alloc(sizeBytes);
  /** requests done by each node */
  readonly done = [0, 0, 0];
  flushes = 0;
  /** how often the others refuse after the death of the holder */
  refusals = 4;
  holder = 0;
  /** the holder dies when it has done so many requests; the last one is not answered */
  dieAfter = Infinity;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  async listen(t: Test, cluster: FakeCluster): Promise<void> {
    for (const [n, node] of cluster.nodes.entries()) {
      const server = createServer((socket) => this.#serve(n, socket)).listen(0, '127.0.0.1');
      await once(server, 'listening');
      this.#servers.push(server);
      node.status.addresses.nbd = [`127.0.0.1:${(server.address() as AddressInfo).port}`];
    }
    t.teardown(() => {
      for (const socket of this.#sockets) socket.destroy();
      for (const server of this.#servers) server.close();
    });
  }

  #die(): void {
    this.#servers[this.holder]?.close();
    for (const socket of this.#sockets) socket.destroy();
    this.dieAfter = Infinity;
    this.holder = 2;
  }

  #serve(n: number, socket: Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {});
    let got: Buffer = Buffer.alloc(0);
    let step: 'flags' | 'options' | 'requests' = 'flags';
    socket.write(encodeGreeting(3));
    const take = (length: number): Buffer => {
      const bytes = got.subarray(0, length);
      got = got.subarray(length);
      return bytes;
    };
    const next = (): boolean => {
      if (step === 'flags') {
        if (got.length < 4) return false;
        take(4);
        step = 'options';
        return true;
      }
      if (step === 'options') {
        if (got.length < 16 || got.length < 16 + got.readUInt32BE(12)) return false;
        if (this.#option(n, socket, take(16 + got.readUInt32BE(12)))) step = 'requests';
        return true;
      }
      if (got.length < requestHeaderBytes) return false;
      const isWrite = got.readUInt16BE(6) === command.write;
      const total = requestHeaderBytes + (isWrite ? got.readUInt32BE(24) : 0);
      if (got.length < total) return false;
      this.#request(n, socket, take(total));
      return !socket.destroyed;
    };
    socket.on('data', (chunk) => {
      got = Buffer.concat([got, chunk]);
      while (next());
    });
  }

  /** True when the export was granted. */
  #option(n: number, socket: Socket, bytes: Buffer): boolean {
    const option = bytes.readUInt32BE(8);
    const say = (type: number, body?: Buffer): boolean =>
      socket.write(encodeOptionReply(option, type, body));
    if (option !== optionType.go) {
      say(optionReplyType.errUnsup);
      return false;
    }
    if (n !== this.holder || (n === 2 && this.refusals-- > 0)) {
      say(optionReplyType.errPolicy, Buffer.from('attached to node n1'));
      return false;
    }
    say(optionReplyType.info, encodeInfo({ kind: 'export', sizeBytes, flags: 0x16d }));
    return say(optionReplyType.ack) || true;
  }

  #request(n: number, socket: Socket, bytes: Buffer): void {
    const type = bytes.readUInt16BE(6);
    const offset = readU64(bytes, 16);
    const length = bytes.readUInt32BE(24);
    if (type === command.disconnect) {
      socket.end();
      return;
    }
    if (type === command.write) this.bytes.set(bytes.subarray(requestHeaderBytes), offset);
    if (type === command.writeZeroes) this.bytes.fill(0, offset, offset + length);
    if (type === command.flush) this.flushes += 1;
    this.done[n]! += 1;
    if (this.done[n] === this.dieAfter) {
      this.#die();
      return;
    }
    const reply = Buffer.alloc(simpleReplyBytes);
    writeSimpleReply(reply, 0, 0, bytes.readUInt32BE(8), bytes.readUInt32BE(12));
    socket.write(reply);
    if (type === command.read) socket.write(this.bytes.subarray(offset, offset + length));
  }
}

async function start(t: Test) {
  const cluster = new FakeCluster();
  const nodes = new FakeNodes();
  await nodes.listen(t, cluster);
  await run(cluster, ['volume', 'create', 'db', '--size', String(sizeBytes)]);
  const volume = cluster.volume('db');
  volume.status.nbdUri = `nbd://${cluster.nodes[0]?.status.addresses.nbd[0]}/db`;
  const storctl = (cwd: string, argv: string[]) =>
    run(cluster, ['volume', ...argv], { cwd, openNbd: openNbdSession });
  return { cluster, nodes, storctl };
}

t.test('an import survives the death of the primary’s node', async (t) => {
  const { nodes, storctl } = await start(t);
  const image = Buffer.alloc(14 * mib);
  for (let n = 0; n < image.length; n += 4096) image.writeUInt32LE(n + 1, n);
  image.fill(0, 2 * mib, 4 * mib);
  nodes.bytes.fill(0xee);
  const dir = t.testdir({});
  writeFileSync(join(dir, 'in.img'), image);
  nodes.dieAfter = 5;
  const { exitCode, stderr, stdout } = await storctl(dir, ['import', 'db', 'in.img', '--sha256']);
  t.same([exitCode, stderr], [0, '']);
  t.match(stdout, createHash('sha256').update(image).digest('hex'));
  t.ok(nodes.bytes.subarray(0, image.length).equals(image));
  t.ok(nodes.bytes.subarray(image.length).every((byte) => byte === 0xee));
  t.equal(nodes.done[0], 5);
  t.ok((nodes.done[2] ?? 0) > 5, 'another node did the rest');
  t.equal(nodes.done[1], 0);
  t.equal(nodes.flushes, 1);
  t.ok(nodes.refusals < 0, 'after it had refused for a while');
});

t.test('a read of a whole volume survives it too', async (t) => {
  const { cluster, nodes } = await start(t);
  for (let n = 0; n < sizeBytes; n += 4096) nodes.bytes.writeUInt32LE(n + 1, n);
  const [first, ...otherUris] = cluster.nodes.map(
    (node) => `nbd://${node.status.addresses.nbd[0]}/db`,
  );
  const session = await openNbdSession(first ?? '', { otherUris });
  nodes.dieAfter = 7;
  const pieces = Array.from({ length: 16 }, (_, n) => session.read(n * mib, mib));
  const read = Buffer.concat(await Promise.all(pieces));
  await session.close();
  t.ok(read.equals(nodes.bytes));
  t.equal(nodes.done[0], 7);
});

t.test('a volume that is attached elsewhere is refused at once, and says so once', async (t) => {
  const { nodes, storctl } = await start(t);
  nodes.holder = -1;
  const dir = t.testdir({});
  writeFileSync(join(dir, 'in.img'), Buffer.alloc(mib, 1));
  const { exitCode, stderr } = await storctl(dir, ['import', 'db', 'in.img']);
  t.equal(exitCode, 5);
  t.equal(stderr.match(/attached to node n1/g)?.length, 1);
  t.same(readFileSync(join(dir, 'in.img')).length, mib);
});
