import {
  chunkFlag,
  chunkHeaderBytes,
  chunkType,
  command,
  errorBodyPrefixBytes,
  extendedHeaderBytes,
  extendedStatusDescriptorBytes,
  extendedStatusPrefixBytes,
  offsetDataPrefixBytes,
  offsetHoleBodyBytes,
  simpleReplyBytes,
  statusDescriptorBytes,
  statusPrefixBytes,
  writeChunkHeader,
  writeExtendedChunkHeader,
  writeSimpleReply,
  writeU64,
  type HeaderForm,
  type ReplyTarget,
  type StatusDescriptor,
} from 'nbd-client-js';
import { nbdErrnoOf } from '../core/nbd/nbd-errno.ts';
import type { SharedBytes } from '@stor/runtime';
import type { ReadBufferPool } from './read-buffer-pool.ts';
import type { ReplyOutput } from './reply-output.ts';
import type { ReadPiece } from './split-read.ts';

/** Text of an error chunk (bytes); the specification allows 4096. */
const maxErrorTextBytes = 1_024;

/** Data up to this are copied behind their header; larger ones go out as a piece of their own. */
export const copiedReadBytes = 64 * 1024;

/** Puts replies of every form into the output of a connection. */
export class ReplyWriter {
  /** what stands in front of the data of a read (bytes) */
  readonly readHeaderBytes: number;
  readonly #output: ReplyOutput;
  readonly #form: HeaderForm;
  /** header of a chunk (bytes) */
  readonly #chunkBytes: number;
  readonly #readBuffers: ReadBufferPool;

  constructor(output: ReplyOutput, options: { form: HeaderForm; readBuffers: ReadBufferPool }) {
    this.#output = output;
    this.#form = options.form;
    this.#readBuffers = options.readBuffers;
    this.#chunkBytes = this.#form === 'extended' ? extendedHeaderBytes : chunkHeaderBytes;
    this.readHeaderBytes =
      this.#form === 'simple' ? simpleReplyBytes : this.#chunkBytes + offsetDataPrefixBytes;
  }

