import {
  chunkFlag,
  chunkHeaderBytes,
  chunkType,
  command,
  errorBodyPrefixBytes,
  offsetDataPrefixBytes,
  simpleReplyBytes,
  statusDescriptorBytes,
  writeChunkHeader,
  writeSimpleReply,
  writeU64,
  type StatusDescriptor,
} from 'nbd-client-js';
import type { ReadBufferPool } from './read-buffer-pool.ts';
import type { ReplyOutput } from './reply-output.ts';

/** Text of an error chunk (bytes); the specification allows 4096. */
const maxErrorTextBytes = 1_024;

/** Data up to this are copied behind their header; larger ones go out as a piece of their own. */
export const copiedReadBytes = 64 * 1024;

/** Puts replies of every form into the output of a connection. */
export class ReplyWriter {
  /** what stands in front of the data of a read (bytes) */
  readonly readHeaderBytes: number;
  readonly #output: ReplyOutput;
  readonly #structured: boolean;
  readonly #readBuffers: ReadBufferPool;

  constructor(
    output: ReplyOutput,
    options: { structuredReplies: boolean; readBuffers: ReadBufferPool },
  ) {
    this.#output = output;
    this.#structured = options.structuredReplies;
    this.#readBuffers = options.readBuffers;
    this.readHeaderBytes = this.#structured
      ? chunkHeaderBytes + offsetDataPrefixBytes
      : simpleReplyBytes;
  }

  simple(error: number, cookieHigh: number, cookieLow: number): void {
    const out = this.#output.reserve(simpleReplyBytes);
    writeSimpleReply(out.bytes, out.used, error, cookieHigh, cookieLow);
    this.#output.commit(out, simpleReplyBytes);
  }

  /** With structured replies the specification allows no simple reply to READ and BLOCK_STATUS. */
  error(type: number, error: number, cookieHigh: number, cookieLow: number, message: string): void {
    if (!this.#structured || (type !== command.read && type !== command.blockStatus)) {
      this.simple(error, cookieHigh, cookieLow);
      return;
    }
    const text = Buffer.from(message.slice(0, maxErrorTextBytes / 4), 'utf8');
    const bodyBytes = errorBodyPrefixBytes + text.length;
    const out = this.#output.reserve(chunkHeaderBytes + bodyBytes);
    let at = writeChunkHeader(
      out.bytes,
      out.used,
      chunkFlag.done,
      chunkType.error,
      cookieHigh,
      cookieLow,
      bodyBytes,
    );
    at = out.bytes.writeUInt32BE(error, at);
    at = out.bytes.writeUInt16BE(text.length, at);
    out.bytes.set(text, at);
    this.#output.commit(out, chunkHeaderBytes + bodyBytes);
  }

  emptyRead(cookieHigh: number, cookieLow: number): void {
    if (!this.#structured) {
      this.simple(0, cookieHigh, cookieLow);
      return;
    }
    // a data chunk has at least one byte
    const out = this.#output.reserve(chunkHeaderBytes);
    writeChunkHeader(out.bytes, out.used, chunkFlag.done, chunkType.none, cookieHigh, cookieLow, 0);
    this.#output.commit(out, chunkHeaderBytes);
  }

  writeReadHeader(
    bytes: Buffer,
    at: number,
    offset: number,
    length: number,
    cookieHigh: number,
    cookieLow: number,
  ): void {
    if (!this.#structured) {
      writeSimpleReply(bytes, at, 0, cookieHigh, cookieLow);
      return;
    }
    // one chunk, so that DF is kept without looking at it
    const bodyBytes = offsetDataPrefixBytes + length;
    writeChunkHeader(
      bytes,
      at,
      chunkFlag.done,
      chunkType.offsetData,
      cookieHigh,
      cookieLow,
      bodyBytes,
    );
    writeU64(bytes, offset, at + chunkHeaderBytes);
  }

  /** The data of a read; the buffer goes back to its pool when the socket is done with it. */
  data(
    offset: number,
    length: number,
    buffer: Buffer,
    cookieHigh: number,
    cookieLow: number,
  ): void {
    const readBuffers = this.#readBuffers;
    const headerBytes = this.readHeaderBytes;
    const isSmall = length <= copiedReadBytes;
    const out = this.#output.reserve(headerBytes + (isSmall ? length : 0));
    this.writeReadHeader(out.bytes, out.used, offset, length, cookieHigh, cookieLow);
    if (isSmall) {
      buffer.copy(out.bytes, out.used + headerBytes, 0, length);
      readBuffers.give(buffer);
      this.#output.commit(out, headerBytes + length);
      return;
    }
    this.#output.commit(out, headerBytes);
    this.#output.append(buffer.subarray(0, length), () => {
      readBuffers.give(buffer);
      this.#output.onWritten();
    });
  }

  /** The answer to BLOCK_STATUS: a chunk for each context, in the order of their ids from 1. */
  statuses(
    statuses: readonly (readonly StatusDescriptor[])[],
    cookieHigh: number,
    cookieLow: number,
  ): void {
    for (const [at, descriptors] of statuses.entries()) {
      const flags = at === statuses.length - 1 ? chunkFlag.done : 0;
      this.#status(at + 1, flags, descriptors, cookieHigh, cookieLow);
    }
  }

  #status(
    contextId: number,
    flags: number,
    descriptors: readonly StatusDescriptor[],
    cookieHigh: number,
    cookieLow: number,
  ): void {
    const bodyBytes = 4 + statusDescriptorBytes * descriptors.length;
    const out = this.#output.reserve(chunkHeaderBytes + bodyBytes);
    const { bytes } = out;
    let at = writeChunkHeader(
      bytes,
      out.used,
      flags,
      chunkType.blockStatus,
      cookieHigh,
      cookieLow,
      bodyBytes,
    );
    at = bytes.writeUInt32BE(contextId, at);
    for (const descriptor of descriptors) {
      at = bytes.writeUInt32BE(descriptor.length, at);
      at = bytes.writeUInt32BE(descriptor.flags, at);
    }
    this.#output.commit(out, chunkHeaderBytes + bodyBytes);
  }
}
