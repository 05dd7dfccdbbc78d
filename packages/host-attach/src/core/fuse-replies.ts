import {
  fuseMajor,
  fuseMinor,
  openFlag,
  pageBytes,
  replyHeaderBytes,
  rootNode,
} from './fuse-numbers.ts';

/** File or directory, as `stat` shows it. */
export interface FuseAttributes {
  node: number;
  /** with the bits of its type */
  mode: number;
  links: number;
  sizeBytes: number;
}

export interface InitAnswer {
  minor: number;
  flags: number;
  /** bytes of one write */
  maxWriteBytes: number;
  /** requests that nobody waits for at the kernel's door at once */
  maxBackground: number;
}

const attributeBytes = 88;

function reply(unique: bigint, errno: number, bodyBytes: number, dataBytes = 0): Buffer {
  const bytes = Buffer.alloc(replyHeaderBytes + bodyBytes);
  bytes.writeUInt32LE(bytes.length + dataBytes, 0);
  bytes.writeInt32LE(-errno, 4);
  bytes.writeBigUInt64LE(unique, 8);
  return bytes;
}

export function errorReply(unique: bigint, errno: number): Buffer {
  return reply(unique, errno, 0);
}

/** That it is done. */
export function emptyReply(unique: bigint): Buffer {
  return reply(unique, 0, 0);
}

/** What goes in front of so many bytes. */
export function dataReplyHeader(unique: bigint, dataBytes: number): Buffer {
  return reply(unique, 0, 0, dataBytes);
}

export function initReply(unique: bigint, answer: InitAnswer): Buffer {
  const bytes = reply(unique, 0, 64);
  const at = replyHeaderBytes;
  bytes.writeUInt32LE(fuseMajor, at);
  bytes.writeUInt32LE(Math.min(answer.minor, fuseMinor), at + 4);
  // read ahead (bytes): nothing is cached here, so there is none
  bytes.writeUInt32LE(0, at + 8);
  bytes.writeUInt32LE(answer.flags, at + 12);
  bytes.writeUInt16LE(answer.maxBackground, at + 16);
  // when the kernel calls it congested
  bytes.writeUInt16LE(Math.ceil((answer.maxBackground * 3) / 4), at + 18);
  bytes.writeUInt32LE(answer.maxWriteBytes, at + 20);
  // unit of times (ns)
  bytes.writeUInt32LE(1, at + 24);
  bytes.writeUInt16LE(Math.ceil(answer.maxWriteBytes / pageBytes), at + 28);
  return bytes;
}

/** Another major version is spoken here: the kernel asks again with that. */
export function versionReply(unique: bigint): Buffer {
  const bytes = reply(unique, 0, 64);
  bytes.writeUInt32LE(fuseMajor, replyHeaderBytes);
  bytes.writeUInt32LE(fuseMinor, replyHeaderBytes + 4);
  return bytes;
}

/** The kernel asks each time (valid for 0 s): the size may have changed. */
export function attributesReply(unique: bigint, attributes: FuseAttributes): Buffer {
  const bytes = reply(unique, 0, 16 + attributeBytes);
  writeAttributes(bytes, replyHeaderBytes + 16, attributes);
  return bytes;
}

export function entryReply(unique: bigint, attributes: FuseAttributes): Buffer {
  const bytes = reply(unique, 0, 40 + attributeBytes);
  bytes.writeBigUInt64LE(BigInt(attributes.node), replyHeaderBytes);
  writeAttributes(bytes, replyHeaderBytes + 40, attributes);
  return bytes;
}

function writeAttributes(bytes: Buffer, at: number, attributes: FuseAttributes): void {
  bytes.writeBigUInt64LE(BigInt(attributes.node), at);
  bytes.writeBigUInt64LE(BigInt(attributes.sizeBytes), at + 8);
  bytes.writeBigUInt64LE(BigInt(Math.ceil(attributes.sizeBytes / 512)), at + 16);
  bytes.writeUInt32LE(attributes.mode, at + 60);
  bytes.writeUInt32LE(attributes.links, at + 64);
  bytes.writeUInt32LE(pageBytes, at + 80);
}

/** Of the file: its pages are never cached, and writes to it go side by side. */
export function openReply(unique: bigint, isFile: boolean): Buffer {
  const bytes = reply(unique, 0, 16);
  const flags = isFile ? openFlag.directIo | openFlag.parallelDirectWrites : 0;
  bytes.writeUInt32LE(flags, replyHeaderBytes + 8);
  return bytes;
}

export function writeReply(unique: bigint, writtenBytes: number): Buffer {
  const bytes = reply(unique, 0, 8);
  bytes.writeUInt32LE(writtenBytes, replyHeaderBytes);
  return bytes;
}

export function statfsReply(unique: bigint, sizeBytes: number): Buffer {
  const bytes = reply(unique, 0, 80);
  const at = replyHeaderBytes;
  bytes.writeBigUInt64LE(BigInt(Math.ceil(sizeBytes / pageBytes)), at);
  bytes.writeBigUInt64LE(2n, at + 24);
  // also the unit in which a loop device discards
  bytes.writeUInt32LE(pageBytes, at + 40);
  bytes.writeUInt32LE(255, at + 44);
  bytes.writeUInt32LE(pageBytes, at + 48);
  return bytes;
}

const regularFile = 8;
const directory = 4;

/** What is in the directory from entry number `from` on, as much as fits into `most` bytes. */
export function directoryReply(
  unique: bigint,
  file: { name: string; node: number },
  from: number,
  most: number,
): Buffer {
  const entries = [
    { name: '.', node: rootNode, type: directory },
    { name: '..', node: rootNode, type: directory },
    { ...file, type: regularFile },
  ];
  const parts: Buffer[] = [];
  let total = 0;
  for (const [index, { name, node, type }] of entries.entries()) {
    if (index < from) continue;
    const nameBytes = Buffer.from(name);
    const entry = Buffer.alloc(Math.ceil((24 + nameBytes.length) / 8) * 8);
    if (total + entry.length > most) break;
    entry.writeBigUInt64LE(BigInt(node), 0);
    entry.writeBigUInt64LE(BigInt(index + 1), 8);
    entry.writeUInt32LE(nameBytes.length, 16);
    entry.writeUInt32LE(type, 20);
    nameBytes.copy(entry, 24);
    parts.push(entry);
    total += entry.length;
  }
  return Buffer.concat([dataReplyHeader(unique, total), ...parts]);
}
