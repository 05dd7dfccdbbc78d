import {
  encodeGreeting,
  encodeInfo,
  encodeMetaContextReply,
  encodeOptionReply,
  optionReplyType,
  optionType,
  type HeaderForm,
} from '../../src/index.ts';
import type { Dice, HostileStream } from './hostile-stream.ts';
import type { SeenRequest } from './plain-reader.ts';

export const exportBytes = 1 << 20;

export async function turn(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}

/** One frame of an answer, before it is bytes. */
interface Frame {
  magic: number;
  flags: number;
  type: number;
  cookie: bigint;
  /** repeated from the request by extended headers */
  offset: number;
  body: Buffer;
  /** what the header says of the body, when it lies */
  length: number | null;
}

/** What is in the export. */
export function byteAt(offset: number): number {
  return (offset * 31 + (offset >>> 8) * 7 + 1) & 0xff;
}

/** A server whose answers are right, but for the faults that the dice put in. */
export class HostileServer {
  readonly #dice: Dice;
  readonly #stream: HostileStream;
  readonly #form: HeaderForm;
  /** one of so many frames, and of so many messages of the handshake, is spoiled; 0: none */
  readonly #faultRate: number;
  readonly requests: SeenRequest[] = [];
  /** the transmission as it was sent */
  readonly sent: Buffer[] = [];
  faults = 0;
  #isLost = false;

  constructor(stream: HostileStream, form: HeaderForm, dice: Dice, faultRate: number) {
    this.#stream = stream;
    this.#form = form;
    this.#dice = dice;
    this.#faultRate = faultRate;
  }

  /** Answers options until the export is granted, the client is gone, or says nothing. */
  async shake(faultRate: number): Promise<void> {
    await turn();
    this.#say(encodeGreeting(3), faultRate);
    let isGreeted = false;
    for (let silent = 0; silent < 4 && !this.#stream.isOver;) {
      await turn();
      if (!isGreeted) {
        isGreeted = this.#stream.take(4) !== null;
        silent += 1;
        continue;
      }
      const header = this.#stream.take(16);
      silent += 1;
      if (!header) continue;
      silent = 0;
      this.#stream.take(header.readUInt32BE(12));
      const option = header.readUInt32BE(8);
      for (const reply of this.#optionReplies(option)) this.#say(reply, faultRate);
      if (option === optionType.go) return;
    }
  }

  #optionReplies(option: number): Buffer[] {
    const ack = encodeOptionReply(option, optionReplyType.ack);
    const refused =
      (option === optionType.extendedHeaders && this.#form !== 'extended') ||
      (option === optionType.structuredReply && this.#form === 'simple');
    if (refused) return [encodeOptionReply(option, optionReplyType.errUnsup)];
    if (option === optionType.setMetaContext) {
      const named = [
        { id: 1, name: 'base:allocation' },
        { id: 9, name: 'stor:other' },
      ];
      const replies = named.map((each) =>
        encodeOptionReply(option, optionReplyType.metaContext, encodeMetaContextReply(each)),
      );
      return [...replies, ack];
    }
    if (option !== optionType.go) return [ack];
    const info = encodeInfo({ kind: 'export', sizeBytes: exportBytes, flags: 0xded });
    return [encodeOptionReply(option, optionReplyType.info, info), ack];
  }

  /** Says something of the handshake, perhaps spoiled. */
  #say(bytes: Buffer, faultRate: number): void {
    const dice = this.#dice;
    let said: Buffer = Buffer.from(bytes);
    if (faultRate > 0 && dice.oneIn(faultRate)) {
      this.faults += 1;
      switch (dice.below(6)) {
        case 0:
          said[dice.below(said.length)] = dice.below(256);
          break;
        case 1:
          said = said.subarray(0, dice.below(said.length));
          break;
        case 2:
          said = dice.bytes(dice.below(100));
          break;
        case 3:
          if (said.length >= 20) said.writeUInt32BE(dice.pick([1, 0xffff, 0xffffffff]), 16);
          break;
        case 4:
          said = Buffer.concat(Array.from({ length: dice.pick([2, 300]) }, () => said));
          break;
        default:
          said = Buffer.alloc(0);
      }
    }
    this.#deliver(said);
  }

  #deliver(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      const most = this.#dice.oneIn(4) ? 20 : 20_000;
      const end = Math.min(bytes.length, at + 1 + this.#dice.below(most));
      this.#stream.give(Buffer.from(bytes.subarray(at, end)));
      at = end;
    }
  }

