import { fuseOpcode, requestHeaderBytes, writeBodyBytes } from '../../src/core/fuse-numbers.ts';

const fileNode = 2;

/** A message as the kernel writes it. */
export function message(
  opcode: number,
  { unique, node }: { unique: bigint; node: bigint },
  bytes: Buffer,
): Buffer {
  const header = Buffer.alloc(requestHeaderBytes);
  header.writeUInt32LE(requestHeaderBytes + bytes.length, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(unique, 8);
  header.writeBigUInt64LE(node, 16);
  return Buffer.concat([header, bytes]);
}

export function initMessage(major: number, minor: number, flags: number): Buffer {
  const bytes = Buffer.alloc(64);
  bytes.writeUInt32LE(major, 0);
  bytes.writeUInt32LE(minor, 4);
  bytes.writeUInt32LE(flags, 12);
  return message(fuseOpcode.init, { unique: 1n, node: 0n }, bytes);
}

export function readMessage(
  offset: number | bigint,
  length: number,
  {
    opcode = fuseOpcode.read,
    node = fileNode,
    unique = 1n,
  }: { opcode?: number; node?: number; unique?: bigint } = {},
): Buffer {
  const bytes = Buffer.alloc(40);
  bytes.writeBigUInt64LE(BigInt(offset), 8);
  bytes.writeUInt32LE(length, 16);
  return message(opcode, { unique, node: BigInt(node) }, bytes);
}

export function writeMessage(offset: number, data: Buffer, unique = 1n): Buffer {
  const bytes = Buffer.alloc(writeBodyBytes);
  bytes.writeBigUInt64LE(BigInt(offset), 8);
  bytes.writeUInt32LE(data.length, 16);
  const all = Buffer.concat([bytes, data]);
  return message(fuseOpcode.write, { unique, node: BigInt(fileNode) }, all);
}

export function fallocateMessage(
  offset: number,
  length: number,
  mode: number,
  unique = 1n,
): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.writeBigUInt64LE(BigInt(offset), 8);
  bytes.writeBigUInt64LE(BigInt(length), 16);
  bytes.writeUInt32LE(mode, 24);
  return message(fuseOpcode.fallocate, { unique, node: BigInt(fileNode) }, bytes);
}

export function fsyncMessage(unique = 1n): Buffer {
  return message(fuseOpcode.fsync, { unique, node: BigInt(fileNode) }, Buffer.alloc(16));
}

/** What is behind the header of an answer. */
export function body(reply: Buffer): Buffer {
  return reply.subarray(16);
}
