import net from 'node:net';
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
  transmissionFlag,
  writeSimpleReply,
} from 'nbd-client-js';
import type { Test } from 'tap';

const { hasFlags, sendFlush, sendWriteZeroes, canMultiConn } = transmissionFlag;

/** One export in memory, with simple replies; as much of a server as a device needs. */
export class MiniNbdServer {
  readonly bytes = Buffer.alloc(4 * 1024 * 1024);
  sizeBytes = 1024 * 1024;
  flags = hasFlags | sendFlush | sendWriteZeroes | canMultiConn;
  /** largest payload (bytes) */
  maxBytes = 32 * 1024 * 1024;
  /** why the export is refused */
  refusal: string | null = null;
  readonly seen: { type: number; offset: number; length: number }[] = [];
  port = 0;
  /** requests are answered when this is over */
  gate: Promise<void> = Promise.resolve();
  readonly #sockets = new Set<net.Socket>();
  readonly #server = net.createServer((socket) => {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => this.#sockets.delete(socket));
    void this.#serve(socket);
  });

  static async start(t: Test): Promise<MiniNbdServer> {
    const server = new MiniNbdServer();
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    server.port = (server.#server.address() as net.AddressInfo).port;
    t.teardown(() => {
      server.drop();
      server.#server.close();
    });
    return server;
  }

  get address(): { host: string; port: number } {
    return { host: '127.0.0.1', port: this.port };
  }

  get connections(): number {
    return this.#sockets.size;
  }

  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async #serve(socket: net.Socket): Promise<void> {
    const take = reader(socket);
    socket.write(encodeGreeting(3));
    await take(4);
    for (;;) {
      const header = await take(16);
      const body = await take(header.readUInt32BE(12));
      const option = header.readUInt32BE(8);
      const say = (type: number, data?: Buffer): boolean =>
        socket.write(encodeOptionReply(option, type, data));
      if (option === optionType.abort) socket.end();
      else if (option !== optionType.go || body.length === 0) say(optionReplyType.errUnsup);
      else if (this.refusal !== null) say(optionReplyType.errPolicy, Buffer.from(this.refusal));
      else {
        const { sizeBytes, flags, maxBytes } = this;
        say(optionReplyType.info, encodeInfo({ kind: 'export', sizeBytes, flags }));
        const sizes = { minimum: 1, preferred: 4096, maximum: maxBytes };
        say(optionReplyType.info, encodeInfo({ kind: 'blockSize', ...sizes }));
        say(optionReplyType.ack);
        break;
      }
    }
    for (;;) {
      const header = await take(requestHeaderBytes);
      const [type, length] = [header.readUInt16BE(6), header.readUInt32BE(24)];
      const payload = await take(type === command.write ? length : 0);
      if (type === command.disconnect) {
        socket.end();
        return;
      }
      const offset = readU64(header, 16);
      this.seen.push({ type, offset, length });
      void this.gate.then(() => {
        if (type === command.write) payload.copy(this.bytes, offset);
        if (type === command.writeZeroes) this.bytes.fill(0, offset, offset + length);
        const reply = Buffer.alloc(simpleReplyBytes);
        writeSimpleReply(reply, 0, 0, 0, header.readUInt32BE(12));
        const data = this.bytes.subarray(offset, offset + length);
        socket.write(type === command.read ? Buffer.concat([reply, data]) : reply);
      });
    }
  }
}

/** Never resolves once the connection is over. */
function reader(socket: net.Socket): (length: number) => Promise<Buffer> {
  let got = Buffer.alloc(0);
  let wake: () => void = () => {};
  socket.on('data', (part) => {
    got = Buffer.concat([got, part]);
    wake();
  });
  return async (length) => {
    while (got.length < length) await new Promise<void>((resolve) => (wake = resolve));
    const bytes = got.subarray(0, length);
    got = got.subarray(length);
    return bytes;
  };
}
