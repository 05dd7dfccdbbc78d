import { NbdError } from '../nbd-error.ts';
import {
  chunkErrorBit,
  chunkFlag,
  chunkType,
  extendedReplyMagic,
  simpleReplyMagic,
  structuredReplyMagic,
  type HeaderForm,
} from './constants.ts';
import {
  chunkHeaderBytes,
  errorBodyPrefixBytes,
  extendedHeaderBytes,
  extendedStatusDescriptorBytes,
  extendedStatusPrefixBytes,
  offsetDataPrefixBytes,
  offsetHoleBodyBytes,
  simpleReplyBytes,
  statusDescriptorBytes,
  statusPrefixBytes,
} from './transmission-codec.ts';
import { readText, readU64 } from './wire-integers.ts';

/** Descriptors of one block status chunk that are accepted: the protocol's own bound. */
const maxStatusDescriptors = 2 ** 20;
/** Bytes of an error chunk that are accepted: header, a message, an offset, and room to spare. */
const maxErrorBodyBytes = 16 * 1024;

/** One piece of a block status answer. `flags` above 2^53, which no known context has, are rounded. */
export interface StatusDescriptor {
  length: number;
  flags: number;
}

/** Who asks for the replies. Any method may throw, which ends the connection. */
export interface ReplyHandler {
  /** A simple reply. Returns offset and length of the data that follow it; null when none do. */
  simple(cookie: number, errno: number): { offset: number; length: number } | null;
  /** A chunk with an extended header, which repeats the offset of the request. */
  extendedChunk(cookie: number, offset: number): void;
  /**
   * A chunk begins, with this many bytes of data at `offset` (0 bytes for any other chunk), so that
   * the handler can check them against its request before they arrive.
   */
  dataChunk(cookie: number, offset: number, length: number): void;
  /** Part of that data, valid only during the call. */
  data(cookie: number, offset: number, bytes: Buffer, start: number, end: number): void;
  hole(cookie: number, offset: number, length: number): void;
  status(cookie: number, contextId: number, descriptors: StatusDescriptor[]): void;
  /** `offset`: where, when the server says it; null for all of the request */
  error(cookie: number, errno: number, message: string, offset: number | null): void;
  /** The last reply or chunk for this cookie has been given. */
  finished(cookie: number): void;
}

/**
 * Takes the stream of a server in pieces of any size. Data goes to the handler as it arrives and is
 * never gathered here; other bodies are gathered after their length has been checked.
 */
export class ReplyDecoder {
  readonly #handler: ReplyHandler;
  readonly #form: HeaderForm;
  /** a header or small body that is being gathered */
  #gather = Buffer.alloc(64);
  #gathered = 0;
  #needed = 4;
  #step: 'magic' | 'simple' | 'chunk' | 'body' = 'magic';
  #cookie = 0;
  #chunkFlags = 0;
  #chunkType = 0;
  #chunkLength = 0;
  /** data that streams through */
  #dataOffset = 0;
  #dataLeft = 0;
  #dataIsLast = false;

  constructor(handler: ReplyHandler, form: HeaderForm) {
    this.#handler = handler;
    this.#form = form;
  }

