import { requestMagic, simpleReplyMagic, structuredReplyMagic } from './constants.ts';
import { writeU64 } from './wire-integers.ts';

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
export const statusDescriptorBytes = 8;

export interface RequestFields {
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
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
