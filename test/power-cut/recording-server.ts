import { createServer, type Server, type Socket } from 'node:net';
import type { DiskLog } from './disk-log.ts';

const [optionAbort, optionInfo, optionGo] = [2, 6, 7];
const [replyAck, replyInfo, replyUnsupported] = [1, 3, 0x80000001];
const [cmdRead, cmdWrite, cmdDisconnect, cmdFlush, cmdZeroes] = [0, 1, 2, 3, 6];
const flagFua = 1;
/** has flags, flush, FUA, WRITE_ZEROES */
const transmissionFlags = 1 | 4 | 8 | 64;

/** Just enough of an NBD server to record what one client writes. */
export class RecordingServer {
  readonly #log: DiskLog;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(log: DiskLog) {
    this.#log = log;
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      void this.#serve(socket).catch(() => socket.destroy());
    });
  }

  listen(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(path, resolve);
    });
  }

  close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  async #serve(socket: Socket): Promise<void> {
    const input = new Input(socket);
    const hello = Buffer.from('NBDMAGICIHAVEOPT\0\0');
    hello.writeUInt16BE(3, 16);
    socket.write(hello);
    await input.take(4);
    if (!(await this.#negotiate(socket, input))) return;
    for (;;) {
      const header = await input.take(28);
      const type = header.readUInt16BE(6);
      if (type === cmdDisconnect) return void socket.end();
      await this.#request(socket, input, header, type);
    }
  }

  async #negotiate(socket: Socket, input: Input): Promise<boolean> {
    for (;;) {
      const head = await input.take(16);
      const option = head.readUInt32BE(8);
      await input.take(head.readUInt32BE(12));
      const reply = (type: number, payload = Buffer.alloc(0)): void => {
        const out = Buffer.alloc(20);
        Buffer.from('0003e889045565a9', 'hex').copy(out);
        out.writeUInt32BE(option, 8);
        out.writeUInt32BE(type, 12);
        out.writeUInt32BE(payload.length, 16);
        socket.write(Buffer.concat([out, payload]));
      };
      if (option === optionGo || option === optionInfo) {
        const info = Buffer.alloc(12);
        info.writeBigUInt64BE(BigInt(this.#log.sizeBytes), 2);
        info.writeUInt16BE(transmissionFlags, 10);
        reply(replyInfo, info);
        reply(replyAck);
        if (option === optionGo) return true;
      } else if (option === optionAbort) {
        reply(replyAck);
        socket.end();
        return false;
      } else reply(replyUnsupported);
    }
  }

  async #request(socket: Socket, input: Input, header: Buffer, type: number): Promise<void> {
    const fua = (header.readUInt16BE(4) & flagFua) !== 0;
    const offset = Number(header.readBigUInt64BE(16));
    const length = header.readUInt32BE(24);
    const out = Buffer.alloc(16 + (type === cmdRead ? length : 0));
    out.writeUInt32BE(0x67446698, 0);
    header.copy(out, 8, 8, 16);
    if (type === cmdRead) this.#log.read(out.subarray(16), offset);
    else if (type === cmdWrite) this.#log.write(offset, await input.take(length), fua);
    else if (type === cmdZeroes) this.#log.write(offset, Buffer.alloc(length), fua);
    else if (type === cmdFlush) this.#log.flush();
    else out.writeUInt32BE(22, 4);
    socket.write(out);
  }
}

/** Bytes of a socket, as many as are asked for. */
class Input {
  #buffer: Buffer = Buffer.alloc(0);
  #wake: (() => void) | null = null;
  #ended = false;

  constructor(socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
      this.#wake?.();
    });
    const end = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.on('close', end);
    socket.on('error', end);
  }

  async take(length: number): Promise<Buffer> {
    while (this.#buffer.length < length) {
      if (this.#ended) throw new Error('the connection is closed');
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = null;
    }
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }
}
