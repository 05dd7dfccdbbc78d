import type { Socket } from 'node:net';
import {
  clientFlagsBytes,
  command,
  commandFlag,
  decodeGoBody,
  decodeOptionHeader,
  defaultMaxPayloadBytes,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfo,
  encodeOptionReply,
  errno,
  handshakeFlag,
  NbdError,
  optionHeaderBytes,
  optionReplyType,
  optionType,
  readU64,
  requestHeaderBytes,
  requestMagic,
  simpleReplyBytes,
  transmissionFlag,
  writeSimpleReply,
  type ReconnectingNbdClient,
} from 'nbd-client-js';

/** What a relay asks of the client behind it. */
export type RelayTarget = Pick<
  ReconnectingNbdClient,
  'sizeBytes' | 'flags' | 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes'
>;

/** Flags that the relay keeps; the others of the export need structured replies. */
const keptFlags =
  transmissionFlag.hasFlags |
  transmissionFlag.readOnly |
  transmissionFlag.sendFlush |
  transmissionFlag.sendFua |
  transmissionFlag.sendTrim |
  transmissionFlag.sendWriteZeroes |
  transmissionFlag.canMultiConn;
/** Requests of one connection under way; above it no more is read from it. */
const maxInFlight = 64;
/** An option longer than this is no honest one (bytes). */
const maxOptionBytes = 16 * 1024;

interface RelayRequest {
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
  payload: Buffer;
}

/**
 * One NBD connection of a program that cannot reconnect: fixed newstyle handshake with simple
 * replies, whatever export it names, and every request handed on to the target.
 */
export class RelayConnection {
  readonly #socket: Socket;
  readonly #target: RelayTarget;
  readonly #onError: (error: unknown) => void;
  #phase: 'flags' | 'options' | 'transmission' = 'flags';
  #noZeroes = false;
  #bytes: Buffer[] = [];
  #length = 0;
  #inFlight = 0;

  constructor(socket: Socket, target: RelayTarget, onError: (error: unknown) => void) {
    this.#socket = socket;
    this.#target = target;
    this.#onError = onError;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => this.#received(chunk));
    socket.write(encodeGreeting(handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes));
  }

  #received(chunk: Buffer): void {
    this.#bytes.push(chunk);
    this.#length += chunk.length;
    try {
      while (this.#step());
    } catch (error) {
      this.#onError(error);
      this.#socket.destroy();
    }
  }

  /** True when something was taken, so that there may be more. */
  #step(): boolean {
    if (this.#socket.destroyed) return false;
    if (this.#phase === 'flags') return this.#clientFlags();
    return this.#phase === 'options' ? this.#option() : this.#request();
  }

  #clientFlags(): boolean {
    const bytes = this.#take(clientFlagsBytes);
    if (!bytes) return false;
    this.#noZeroes = (bytes.readUInt32BE(0) & handshakeFlag.noZeroes) !== 0;
    this.#phase = 'options';
    return true;
  }

  #option(): boolean {
    const head = this.#peek(optionHeaderBytes);
    if (!head) return false;
    const header = decodeOptionHeader(head, 0);
    if (!header || header.length > maxOptionBytes) throw new Error('the client speaks no NBD');
    const whole = this.#take(optionHeaderBytes + header.length);
    if (!whole) return false;
    this.#answerOption(header.option, whole.subarray(optionHeaderBytes));
    return true;
  }

  #answerOption(option: number, data: Buffer): void {
    const { sizeBytes } = this.#target;
    const flags = this.#target.flags & keptFlags;
    const reply = (type: number, body?: Uint8Array): void => {
      this.#socket.write(encodeOptionReply(option, type, body));
    };
    if (option === optionType.exportName) {
      this.#socket.write(encodeExportNameReply(sizeBytes, flags, this.#noZeroes));
      this.#phase = 'transmission';
    } else if (option === optionType.go || option === optionType.info) {
      if (!decodeGoBody(data)) {
        reply(optionReplyType.errInvalid);
        return;
      }
      reply(optionReplyType.info, encodeInfo({ kind: 'export', sizeBytes, flags }));
      reply(optionReplyType.ack);
      if (option === optionType.go) this.#phase = 'transmission';
    } else if (option === optionType.abort) {
      reply(optionReplyType.ack);
      this.#socket.end();
    } else reply(optionReplyType.errUnsup);
  }

  #request(): boolean {
    if (this.#inFlight >= maxInFlight) {
      this.#socket.pause();
      return false;
    }
    const head = this.#peek(requestHeaderBytes);
    if (!head) return false;
    if (head.readUInt32BE(0) !== requestMagic) throw new Error('a request without its magic');
    const type = head.readUInt16BE(6);
    const length = head.readUInt32BE(24);
    const payloadBytes = type === command.write ? length : 0;
    if (payloadBytes > defaultMaxPayloadBytes) throw new Error(`a write of ${length} bytes`);
    const whole = this.#take(requestHeaderBytes + payloadBytes);
    if (!whole) return false;
    if (type === command.disconnect) {
      this.#socket.end();
      return false;
    }
    void this.#answer({
      flags: whole.readUInt16BE(4),
      type,
      cookieHigh: whole.readUInt32BE(8),
      cookieLow: whole.readUInt32BE(12),
      offset: readU64(whole, 16),
      length,
      payload: whole.subarray(requestHeaderBytes),
    });
    return true;
  }

  /** Never rejects. */
  async #answer(request: RelayRequest): Promise<void> {
    this.#inFlight += 1;
    let code = 0;
    let data: Buffer | null = null;
    try {
      data = await this.#handOn(request);
    } catch (error) {
      code = error instanceof NbdError && error.errno !== 0 ? error.errno : errno.EIO;
      this.#onError(error);
    }
    this.#inFlight -= 1;
    if (this.#socket.destroyed) return;
    const head = Buffer.alloc(simpleReplyBytes);
    writeSimpleReply(head, 0, code, request.cookieHigh, request.cookieLow);
    this.#socket.write(data && code === 0 ? Buffer.concat([head, data]) : head);
    if (this.#socket.isPaused()) this.#socket.resume();
    this.#received(Buffer.alloc(0));
  }

  async #handOn(request: RelayRequest): Promise<Buffer | null> {
    const { type, offset, length, payload } = request;
    const fua = (request.flags & commandFlag.fua) !== 0;
    const noHole = (request.flags & commandFlag.noHole) !== 0;
    switch (type) {
      case command.read:
        return this.#target.read(offset, length);
      case command.write:
        await this.#target.write(offset, payload, { fua });
        return null;
      case command.flush:
        await this.#target.flush();
        return null;
      case command.trim:
        await this.#target.trim(offset, length, { fua });
        return null;
      case command.writeZeroes:
        await this.#target.writeZeroes(offset, length, { fua, noHole });
        return null;
      default:
        throw new NbdError('INVALID_ARGUMENT', `a request of type ${type}`, {
          errno: errno.EINVAL,
        });
    }
  }

  /** The first bytes received, without taking them; null when there are fewer. */
  #peek(count: number): Buffer | null {
    if (this.#length < count) return null;
    const [first] = this.#bytes;
    if (first && first.length >= count) return first.subarray(0, count);
    const all = Buffer.concat(this.#bytes);
    this.#bytes = [all];
    return all.subarray(0, count);
  }

  #take(count: number): Buffer | null {
    const taken = this.#peek(count);
    if (!taken) return null;
    const [first = taken] = this.#bytes;
    if (first.length === count) this.#bytes.shift();
    else this.#bytes[0] = first.subarray(count);
    this.#length -= count;
    return taken;
  }
}
