import {
  greetingMagic,
  infoType,
  maxStringBytes,
  optionMagic,
  optionReplyMagic,
} from './constants.ts';
import { readText, readU64, writeU64 } from './wire-integers.ts';

/**
 * Messages of the handshake, both directions. Decoders of a body take exactly that body and return
 * null for anything that does not fill it exactly; they never read past it and allocate nothing
 * that a length field asks for before that length is known to be there.
 */

export const greetingBytes = 18;
export const clientFlagsBytes = 4;
export const optionHeaderBytes = 16;
export const optionReplyHeaderBytes = 20;
/** What follows EXPORT_NAME, without and with the 124 zero bytes. */
export const exportNameReplyBytes = 10;
export const exportNameZeroBytes = 124;

export function encodeGreeting(handshakeFlags: number): Buffer {
  const bytes = Buffer.alloc(greetingBytes);
  bytes.writeBigUInt64BE(greetingMagic, 0);
  bytes.writeBigUInt64BE(optionMagic, 8);
  bytes.writeUInt16BE(handshakeFlags, 16);
  return bytes;
}

/** The handshake flags; null for anything that is not a newstyle greeting. */
export function decodeGreeting(bytes: Buffer, at: number): number | null {
  if (bytes.readBigUInt64BE(at) !== greetingMagic) return null;
  if (bytes.readBigUInt64BE(at + 8) !== optionMagic) return null;
  return bytes.readUInt16BE(at + 16);
}

export function encodeClientFlags(flags: number): Buffer {
  const bytes = Buffer.alloc(clientFlagsBytes);
  bytes.writeUInt32BE(flags, 0);
  return bytes;
}

export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.alloc(optionHeaderBytes + data.length);
  bytes.writeBigUInt64BE(optionMagic, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, optionHeaderBytes);
  return bytes;
}

export interface OptionHeader {
  option: number;
  /** bytes of data that follow */
  length: number;
}

/** Null for a wrong magic. */
export function decodeOptionHeader(bytes: Buffer, at: number): OptionHeader | null {
  if (bytes.readBigUInt64BE(at) !== optionMagic) return null;
  return { option: bytes.readUInt32BE(at + 8), length: bytes.readUInt32BE(at + 12) };
}