  /** Takes what the client has asked since; false when that was nothing. */
  answer(): boolean {
    const asked: SeenRequest[] = [];
    for (let next = this.#takeRequest(); next; next = this.#takeRequest()) asked.push(next);
    this.requests.push(...asked);
    const answers = asked.filter(({ type }) => type !== 2).map((each) => this.#frames(each));
    const bytes = Buffer.concat(this.#merge(answers).map((frame) => this.#encode(frame)));
    const spoiled = this.#spoilBytes(bytes);
    this.sent.push(Buffer.from(spoiled));
    this.#deliver(spoiled);
    return asked.length > 0;
  }

  #takeRequest(): SeenRequest | null {
    const isExtended = this.#form === 'extended';
    const bytes = this.#isLost ? null : this.#stream.take(isExtended ? 32 : 28);
    if (!bytes) return null;
    // a spoiled handshake may leave the two with different ideas of what was agreed on
    this.#isLost = bytes.readUInt32BE(0) !== (isExtended ? 0x21e41c71 : 0x25609513);
    if (this.#isLost) return null;
    const type = bytes.readUInt16BE(6);
    const length = isExtended ? Number(bytes.readBigUInt64BE(24)) : bytes.readUInt32BE(24);
    const hasPayload = isExtended ? (bytes.readUInt16BE(4) & 32) !== 0 : type === 1;
    if (hasPayload) this.#stream.take(length);
    return {
      cookie: bytes.readBigUInt64BE(8),
      type,
      flags: bytes.readUInt16BE(4),
      offset: Number(bytes.readBigUInt64BE(16)),
      length,
    };
  }

  #frames(request: SeenRequest): Frame[] {
    const dice = this.#dice;
    const frames: Frame[] = [];
    const add = (type: number, body: Buffer): void => {
      const { cookie, offset } = request;
      const magic = this.#form === 'extended' ? 0x6e8a278c : 0x668e33ef;
      frames.push({ magic, flags: 0, type, cookie, offset, body, length: null });
    };
    if (this.#form === 'simple') {
      const body = request.type === 0 ? data(request.offset, request.length) : Buffer.alloc(0);
      add(0, body);
      frames[0]!.magic = 0x67446698;
    } else if (dice.oneIn(12)) add(0x8001, errorBody(5, 'so it goes'));
    else if (request.type === 0) {
      for (const piece of this.#pieces(request)) add(piece.type, piece.body);
    } else if (request.type === 7) {
      add(5, statusBody(1, [[request.length, dice.below(4)]]));
      add(5, statusBody(9, [[request.length, dice.below(4)]]));
    } else add(0, Buffer.alloc(0));
    const last = frames.at(-1);
    if (last) last.flags = 1;
    if (this.#faultRate > 0 && dice.oneIn(this.#faultRate)) this.#spoil(frames, request);
    return frames;
  }

  /** A read in pieces, in any order, some of them holes. */
  #pieces({ flags, offset, length }: SeenRequest): { type: number; body: Buffer }[] {
    const dice = this.#dice;
    const pieces: { type: number; body: Buffer }[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      // with DF there is one
      const size = (flags & 4) !== 0 ? length : Math.min(end - at, 1 + dice.below(length));
      const isHole = dice.oneIn(4);
      pieces.push(isHole ? { type: 2, body: holeBody(at, size) } : dataPiece(at, size));
      at += size;
    }
    return dice.oneIn(2) ? pieces : pieces.reverse();
  }

  /** One thing that a server must not do. */
  #spoil(frames: Frame[], { offset, length }: SeenRequest): void {
    const dice = this.#dice;
    this.faults += 1;
    const at = dice.below(frames.length);
    const frame = frames[at]!;
    const copy = { ...frame, body: Buffer.from(frame.body) };
    const like = (type: number, body: Buffer, flags = 0): Frame => ({ ...copy, type, body, flags });
    switch (dice.below(16)) {
      case 0:
        frame.cookie = dice.oneIn(2) ? BigInt(dice.below(20)) : 2n ** 60n;
        return;
      case 1:
        frames.reverse();
        return;
      case 2:
        frames.splice(at, 1);
        return;
      case 3:
        frames.splice(at, 0, copy);
        return;
      case 4: {
        const more = dataPiece(offset, Math.max(1, length));
        frames.push(like(more.type, more.body, dice.below(2)));
        return;
      }
      case 5:
        if (frame.body.length >= 8)
          frame.body.writeBigUInt64BE(BigInt(dice.pick([0, offset + 1, 2 ** 52])));
        return;
      case 6: {
        const more = dataPiece(offset + dice.below(length + 1), 1 + dice.below(length + 1));
        frames.splice(at, 0, like(more.type, more.body));
        return;
      }
      case 7:
        frame.body = Buffer.concat([frame.body, dice.bytes(1 + dice.below(9))]);
        return;
      case 8:
        frame.body = frame.body.subarray(0, dice.below(frame.body.length + 1));
        return;
      case 9:
        frames.splice(at, 0, like(2, holeBody(offset, dice.pick([0, 1, 0xffffffff]))));
        return;
      case 10:
        frame.magic = dice.pick([0x67446698, 0x668e33ef, 0x6e8a278c, 0, 0x25609513]);
        return;
      case 11:
        frame.type = dice.pick([0, 1, 2, 3, 5, 6, 77, 0x8001, 0x8002, 0xffff]);
        return;
      case 12:
        frame.length = dice.pick([0, 7, 12, 0xffff, 2 ** 24, 0xffffffff, 2 ** 50]);
        return;
      case 13:
        frames.splice(
          at,
          0,
          like(0x8001, errorBody(dice.pick([0, 5]), 'half', dice.pick([4, 900]))),
        );
        return;
      case 14:
        frame.flags = frame.flags === 0 ? 1 : 0;
        return;
      default: {
        const list: [number, number][] = [[dice.pick([0, 1, length]), 0]];
        frames.splice(at, 0, like(5, statusBody(dice.pick([1, 9, 3]), list), dice.below(2)));
      }
    }
  }

  /** Answers of several requests, one frame of this and one of that. */
  #merge(answers: Frame[][]): Frame[] {
    const merged: Frame[] = [];
    let open = answers.filter((frames) => frames.length > 0);
    while (open.length > 0) {
      const next = this.#dice.pick(open).shift();
      if (next) merged.push(next);
      open = open.filter((frames) => frames.length > 0);
    }
    return merged;
  }

  #encode({ magic, flags, type, cookie, offset, body, length }: Frame): Buffer {
    const isSimple = magic === 0x67446698;
    const isExtended = this.#form === 'extended' && !isSimple;
    const header = Buffer.alloc(isSimple ? 16 : isExtended ? 32 : 20);
    header.writeUInt32BE(magic, 0);
    header.writeUInt16BE(flags & (isSimple ? 0 : 1), 4);
    header.writeUInt16BE(isSimple && this.#form === 'simple' ? 0 : type, 6);
    header.writeBigUInt64BE(cookie, 8);
    const said = length ?? body.length;
    if (isExtended) {
      header.writeBigUInt64BE(BigInt(offset), 16);
      header.writeBigUInt64BE(BigInt(said), 24);
    } else if (!isSimple) header.writeUInt32BE(said % 2 ** 32, 16);
    return Buffer.concat([header, body]);
  }

  #spoilBytes(bytes: Buffer): Buffer {
    const dice = this.#dice;
    if (this.#faultRate === 0 || bytes.length === 0 || !dice.oneIn(2 * this.#faultRate)) {
      return bytes;
    }
    this.faults += 1;
    const at = dice.below(bytes.length);
    switch (dice.below(4)) {
      case 0: {
        const copy = Buffer.from(bytes);
        copy[at] = dice.below(256);
        return copy;
      }
      case 1:
        return bytes.subarray(0, at);
      case 2:
        return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + dice.below(40))]);
      default:
        return Buffer.concat([
          bytes.subarray(0, at),
          dice.bytes(dice.below(64)),
          bytes.subarray(at),
        ]);
    }
  }
}

function data(offset: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at++) bytes[at] = byteAt(offset + at);
  return bytes;
}

function dataPiece(offset: number, length: number): { type: number; body: Buffer } {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64BE(BigInt(offset));
  return { type: 1, body: Buffer.concat([prefix, data(offset, length)]) };
}

function holeBody(offset: number, length: number): Buffer {
  const body = Buffer.alloc(12);
  body.writeBigUInt64BE(BigInt(offset));
  body.writeUInt32BE(length, 8);
  return body;
}

function errorBody(errno: number, text: string, textBytes = text.length): Buffer {
  const body = Buffer.alloc(6);
  body.writeUInt32BE(errno);
  body.writeUInt16BE(textBytes, 4);
  return Buffer.concat([body, Buffer.from(text)]);
}

function statusBody(context: number, list: readonly [number, number][]): Buffer {
  const body = Buffer.alloc(4 + 8 * list.length);
  body.writeUInt32BE(context);
  list.forEach(([length, flags], index) => {
    body.writeUInt32BE(length, 4 + 8 * index);
    body.writeUInt32BE(flags, 8 + 8 * index);
  });
  return body;
}
