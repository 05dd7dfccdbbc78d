import {
  extendedReplyMagic,
  extendedRequestMagic,
  requestMagic,
  simpleReplyMagic,
  structuredReplyMagic,
} from './constants.ts';
import { readU64, writeU64 } from './wire-integers.ts';

/**
 * Headers of the transmission phase, written in place into a caller's buffer: a server answers tens
 * of thousands of requests a second, so nothing is allocated here. A cookie is eight opaque bytes,
 * carried as two 32-bit numbers.
 */

export const requestHeaderBytes = 28;
export const simpleReplyBytes = 16;
export const chunkHeaderBytes = 20;
/** The offset in front of the data of OFFSET_DATA. */
export const offsetDataPrefixBytes = 8;
export const offsetHoleBodyBytes = 12;
/** Error number and message length in front of the message of an error chunk. */
export const errorBodyPrefixBytes = 6;
/** The context in front of the descriptors of BLOCK_STATUS. */
export const statusPrefixBytes = 4;
export const statusDescriptorBytes = 8;

/** With extended headers requests and reply chunks have headers of the same size. */
export const extendedHeaderBytes = 32;
/** Context and number of descriptors in front of those of BLOCK_STATUS_EXT. */
export const extendedStatusPrefixBytes = 8;
export const extendedStatusDescriptorBytes = 16;
/** The effect length in front of the context ids in the payload of BLOCK_STATUS. */
export const statusFilterPrefixBytes = 8;

export interface RequestFields {
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
}

/** A request as a server reads it; the object is made once and used again. */
export interface RequestHeader extends RequestFields {
  /** the offset as it came, to be sent back: as a number it may be rounded */
  offsetHigh: number;
  offsetLow: number;
}

export function newRequestHeader(): RequestHeader {
  return {
    flags: 0,
    type: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    offsetHigh: 0,
    offsetLow: 0,
    length: 0,
  };
}

/**
 * Reads the header at `at`, which is there as a whole. False for a wrong magic. Offset and length may
 * be above 2^53, rounded.
 */
export function readRequest(
  bytes: Buffer,
  at: number,
  isExtended: boolean,
  header: RequestHeader,
): boolean {
  if (bytes.readUInt32BE(at) !== (isExtended ? extendedRequestMagic : requestMagic)) return false;
  header.flags = bytes.readUInt16BE(at + 4);
  header.type = bytes.readUInt16BE(at + 6);
  header.cookieHigh = bytes.readUInt32BE(at + 8);
  header.cookieLow = bytes.readUInt32BE(at + 12);
  header.offsetHigh = bytes.readUInt32BE(at + 16);
  header.offsetLow = bytes.readUInt32BE(at + 20);
  header.offset = header.offsetHigh * 2 ** 32 + header.offsetLow;
  header.length = isExtended ? readU64(bytes, at + 24) : bytes.readUInt32BE(at + 24);
  return true;
}

/** `length` is that of the payload when `flags` has PAYLOAD_LEN, else that of the effect. */
export function writeExtendedRequest(bytes: Buffer, at: number, fields: RequestFields): number {
  bytes.writeUInt32BE(extendedRequestMagic, at);
  bytes.writeUInt16BE(fields.flags, at + 4);
  bytes.writeUInt16BE(fields.type, at + 6);
  bytes.writeUInt32BE(fields.cookieHigh, at + 8);
  bytes.writeUInt32BE(fields.cookieLow, at + 12);
  writeU64(bytes, fields.offset, at + 16);
  writeU64(bytes, fields.length, at + 24);
  return at + extendedHeaderBytes;
}

export function writeRequest(bytes: Buffer, at: number, fields: RequestFields): number {
  bytes.writeUInt32BE(requestMagic, at);
  bytes.writeUInt16BE(fields.flags, at + 4);
  bytes.writeUInt16BE(fields.type, at + 6);
  bytes.writeUInt32BE(fields.cookieHigh, at + 8);
  bytes.writeUInt32BE(fields.cookieLow, at + 12);
  writeU64(bytes, fields.offset, at + 16);
  bytes.writeUInt32BE(fields.length, at + 24);
  return at + requestHeaderBytes;
}

export function writeSimpleReply(
  bytes: Buffer,
  at: number,
  errno: number,
  cookieHigh: number,
  cookieLow: number,
): number {
  bytes.writeUInt32BE(simpleReplyMagic, at);
  bytes.writeUInt32BE(errno, at + 4);
  bytes.writeUInt32BE(cookieHigh, at + 8);
  bytes.writeUInt32BE(cookieLow, at + 12);
  return at + simpleReplyBytes;
}

/** `length` counts what follows this header. */
export function writeChunkHeader(
  bytes: Buffer,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): number {
  bytes.writeUInt32BE(structuredReplyMagic, at);
  bytes.writeUInt16BE(flags, at + 4);
  bytes.writeUInt16BE(type, at + 6);
  bytes.writeUInt32BE(cookieHigh, at + 8);
  bytes.writeUInt32BE(cookieLow, at + 12);
  bytes.writeUInt32BE(length, at + 16);
  return at + chunkHeaderBytes;
}

/** What a reply answers: the cookie and the offset of its request, as they came. */
export interface ReplyTarget {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

/** `length` counts what follows this header. */
export function writeExtendedChunkHeader(
  bytes: Buffer,
  at: number,
  flags: number,
  type: number,
  to: ReplyTarget,
  length: number,
): number {
  bytes.writeUInt32BE(extendedReplyMagic, at);
  bytes.writeUInt16BE(flags, at + 4);
  bytes.writeUInt16BE(type, at + 6);
  bytes.writeUInt32BE(to.cookieHigh, at + 8);
  bytes.writeUInt32BE(to.cookieLow, at + 12);
  bytes.writeUInt32BE(to.offsetHigh, at + 16);
  bytes.writeUInt32BE(to.offsetLow, at + 20);
  bytes.writeUInt32BE(0, at + 24);
  bytes.writeUInt32BE(length, at + 28);
  return at + extendedHeaderBytes;
}

/** Payload of BLOCK_STATUS: how far the question goes, and of which contexts. */
export interface StatusFilter {
  /** bytes; may be above 2^53, rounded */
  length: number;
  ids: number[];
}

export function encodeStatusFilter({ length, ids }: StatusFilter): Buffer {
  const bytes = Buffer.alloc(statusFilterPrefixBytes + 4 * ids.length);
  writeU64(bytes, length, 0);
  ids.forEach((id, at) => bytes.writeUInt32BE(id, statusFilterPrefixBytes + 4 * at));
  return bytes;
}

/** Null when the payload has not that form. */
export function decodeStatusFilter(bytes: Buffer, start: number, end: number): StatusFilter | null {
  const idBytes = end - start - statusFilterPrefixBytes;
  if (idBytes < 0 || idBytes % 4 !== 0) return null;
  const ids: number[] = [];
  for (let at = start + statusFilterPrefixBytes; at < end; at += 4) {
    ids.push(bytes.readUInt32BE(at));
  }
  return { length: readU64(bytes, start), ids };
}