  /** Success of a request that has no data. */
  done(to: ReplyTarget): void {
    if (this.#form === 'extended') this.#none(to);
    else this.#simple(to, 0);
  }

  /** With structured replies the specification allows no simple reply to READ and BLOCK_STATUS. */
  error(type: number, error: number, to: ReplyTarget, message: string): void {
    const isStructured = type === command.read || type === command.blockStatus;
    if (this.#form === 'simple' || (this.#form === 'structured' && !isStructured)) {
      this.#simple(to, error);
      return;
    }
    this.#error(to, chunkFlag.done, error, message, null);
  }

  /** Zeros that take no space, for all or part of a read; not with simple replies. */
  hole(to: ReplyTarget, flags: number, offset: number, length: number): void {
    const out = this.#output.reserve(this.#chunkBytes + offsetHoleBodyBytes);
    const { bytes } = out;
    const { offsetHole } = chunkType;
    const at = this.#header(bytes, out.used, flags, offsetHole, to, offsetHoleBodyBytes);
    writeU64(bytes, offset, at);
    bytes.writeUInt32BE(length, at + offsetDataPrefixBytes);
    this.#output.commit(out, this.#chunkBytes + offsetHoleBodyBytes);
  }

  /**
   * A read in parts, those that failed as errors with their place; the buffer of the data goes back to
   * its pool when the socket is done with it.
   */
  pieces(to: ReplyTarget, pieces: readonly ReadPiece[], buffer: Buffer | null): void {
    const lastData = pieces.findLast(({ isHole, error }) => !isHole && !error);
    if (!lastData && buffer) this.#readBuffers.give(buffer);
    for (const [at, piece] of pieces.entries()) {
      const flags = at === pieces.length - 1 ? chunkFlag.done : 0;
      const { offset, length, isHole, start, error } = piece;
      if (isHole) this.hole(to, flags, offset, length);
      else if (error) this.#error(to, flags, nbdErrnoOf[error.code], error.message, offset);
      else if (buffer) {
        const out = this.#output.reserve(this.readHeaderBytes);
        const bodyBytes = offsetDataPrefixBytes + length;
        const { offsetData } = chunkType;
        const end = this.#header(out.bytes, out.used, flags, offsetData, to, bodyBytes);
        writeU64(out.bytes, offset, end);
        this.#output.commit(out, this.readHeaderBytes);
        // the socket is done with them in this order
        const give = piece === lastData ? buffer : null;
        this.#output.append(buffer.subarray(start, start + length), () => {
          if (give) this.#readBuffers.give(give);
          this.#output.onWritten();
        });
      }
    }
  }

  emptyRead(to: ReplyTarget): void {
    // a data chunk has at least one byte
    if (this.#form === 'simple') this.#simple(to, 0);
    else this.#none(to);
  }

  writeReadHeader(
    bytes: Buffer,
    at: number,
    offset: number,
    length: number,
    to: ReplyTarget,
  ): void {
    if (this.#form === 'simple') {
      writeSimpleReply(bytes, at, 0, to.cookieHigh, to.cookieLow);
      return;
    }
    // one chunk, so that DF is kept without looking at it
    const bodyBytes = offsetDataPrefixBytes + length;
    const end = this.#header(bytes, at, chunkFlag.done, chunkType.offsetData, to, bodyBytes);
    writeU64(bytes, offset, end);
  }

  /** The data of a read; the buffer goes back to its pool when the socket is done with it. */
  data(offset: number, length: number, buffer: Buffer, to: ReplyTarget): void {
    const readBuffers = this.#readBuffers;
    const headerBytes = this.readHeaderBytes;
    const isSmall = length <= copiedReadBytes;
    const out = this.#output.reserve(headerBytes + (isSmall ? length : 0));
    this.writeReadHeader(out.bytes, out.used, offset, length, to);
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

  /** The data of a read where the device has left them. */
  sharedData(
    offset: number,
    length: number,
    memory: SharedBytes,
    start: number,
    to: ReplyTarget,
  ): void {
    const out = this.#output.reserve(this.readHeaderBytes);
    this.writeReadHeader(out.bytes, out.used, offset, length, to);
    this.#output.commit(out, this.readHeaderBytes);
    this.#output.append(memory.bytes.subarray(start, start + length), () => {
      memory.release();
      this.#output.onWritten();
    });
  }

  /** The answer to BLOCK_STATUS: a chunk for each context, with the ids in the same order. */
  statuses(
    ids: readonly number[],
    statuses: readonly (readonly StatusDescriptor[])[],
    to: ReplyTarget,
  ): void {
    for (const [at, descriptors] of statuses.entries()) {
      const flags = at === statuses.length - 1 ? chunkFlag.done : 0;
      if (this.#form === 'extended') this.#extendedStatus(ids[at] ?? 0, flags, descriptors, to);
      else this.#status(ids[at] ?? 0, flags, descriptors, to);
    }
  }

  #status(
    contextId: number,
    flags: number,
    descriptors: readonly StatusDescriptor[],
    to: ReplyTarget,
  ): void {
    const bodyBytes = statusPrefixBytes + statusDescriptorBytes * descriptors.length;
    const out = this.#output.reserve(this.#chunkBytes + bodyBytes);
    const { bytes } = out;
    let at = this.#header(bytes, out.used, flags, chunkType.blockStatus, to, bodyBytes);
    at = bytes.writeUInt32BE(contextId, at);
    for (const descriptor of descriptors) {
      at = bytes.writeUInt32BE(descriptor.length, at);
      at = bytes.writeUInt32BE(descriptor.flags, at);
    }
    this.#output.commit(out, this.#chunkBytes + bodyBytes);
  }

  #extendedStatus(
    contextId: number,
    flags: number,
    descriptors: readonly StatusDescriptor[],
    to: ReplyTarget,
  ): void {
    const bodyBytes =
      extendedStatusPrefixBytes + extendedStatusDescriptorBytes * descriptors.length;
    const out = this.#output.reserve(this.#chunkBytes + bodyBytes);
    const { bytes } = out;
    let at = this.#header(bytes, out.used, flags, chunkType.blockStatusExt, to, bodyBytes);
    at = bytes.writeUInt32BE(contextId, at);
    at = bytes.writeUInt32BE(descriptors.length, at);
    for (const descriptor of descriptors) {
      writeU64(bytes, descriptor.length, at);
      writeU64(bytes, descriptor.flags, at + 8);
      at += extendedStatusDescriptorBytes;
    }
    this.#output.commit(out, this.#chunkBytes + bodyBytes);
  }

  #simple({ cookieHigh, cookieLow }: ReplyTarget, error: number): void {
    const out = this.#output.reserve(simpleReplyBytes);
    writeSimpleReply(out.bytes, out.used, error, cookieHigh, cookieLow);
    this.#output.commit(out, simpleReplyBytes);
  }

  /** `offset`: where it failed; null for all of the request. */
  #error(
    to: ReplyTarget,
    flags: number,
    error: number,
    message: string,
    offset: number | null,
  ): void {
    const text = Buffer.from(message.slice(0, maxErrorTextBytes / 4), 'utf8');
    const isPlace = offset !== null;
    const bodyBytes = errorBodyPrefixBytes + text.length + (isPlace ? offsetDataPrefixBytes : 0);
    const type = isPlace ? chunkType.errorOffset : chunkType.error;
    const out = this.#output.reserve(this.#chunkBytes + bodyBytes);
    let at = this.#header(out.bytes, out.used, flags, type, to, bodyBytes);
    at = out.bytes.writeUInt32BE(error, at);
    at = out.bytes.writeUInt16BE(text.length, at);
    out.bytes.set(text, at);
    if (isPlace) writeU64(out.bytes, offset, at + text.length);
    this.#output.commit(out, this.#chunkBytes + bodyBytes);
  }

  #none(to: ReplyTarget): void {
    const out = this.#output.reserve(this.#chunkBytes);
    this.#header(out.bytes, out.used, chunkFlag.done, chunkType.none, to, 0);
    this.#output.commit(out, this.#chunkBytes);
  }

  /** Returns where the body begins. */
  #header(
    bytes: Buffer,
    at: number,
    flags: number,
    type: number,
    to: ReplyTarget,
    bodyBytes: number,
  ): number {
    if (this.#form === 'extended') {
      return writeExtendedChunkHeader(bytes, at, flags, type, to, bodyBytes);
    }
    return writeChunkHeader(bytes, at, flags, type, to.cookieHigh, to.cookieLow, bodyBytes);
  }
}
