import { StorError } from '@stor/protocol';
import { maxBatchBytes, pieceBytes } from '../embedded/raft-frames.ts';

/**
 * Frames of the model of gRPC: length of what follows (u32), kind (u8), call (u32), body. A call's
 * body begins with its head (u16 length, JSON).
 */
export const frameKind = {
  call: 1,
  answer: 2,
  /** body: a StorError as `encodeRpcError` makes it */
  refused: 3,
  /** the server does not know the method */
  unknown: 4,
  cancel: 5,
  openStream: 6,
  accepted: 7,
  /** a batch or its last piece */
  batch: 8,
  piece: 9,
  ended: 10,
  ping: 11,
  pong: 12,
  /** one of the messages that a call is answered with; `over` follows the last */
  message: 13,
  over: 14,
} as const;

export type FrameKind = (typeof frameKind)[keyof typeof frameKind];

export interface Frame {
  kind: number;
  call: number;
  /** valid only during the call that hands it over */
  body: Buffer;
}

function tooLarge(what: string): StorError {
  return new StorError('PROTOCOL', `${what} is above the limit`);
}

const headerBytes = 9;
/** As gRPC's own limit for messages (bytes), with room for a head. */
export const maxFrameBytes = 65 * 1024 * 1024;

const none = new Uint8Array();

export function frame(kind: FrameKind, call: number, body: Uint8Array = none): Buffer {
  const bytes = Buffer.allocUnsafe(headerBytes + body.length);
  bytes.writeUInt32BE(headerBytes - 4 + body.length, 0);
  bytes.writeUInt8(kind, 4);
  bytes.writeUInt32BE(call, 5);
  bytes.set(body, headerBytes);
  return bytes;
}

export interface CallHead {
  service: string;
  method: string;
  metadata: Readonly<Record<string, string>>;
}

export function withHead(head: CallHead, body: Uint8Array = none): Buffer {
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.allocUnsafe(2);
  length.writeUInt16BE(text.length, 0);
  return Buffer.concat([length, text, body]);
}

/** The body is a copy: it outlives the receive buffer. */
export function splitHead(bytes: Buffer): { head: CallHead; body: Buffer } {
  const end = 2 + bytes.readUInt16BE(0);
  const head = JSON.parse(bytes.toString('utf8', 2, end)) as CallHead;
  return { head, body: Buffer.from(bytes.subarray(end)) };
}

/** Hands over whole frames; returns how many bytes of `bytes[start, end)` are done with. */
export function takeFrames(
  bytes: Buffer,
  start: number,
  end: number,
  take: (frame: Frame) => void,
): number {
  let at = start;
  while (end - at >= headerBytes) {
    const next = at + 4 + bytes.readUInt32BE(at);
    if (next - at > maxFrameBytes) throw tooLarge('a frame');
    if (next > end) break;
    const kind = bytes.readUInt8(at + 4);
    take({ kind, call: bytes.readUInt32BE(at + 5), body: bytes.subarray(at + headerBytes, next) });
    at = next;
  }
  return at - start;
}

/** A batch as frames: a log snapshot is larger than one frame may be. */
export function batchFrames(batch: Uint8Array): Buffer[] {
  const frames: Buffer[] = [];
  let at = 0;
  while (batch.length - at > pieceBytes) {
    frames.push(frame(frameKind.piece, 0, batch.subarray(at, at + pieceBytes)));
    at += pieceBytes;
  }
  frames.push(frame(frameKind.batch, 0, batch.subarray(at)));
  return frames;
}

/** The other direction, for one stream. */
export class FramedBatches {
  #pieces: Buffer[] = [];
  #bytes = 0;

  /** The whole batch with its last piece, else null. Throws when it is too large. */
  add({ kind, body }: Frame): Uint8Array | null {
    this.#bytes += body.length;
    if (this.#bytes > maxBatchBytes) throw tooLarge('a batch');
    this.#pieces.push(Buffer.from(body));
    if (kind !== frameKind.batch) return null;
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#bytes = 0;
    return pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces);
  }
}