  /** Takes all of `bytes[start, end)`. Throws PROTOCOL when the server breaks the rules. */
  receive(bytes: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end) {
      if (this.#dataLeft > 0) {
        const length = Math.min(this.#dataLeft, end - at);
        this.#handler.data(this.#cookie, this.#dataOffset, bytes, at, at + length);
        at += length;
        this.#dataOffset += length;
        this.#dataLeft -= length;
        if (this.#dataLeft === 0) this.#dataEnded();
        continue;
      }
      const length = Math.min(this.#needed - this.#gathered, end - at);
      bytes.copy(this.#gather, this.#gathered, at, at + length);
      this.#gathered += length;
      at += length;
      if (this.#gathered === this.#needed) this.#advance();
    }
  }

  #advance(): void {
    switch (this.#step) {
      case 'magic':
        this.#readMagic();
        return;
      case 'simple':
        this.#readSimple();
        return;
      case 'chunk':
        this.#readChunkHeader();
        return;
      case 'body':
        this.#readBody();
        return;
    }
  }

  #expectMagic(): void {
    this.#step = 'magic';
    this.#gathered = 0;
    this.#needed = 4;
    if (this.#gather.length > 4096) this.#gather = Buffer.alloc(64);
  }

  #readMagic(): void {
    const magic = this.#gather.readUInt32BE(0);
    if (magic === simpleReplyMagic && this.#form !== 'extended') {
      this.#step = 'simple';
      this.#needed = simpleReplyBytes;
    } else if (magic === structuredReplyMagic && this.#form === 'structured') {
      this.#step = 'chunk';
      this.#needed = chunkHeaderBytes;
    } else if (magic === extendedReplyMagic && this.#form === 'extended') {
      this.#step = 'chunk';
      this.#needed = extendedHeaderBytes;
    } else {
      throw broken(`reply with magic 0x${magic.toString(16)}`);
    }
  }

  #readSimple(): void {
    const errno = this.#gather.readUInt32BE(4);
    this.#cookie = readU64(this.#gather, 8);
    const data = this.#handler.simple(this.#cookie, errno);
    if (data && data.length > 0) {
      this.#dataOffset = data.offset;
      this.#dataLeft = data.length;
      this.#dataIsLast = true;
      return;
    }
    this.#handler.finished(this.#cookie);
    this.#expectMagic();
  }

  #dataEnded(): void {
    if (this.#dataIsLast) this.#handler.finished(this.#cookie);
    this.#expectMagic();
  }

  #readChunkHeader(): void {
    this.#chunkFlags = this.#gather.readUInt16BE(4);
    this.#chunkType = this.#gather.readUInt16BE(6);
    this.#cookie = readU64(this.#gather, 8);
    if (this.#form === 'extended') {
      this.#chunkLength = readU64(this.#gather, 24);
      // payloads have 32 bits in either form: nothing of this size can be an answer
      if (this.#chunkLength >= 2 ** 32) throw broken(`chunk of ${this.#chunkLength} bytes`);
      this.#handler.extendedChunk(this.#cookie, readU64(this.#gather, 16));
    } else {
      this.#chunkLength = this.#gather.readUInt32BE(16);
    }
    const bodyBytes = this.#checkedBodyBytes();
    this.#step = 'body';
    this.#gathered = 0;
    this.#needed = bodyBytes;
    if (bodyBytes > this.#gather.length) this.#gather = Buffer.alloc(bodyBytes);
    if (bodyBytes === 0) this.#readBody();
  }

  /** How much of the chunk is gathered before it is looked at; throws for a length that is wrong. */
  #checkedBodyBytes(): number {
    const length = this.#chunkLength;
    const type = this.#chunkType;
    if ((type & chunkErrorBit) !== 0) {
      const least =
        type === chunkType.errorOffset ? errorBodyPrefixBytes + 8 : errorBodyPrefixBytes;
      if (length < least || length > maxErrorBodyBytes)
        throw broken(`error chunk of ${length} bytes`);
      return length;
    }
    let right: boolean;
    switch (type) {
      case chunkType.none:
        right = length === 0 && (this.#chunkFlags & chunkFlag.done) !== 0;
        break;
      case chunkType.offsetData:
        if (length <= offsetDataPrefixBytes) throw broken(`data chunk of ${length} bytes`);
        return offsetDataPrefixBytes;
      case chunkType.offsetHole:
        right = length === offsetHoleBodyBytes;
        break;
      case chunkType.blockStatus:
        right = isStatusLength(length, statusPrefixBytes, statusDescriptorBytes);
        break;
      case chunkType.blockStatusExt:
        if (this.#form !== 'extended')
          throw broken('a 64-bit block status without extended headers');
        right = isStatusLength(length, extendedStatusPrefixBytes, extendedStatusDescriptorBytes);
        break;
      default:
        throw broken(`chunk of unknown type ${type}`);
    }
    if (!right) throw broken(`chunk of type ${type} with ${length} bytes`);
    return length;
  }

  #readBody(): void {
    const body = this.#gather;
    const isLast = (this.#chunkFlags & chunkFlag.done) !== 0;
    if (this.#chunkType === chunkType.offsetData) {
      this.#dataOffset = readU64(body, 0);
      this.#dataLeft = this.#chunkLength - offsetDataPrefixBytes;
      this.#dataIsLast = isLast;
      this.#handler.dataChunk(this.#cookie, this.#dataOffset, this.#dataLeft);
      return;
    }
    if (this.#chunkType === chunkType.offsetHole) {
      this.#handler.hole(this.#cookie, readU64(body, 0), body.readUInt32BE(8));
    } else if (this.#chunkType === chunkType.blockStatus) {
      this.#readStatus(body);
    } else if (this.#chunkType === chunkType.blockStatusExt) {
      this.#readExtendedStatus(body);
    } else if ((this.#chunkType & chunkErrorBit) !== 0) {
      this.#readError(body);
    }
    if (isLast) this.#handler.finished(this.#cookie);
    this.#expectMagic();
  }

  #readStatus(body: Buffer): void {
    const descriptors: StatusDescriptor[] = [];
    for (let at = statusPrefixBytes; at < this.#chunkLength; at += statusDescriptorBytes) {
      const length = body.readUInt32BE(at);
      if (length === 0) throw broken('block status of length 0');
      descriptors.push({ length, flags: body.readUInt32BE(at + 4) });
    }
    this.#handler.status(this.#cookie, body.readUInt32BE(0), descriptors);
  }

  #readExtendedStatus(body: Buffer): void {
    const count = body.readUInt32BE(4);
    const bytes = this.#chunkLength - extendedStatusPrefixBytes;
    if (count !== 0 && count * extendedStatusDescriptorBytes !== bytes) {
      throw broken(`block status of ${bytes} bytes with ${count} descriptors`);
    }
    const descriptors: StatusDescriptor[] = [];
    for (
      let at = extendedStatusPrefixBytes;
      at < this.#chunkLength;
      at += extendedStatusDescriptorBytes
    ) {
      const length = readU64(body, at);
      if (length === 0) throw broken('block status of length 0');
      descriptors.push({ length, flags: readU64(body, at + 8) });
    }
    this.#handler.status(this.#cookie, body.readUInt32BE(0), descriptors);
  }

  #readError(body: Buffer): void {
    const errno = body.readUInt32BE(0);
    const messageBytes = body.readUInt16BE(4);
    if (errno === 0) throw broken('error chunk without an error');
    if (messageBytes > this.#chunkLength - errorBodyPrefixBytes) {
      throw broken('error message longer than its chunk');
    }
    const message = body.subarray(errorBodyPrefixBytes, errorBodyPrefixBytes + messageBytes);
    const text = readText(message) ?? '';
    if (this.#chunkType !== chunkType.errorOffset) {
      this.#handler.error(this.#cookie, errno, text, null);
      return;
    }
    const offsetAt = errorBodyPrefixBytes + messageBytes;
    if (offsetAt + 8 !== this.#chunkLength) throw broken('error chunk without its offset');
    this.#handler.error(this.#cookie, errno, text, readU64(body, offsetAt));
  }
}

function isStatusLength(length: number, prefixBytes: number, descriptorBytes: number): boolean {
  const count = (length - prefixBytes) / descriptorBytes;
  return Number.isInteger(count) && count >= 1 && count <= maxStatusDescriptors;
}

function broken(what: string): NbdError {
  return new NbdError('PROTOCOL', `the server broke the NBD protocol: ${what}`);
}