export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Buffer {
  const bytes = Buffer.alloc(optionReplyHeaderBytes + data.length);
  bytes.writeBigUInt64BE(optionReplyMagic, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  bytes.set(data, optionReplyHeaderBytes);
  return bytes;
}

export interface OptionReplyHeader {
  option: number;
  type: number;
  length: number;
}

/** Null for a wrong magic. */
export function decodeOptionReplyHeader(bytes: Buffer, at: number): OptionReplyHeader | null {
  if (bytes.readBigUInt64BE(at) !== optionReplyMagic) return null;
  return {
    option: bytes.readUInt32BE(at + 8),
    type: bytes.readUInt32BE(at + 12),
    length: bytes.readUInt32BE(at + 16),
  };
}

/** Body of INFO and GO: export name and the kinds of information asked for. */
export interface GoBody {
  name: string;
  infos: number[];
}

export function encodeGoBody(body: GoBody): Buffer {
  const name = Buffer.from(body.name, 'utf8');
  const bytes = Buffer.alloc(4 + name.length + 2 + 2 * body.infos.length);
  bytes.writeUInt32BE(name.length, 0);
  bytes.set(name, 4);
  bytes.writeUInt16BE(body.infos.length, 4 + name.length);
  body.infos.forEach((info, i) => bytes.writeUInt16BE(info, 6 + name.length + 2 * i));
  return bytes;
}

export function decodeGoBody(bytes: Buffer): GoBody | null {
  if (bytes.length < 6) return null;
  const nameBytes = bytes.readUInt32BE(0);
  if (nameBytes > maxStringBytes || nameBytes > bytes.length - 6) return null;
  const name = readText(bytes.subarray(4, 4 + nameBytes));
  const count = bytes.readUInt16BE(4 + nameBytes);
  if (name === null || bytes.length !== 6 + nameBytes + 2 * count) return null;
  const infos: number[] = [];
  for (let at = 6 + nameBytes; at < bytes.length; at += 2) infos.push(bytes.readUInt16BE(at));
  return { name, infos };
}

/** Body of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextBody {
  name: string;
  queries: string[];
}

export function encodeMetaContextBody(body: MetaContextBody): Buffer {
  const parts = [body.name, ...body.queries].map((text) => Buffer.from(text, 'utf8'));
  const bytes = Buffer.alloc(4 + parts.reduce((sum, part) => sum + 4 + part.length, 0));
  let at = 0;
  parts.forEach((part, i) => {
    at = bytes.writeUInt32BE(part.length, at);
    bytes.set(part, at);
    at += part.length;
    if (i === 0) at = bytes.writeUInt32BE(body.queries.length, at);
  });
  return bytes;
}

export function decodeMetaContextBody(bytes: Buffer): MetaContextBody | null {
  let at = 0;
  const text = (): string | null => {
    if (bytes.length - at < 4) return null;
    const length = bytes.readUInt32BE(at);
    at += 4;
    if (length > maxStringBytes || length > bytes.length - at) return null;
    at += length;
    return readText(bytes.subarray(at - length, at));
  };
  const name = text();
  if (name === null || bytes.length - at < 4) return null;
  const count = bytes.readUInt32BE(at);
  at += 4;
  // each query takes at least its length field, so a false count is refused before the loop
  if (count > (bytes.length - at) / 4) return null;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = text();
    if (query === null) return null;
    queries.push(query);
  }
  return at === bytes.length ? { name, queries } : null;
}

/** Body of a SERVER reply: an export's name. What a server adds behind it is for people: ignored. */
export function encodeServerBody(name: string): Buffer {
  const text = Buffer.from(name, 'utf8');
  const bytes = Buffer.alloc(4 + text.length);
  bytes.writeUInt32BE(text.length, 0);
  bytes.set(text, 4);
  return bytes;
}

export function decodeServerBody(bytes: Buffer): string | null {
  if (bytes.length < 4) return null;
  const length = bytes.readUInt32BE(0);
  if (length > maxStringBytes || length > bytes.length - 4) return null;
  return readText(bytes.subarray(4, 4 + length));
}

export interface MetaContext {
  id: number;
  name: string;
}

export function encodeMetaContextReply(context: MetaContext): Buffer {
  const text = Buffer.from(context.name, 'utf8');
  const bytes = Buffer.alloc(4 + text.length);
  bytes.writeUInt32BE(context.id, 0);
  bytes.set(text, 4);
  return bytes;
}

export function decodeMetaContextReply(bytes: Buffer): MetaContext | null {
  if (bytes.length < 5 || bytes.length > 4 + maxStringBytes) return null;
  const name = readText(bytes.subarray(4));
  return name === null ? null : { id: bytes.readUInt32BE(0), name };
}

/** One INFO reply. `unknown` kinds are skipped, as the specification asks. */
export type Info =
  | { kind: 'export'; sizeBytes: number; flags: number }
  | { kind: 'name'; text: string }
  | { kind: 'description'; text: string }
  | { kind: 'blockSize'; minimum: number; preferred: number; maximum: number }
  | { kind: 'unknown'; type: number };

export function encodeInfo(info: Exclude<Info, { kind: 'unknown' }>): Buffer {
  switch (info.kind) {
    case 'export': {
      const bytes = Buffer.alloc(12);
      bytes.writeUInt16BE(infoType.export, 0);
      writeU64(bytes, info.sizeBytes, 2);
      bytes.writeUInt16BE(info.flags, 10);
      return bytes;
    }
    case 'blockSize': {
      const bytes = Buffer.alloc(14);
      bytes.writeUInt16BE(infoType.blockSize, 0);
      bytes.writeUInt32BE(info.minimum, 2);
      bytes.writeUInt32BE(info.preferred, 6);
      bytes.writeUInt32BE(info.maximum, 10);
      return bytes;
    }
    case 'name':
    case 'description': {
      const text = Buffer.from(info.text, 'utf8');
      const bytes = Buffer.alloc(2 + text.length);
      bytes.writeUInt16BE(info.kind === 'name' ? infoType.name : infoType.description, 0);
      bytes.set(text, 2);
      return bytes;
    }
  }
}

export function decodeInfo(bytes: Buffer): Info | null {
  if (bytes.length < 2) return null;
  const type = bytes.readUInt16BE(0);
  switch (type) {
    case infoType.export:
      if (bytes.length !== 12) return null;
      return { kind: 'export', sizeBytes: readU64(bytes, 2), flags: bytes.readUInt16BE(10) };
    case infoType.blockSize:
      if (bytes.length !== 14) return null;
      return {
        kind: 'blockSize',
        minimum: bytes.readUInt32BE(2),
        preferred: bytes.readUInt32BE(6),
        maximum: bytes.readUInt32BE(10),
      };
    case infoType.name:
    case infoType.description: {
      const text = readText(bytes.subarray(2));
      if (text === null) return null;
      return { kind: type === infoType.name ? 'name' : 'description', text };
    }
    default:
      return { kind: 'unknown', type };
  }
}

/** Answer to EXPORT_NAME. */
export function encodeExportNameReply(sizeBytes: number, flags: number, noZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(exportNameReplyBytes + (noZeroes ? 0 : exportNameZeroBytes));
  writeU64(bytes, sizeBytes, 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}
