import net from 'node:net';
import {
  chunkType,
  encodeGreeting,
  encodeInfo,
  encodeMetaContextReply,
  encodeOptionReply,
  optionReplyType,
  optionType,
  requestHeaderBytes,
  simpleReplyBytes,
  writeChunkHeader,
  writeSimpleReply,
  writeU64,
} from '../../src/index.ts';

/** A server that says what a test tells it to; it remembers what it got. */
export class ScriptedServer {
  port = 0;
  socket: net.Socket | null = null;
  /** what it says whatever it is asked for */
  contexts = [{ id: 7, name: 'base:allocation' }];
  #got: Buffer = Buffer.alloc(0);
  #wake: () => void = () => {};
  #ended = false;
  readonly #server = net.createServer((socket) => {
    this.socket = socket;
    this.#got = Buffer.alloc(0);
    this.#ended = false;
    socket.on('data', (chunk) => {
      this.#got = Buffer.concat([this.#got, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.socket !== socket) return;
      this.#ended = true;
      this.#wake();
    });
    this.#wake();
  });

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as net.AddressInfo).port;
  }

  send(...parts: Buffer[]): void {
    this.socket!.write(Buffer.concat(parts));
  }

  async accepted(): Promise<void> {
    while (!this.socket) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  async take(length: number): Promise<Buffer> {
    while (this.#got.length < length) {
      if (this.#ended) throw new Error('the client left');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const bytes = this.#got.subarray(0, length);
    this.#got = this.#got.subarray(length);
    return bytes;
  }

  async takeOption(): Promise<{ option: number; data: Buffer }> {
    const header = await this.take(16);
    return { option: header.readUInt32BE(8), data: await this.take(header.readUInt32BE(12)) };
  }

  async takeRequest(): Promise<{ flags: number; type: number; cookie: number; length: number }> {
    const bytes = await this.take(requestHeaderBytes);
    return {
      flags: bytes.readUInt16BE(4),
      type: bytes.readUInt16BE(6),
      cookie: bytes.readUInt32BE(12),
      length: bytes.readUInt32BE(24),
    };
  }

  async ended(): Promise<void> {
    while (!this.#ended) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  async close(): Promise<void> {
    this.socket?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** A whole handshake of a modern server. */
  async shake(
    sizeBytes = 1 << 20,
    structured = true,
    { extended = false, flags = 0x1ed }: { extended?: boolean; flags?: number } = {},
  ): Promise<void> {
    await this.accepted();
    this.send(encodeGreeting(3));
    await this.take(4);
    for (;;) {
      const { option } = await this.takeOption();
      const ack = encodeOptionReply(option, optionReplyType.ack);
      const isUnknown =
        (option === optionType.structuredReply && !structured) ||
        (option === optionType.extendedHeaders && !extended);
      if (isUnknown) {
        this.send(encodeOptionReply(option, optionReplyType.errUnsup));
      } else if (option === optionType.setMetaContext || option === optionType.listMetaContext) {
        const replies = this.contexts.map((context) =>
          encodeOptionReply(option, optionReplyType.metaContext, encodeMetaContextReply(context)),
        );
        this.send(...replies, ack);
      } else if (option === optionType.go) {
        const info = encodeInfo({ kind: 'export', sizeBytes, flags });
        this.send(encodeOptionReply(option, optionReplyType.info, info), ack);
        return;
      } else {
        this.send(ack);
      }
    }
  }

  /** A request of the extended form, without its payload. */
  async takeExtended(): Promise<{
    flags: number;
    type: number;
    cookie: number;
    offset: bigint;
    length: bigint;
  }> {
    const bytes = await this.take(32);
    if (bytes.readUInt32BE(0) !== 0x21e41c71) {
      throw new Error(`not an extended request: ${bytes.toString('hex')}`);
    }
    return {
      flags: bytes.readUInt16BE(4),
      type: bytes.readUInt16BE(6),
      cookie: bytes.readUInt32BE(12),
      offset: bytes.readBigUInt64BE(16),
      length: bytes.readBigUInt64BE(24),
    };
  }

  extendedChunk(
    { cookie, offset }: { cookie: number; offset: bigint },
    isLast: boolean,
    type: number,
    body: Buffer = Buffer.alloc(0),
  ): void {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32BE(0x6e8a278c, 0);
    bytes.writeUInt16BE(isLast ? 1 : 0, 4);
    bytes.writeUInt16BE(type, 6);
    bytes.writeBigUInt64BE(BigInt(cookie), 8);
    bytes.writeBigUInt64BE(offset, 16);
    bytes.writeBigUInt64BE(BigInt(body.length), 24);
    this.send(bytes, body);
  }

  simple(cookie: number, errno: number, data: Buffer = Buffer.alloc(0)): void {
    const bytes = Buffer.alloc(simpleReplyBytes);
    writeSimpleReply(bytes, 0, errno, 0, cookie);
    this.send(bytes, data);
  }

  chunk(cookie: number, isLast: boolean, type: number, body: Buffer): void {
    const bytes = Buffer.alloc(20);
    writeChunkHeader(bytes, 0, isLast ? 1 : 0, type, 0, cookie, body.length);
    this.send(bytes, body);
  }

  data(cookie: number, isLast: boolean, offset: number, data: Buffer): void {
    const prefix = Buffer.alloc(8);
    writeU64(prefix, offset, 0);
    this.chunk(cookie, isLast, chunkType.offsetData, Buffer.concat([prefix, data]));
  }
}
