import { StorError } from '@stor/protocol';
import { fuseOpcode, requestHeaderBytes, writeBodyBytes } from './fuse-numbers.ts';

/** Of which nothing but the header is read. */
type BareKind =
  | 'getattr'
  | 'opendir'
  | 'statfs'
  | 'fsync'
  | 'flush'
  | 'release'
  | 'releasedir'
  | 'forget'
  | 'destroy';

type Bare<K> = K extends BareKind ? { kind: K } : never;

/** `start` and `end`: where the data of a write lie in the message. */
export type FuseBody =
  | { kind: 'init'; major: number; minor: number; flags: number }
  | { kind: 'lookup'; name: string }
  | { kind: 'open'; flags: number }
  | { kind: 'read'; offset: number; length: number }
  | { kind: 'write'; offset: number; start: number; end: number }
  | { kind: 'readdir'; offset: number; length: number }
  | { kind: 'fallocate'; offset: number; length: number; mode: number }
  | Bare<BareKind>
  /** its body is shorter than it must be, or says what cannot be */
  | { kind: 'malformed' }
  | { kind: 'other' };

export type FuseRequest = FuseBody & {
  /** names the request in its answer */
  unique: bigint;
  /** the file or directory that it is about */
  node: number;
  opcode: number;
};

const bareKindOf: Readonly<Record<number, BareKind>> = {
  [fuseOpcode.getattr]: 'getattr',
  [fuseOpcode.opendir]: 'opendir',
  [fuseOpcode.statfs]: 'statfs',
  [fuseOpcode.fsync]: 'fsync',
  [fuseOpcode.flush]: 'flush',
  [fuseOpcode.release]: 'release',
  [fuseOpcode.releasedir]: 'releasedir',
  [fuseOpcode.forget]: 'forget',
  [fuseOpcode.batchForget]: 'forget',
  [fuseOpcode.destroy]: 'destroy',
};

/** Body bytes that must be there, for those requests of which something is read. */
const leastBodyBytes: Readonly<Record<number, number>> = {
  [fuseOpcode.init]: 16,
  [fuseOpcode.lookup]: 1,
  [fuseOpcode.open]: 8,
  [fuseOpcode.read]: 20,
  [fuseOpcode.write]: writeBodyBytes,
  [fuseOpcode.readdir]: 20,
  [fuseOpcode.fallocate]: 32,
};

/**
 * One message as it was read from /dev/fuse. PROTOCOL when it is no message at all: then nothing can
 * be answered either.
 */
export function decodeFuseRequest(message: Buffer): FuseRequest {
  if (message.length < requestHeaderBytes || message.readUInt32LE(0) !== message.length) {
    throw new StorError('PROTOCOL', `${message.length} bytes of the kernel are no FUSE request`);
  }
  const opcode = message.readUInt32LE(4);
  const unique = message.readBigUInt64LE(8);
  const node = Number(message.readBigUInt64LE(16));
  return { ...bodyOf(message, opcode), unique, node, opcode };
}

function bodyOf(message: Buffer, opcode: number): FuseBody {
  const at = requestHeaderBytes;
  if (message.length - at < (leastBodyBytes[opcode] ?? 0)) return { kind: 'malformed' };
  switch (opcode) {
    case fuseOpcode.init:
      return {
        kind: 'init',
        major: message.readUInt32LE(at),
        minor: message.readUInt32LE(at + 4),
        flags: message.readUInt32LE(at + 12),
      };
    case fuseOpcode.lookup: {
      const end = message.indexOf(0, at);
      if (end < 0) return { kind: 'malformed' };
      return { kind: 'lookup', name: message.toString('utf8', at, end) };
    }
    case fuseOpcode.open:
      return { kind: 'open', flags: message.readUInt32LE(at) };
    case fuseOpcode.read:
      return rangeOf('read', message, message.readUInt32LE(at + 16));
    case fuseOpcode.readdir:
      return rangeOf('readdir', message, message.readUInt32LE(at + 16));
    case fuseOpcode.write:
      return writeOf(message);
    case fuseOpcode.fallocate: {
      const length = Number(message.readBigUInt64LE(at + 16));
      const range = rangeOf('read', message, length);
      if (range.kind === 'malformed') return range;
      return { ...range, kind: 'fallocate', mode: message.readUInt32LE(at + 24) };
    }
    default:
      return { kind: bareKindOf[opcode] ?? 'other' };
  }
}

/** Those that begin with a file handle and an offset. */
function rangeOf<K extends 'read' | 'readdir'>(
  kind: K,
  message: Buffer,
  length: number,
): { kind: K; offset: number; length: number } | { kind: 'malformed' } {
  const offset = Number(message.readBigUInt64LE(requestHeaderBytes + 8));
  if (!Number.isSafeInteger(offset + length)) return { kind: 'malformed' };
  return { kind, offset, length };
}

function writeOf(message: Buffer): FuseBody {
  const length = message.readUInt32LE(requestHeaderBytes + 16);
  const start = requestHeaderBytes + writeBodyBytes;
  const offset = Number(message.readBigUInt64LE(requestHeaderBytes + 8));
  // what is left must be the data and nothing else: half of a write is never done
  if (start + length !== message.length) return { kind: 'malformed' };
  if (!Number.isSafeInteger(offset + length)) return { kind: 'malformed' };
  return { kind: 'write', offset, start, end: start + length };
}
