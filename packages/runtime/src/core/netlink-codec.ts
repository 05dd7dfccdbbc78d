/**
 * Messages of generic netlink (linux/netlink.h, linux/genetlink.h) as bytes. Numbers are in the
 * machine's order, which is little-endian wherever Stor runs.
 */

/** netlink header and generic header (bytes) */
const headerBytes = 16;
const genericBytes = 4;
const attributeHeaderBytes = 4;
/** of the value of an attribute: its length has 16 bits, and counts the header (bytes) */
export const maxAttributeBytes = 0xffff - attributeHeaderBytes;

export const netlinkFlag = { request: 0x01, ack: 0x04 } as const;
const messageType = { error: 2, done: 3 } as const;
/** bits of an attribute's type that say how it is packed */
const nestedBit = 0x8000;
const typeMask = 0x3fff;

export interface NetlinkAttribute {
  /** 0 to 16383 */
  type: number;
  value: Buffer | readonly NetlinkAttribute[];
}

export interface NetlinkRequest {
  family: number;
  flags: number;
  sequence: number;
  command: number;
  version: number;
  attributes: readonly NetlinkAttribute[];
}

/** `errno` 0: the request was carried out. */
export type NetlinkMessage =
  | { kind: 'message'; family: number; sequence: number; command: number; attributes: Buffer }
  | { kind: 'ack'; sequence: number; errno: number }
  | { kind: 'done'; sequence: number };

const aligned = (bytes: number): number => (bytes + 3) & ~3;

export function encodeNetlinkRequest(request: NetlinkRequest): Buffer {
  const body = encodeAttributes(request.attributes);
  const bytes = Buffer.alloc(headerBytes + genericBytes + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(request.family, 4);
  bytes.writeUInt16LE(request.flags, 6);
  bytes.writeUInt32LE(request.sequence, 8);
  bytes.writeUInt8(request.command, headerBytes);
  bytes.writeUInt8(request.version, headerBytes + 1);
  body.copy(bytes, headerBytes + genericBytes);
  return bytes;
}

/** Throws RangeError for a value that does not fit. */
export function encodeAttributes(attributes: readonly NetlinkAttribute[]): Buffer {
  return Buffer.concat(
    attributes.map(({ type, value }) => {
      const isNested = !Buffer.isBuffer(value);
      const body = isNested ? encodeAttributes(value) : value;
      if (body.length > maxAttributeBytes) {
        throw new RangeError(`a netlink attribute of ${body.length} bytes`);
      }
      const length = attributeHeaderBytes + body.length;
      const bytes = Buffer.alloc(aligned(length));
      bytes.writeUInt16LE(length, 0);
      bytes.writeUInt16LE(isNested ? type | nestedBit : type, 2);
      body.copy(bytes, attributeHeaderBytes);
      return bytes;
    }),
  );
}

/** What one receive brought. What does not add up ends the list: the kernel writes no such thing. */
export function decodeNetlinkMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let at = 0; bytes.length - at >= headerBytes;) {
    const length = bytes.readUInt32LE(at);
    if (length < headerBytes || length > bytes.length - at) break;
    const message = decodeOne(bytes.subarray(at, at + length));
    if (message) messages.push(message);
    at += aligned(length);
  }
  return messages;
}

/** Null for one that says nothing, or is cut off. */
function decodeOne(bytes: Buffer): NetlinkMessage | null {
  const type = bytes.readUInt16LE(4);
  const sequence = bytes.readUInt32LE(8);
  if (type === messageType.done) return { kind: 'done', sequence };
  if (bytes.length < headerBytes + genericBytes) return null;
  if (type === messageType.error) {
    return { kind: 'ack', sequence, errno: Math.abs(bytes.readInt32LE(headerBytes)) };
  }
  const attributes = bytes.subarray(headerBytes + genericBytes);
  const command = bytes.readUInt8(headerBytes);
  return { kind: 'message', family: type, sequence, command, attributes };
}

/** By type; of several of one type the last. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  return new Map(listAttributes(bytes).map(({ type, value }) => [type, value]));
}

/** As they come; those of a list have the same type, or numbers of their own. */
export function listAttributes(bytes: Buffer): { type: number; value: Buffer }[] {
  const found: { type: number; value: Buffer }[] = [];
  for (let at = 0; bytes.length - at >= attributeHeaderBytes;) {
    const length = bytes.readUInt16LE(at);
    if (length < attributeHeaderBytes || length > bytes.length - at) break;
    const type = bytes.readUInt16LE(at + 2) & typeMask;
    found.push({ type, value: bytes.subarray(at + attributeHeaderBytes, at + length) });
    at += aligned(length);
  }
  return found;
}

export function numberAttribute(type: number, value: number, bits: 32 | 64): NetlinkAttribute {
  const bytes = Buffer.alloc(bits / 8);
  if (bits === 32) bytes.writeUInt32LE(value);
  else bytes.writeBigUInt64LE(BigInt(value));
  return { type, value: bytes };
}

/** With the zero at its end. */
export function textAttribute(type: number, text: string): NetlinkAttribute {
  return { type, value: Buffer.from(`${text}\0`, 'utf8') };
}
