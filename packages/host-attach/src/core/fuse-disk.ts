import {
  fallocateMode,
  fuseMajor,
  initFlag,
  linuxErrno,
  oldestMinor,
  pageBytes,
  rootNode,
} from './fuse-numbers.ts';
import {
  attributesReply,
  dataReplyHeader,
  directoryReply,
  emptyReply,
  entryReply,
  errorReply,
  initReply,
  openReply,
  statfsReply,
  versionReply,
  type FuseAttributes,
} from './fuse-replies.ts';
import type { FuseBody, FuseRequest } from './fuse-requests.ts';

export const diskFileName = 'disk';
const diskNode = 2;

/** bytes of one request; 256 pages are the most that the kernel takes unless it is told otherwise */
export const maxTransferBytes = 1024 * 1024;
/** the same for kernels without MAX_PAGES */
const oldTransferBytes = 32 * pageBytes;
/** Requests of a loop device that the kernel sends at once; each may hold `maxTransferBytes` here. */
export const maxBackgroundRequests = 64;

const accessMode = 3;
const readOnlyAccess = 0;

/** What is to be done for a request; all but `reply` and `none` wait for the volume. */
export type FuseStep =
  | { kind: 'reply'; bytes: Buffer }
  | { kind: 'none' }
  | { kind: 'read'; offset: number; length: number }
  | { kind: 'write'; offset: number; start: number; end: number }
  | { kind: 'zero'; offset: number; length: number; keepAllocated: boolean }
  | { kind: 'flush' };

/** A directory with one file, `disk`, which is the volume. */
export class FuseDisk {
  readonly readOnly: boolean;
  #sizeBytes: number;

  constructor({ sizeBytes, readOnly }: { sizeBytes: number; readOnly: boolean }) {
    this.#sizeBytes = sizeBytes;
    this.readOnly = readOnly;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  grow(sizeBytes: number): void {
    this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes);
  }

  step(request: FuseRequest): FuseStep {
    const { unique, node } = request;
    const fail = (errno: number): FuseStep => ({ kind: 'reply', bytes: errorReply(unique, errno) });
    const say = (bytes: Buffer): FuseStep => ({ kind: 'reply', bytes });
    switch (request.kind) {
      case 'init':
        return say(initAnswer(unique, request));
      case 'lookup':
        if (node === rootNode && request.name === diskFileName) {
          return say(entryReply(unique, this.#file()));
        }
        return fail(linuxErrno.ENOENT);
      case 'getattr': {
        const attributes = this.#attributesOf(node);
        return attributes ? say(attributesReply(unique, attributes)) : fail(linuxErrno.ENOENT);
      }
      case 'open':
        return this.#open(unique, node, request.flags);
      case 'opendir':
        return node === rootNode ? say(openReply(unique, false)) : fail(linuxErrno.ENOTDIR);
      case 'readdir': {
        const { offset, length } = request;
        const file = { name: diskFileName, node: diskNode };
        if (node !== rootNode) return fail(linuxErrno.ENOTDIR);
        return say(directoryReply(unique, file, offset, length));
      }
      case 'statfs':
        return say(statfsReply(unique, this.#sizeBytes));
      case 'read':
      case 'write':
      case 'fallocate':
      case 'fsync':
        return this.#transfer(request);
      // close() promises nothing about what was written: that is what fsync() is for
      case 'flush':
      case 'release':
      case 'releasedir':
      case 'destroy':
        return say(emptyReply(unique));
      case 'forget':
        return { kind: 'none' };
      case 'malformed':
        return fail(linuxErrno.EINVAL);
      // of an INTERRUPT that means: never ask again, each request is answered in its time
      case 'other':
        return fail(linuxErrno.ENOSYS);
    }
  }

  #file(): FuseAttributes {
    const mode = 0o100000 | (this.readOnly ? 0o400 : 0o600);
    return { node: diskNode, mode, links: 1, sizeBytes: this.#sizeBytes };
  }

  #attributesOf(node: number): FuseAttributes | null {
    if (node === diskNode) return this.#file();
    return node === rootNode ? { node, mode: 0o40700, links: 2, sizeBytes: 0 } : null;
  }

  #open(unique: bigint, node: number, flags: number): FuseStep {
    if (node !== diskNode) return { kind: 'reply', bytes: errorReply(unique, linuxErrno.EISDIR) };
    if (this.readOnly && (flags & accessMode) !== readOnlyAccess) {
      return { kind: 'reply', bytes: errorReply(unique, linuxErrno.EROFS) };
    }
    return { kind: 'reply', bytes: openReply(unique, true) };
  }

  #transfer(
    request: Extract<FuseRequest, { kind: 'read' | 'write' | 'fallocate' | 'fsync' }>,
  ): FuseStep {
    const { unique, node } = request;
    const fail = (errno: number): FuseStep => ({ kind: 'reply', bytes: errorReply(unique, errno) });
    // of the directory there is nothing to make durable
    if (request.kind === 'fsync' && node === rootNode) {
      return { kind: 'reply', bytes: emptyReply(unique) };
    }
    if (node !== diskNode) return fail(linuxErrno.EISDIR);
    if (request.kind === 'read') {
      const length = Math.min(request.length, Math.max(0, this.#sizeBytes - request.offset));
      if (length > maxTransferBytes) return fail(linuxErrno.EINVAL);
      if (length === 0) return { kind: 'reply', bytes: dataReplyHeader(unique, 0) };
      return { kind: 'read', offset: request.offset, length };
    }
    if (request.kind === 'fsync') return { kind: 'flush' };
    if (this.readOnly) return fail(linuxErrno.EROFS);
    if (request.kind === 'write') {
      const { offset, start, end } = request;
      if (offset + end - start > this.#sizeBytes) return fail(linuxErrno.ENOSPC);
      return { kind: 'write', offset, start, end };
    }
    return this.#zero(request);
  }

  /**
   * A loop device asks with PUNCH_HOLE both for a discard and for zeros that need not stay allocated,
   * so what was punched must read as zeros: it is never a mere TRIM, which promises nothing.
   */
  #zero(request: Extract<FuseRequest, { kind: 'fallocate' }>): FuseStep {
    const { unique, offset, length, mode } = request;
    const { keepSize, punchHole, zeroRange } = fallocateMode;
    const what = mode & ~keepSize;
    const errno =
      what !== punchHole && what !== zeroRange
        ? linuxErrno.EOPNOTSUPP
        : length === 0
          ? linuxErrno.EINVAL
          : offset + length > this.#sizeBytes
            ? linuxErrno.ENOSPC
            : 0;
    if (errno !== 0) return { kind: 'reply', bytes: errorReply(unique, errno) };
    return { kind: 'zero', offset, length, keepAllocated: what === zeroRange };
  }
}

function initAnswer(unique: bigint, asked: Extract<FuseBody, { kind: 'init' }>): Buffer {
  const { major, minor, flags } = asked;
  if (major > fuseMajor) return versionReply(unique);
  if (major < fuseMajor || minor < oldestMinor) return errorReply(unique, linuxErrno.EPROTO);
  const { asyncRead, bigWrites, asyncDio, parallelDirops, maxPages } = initFlag;
  // no write-back cache: what was written to the file is never only in this host's memory
  const wanted = asyncRead | bigWrites | asyncDio | parallelDirops | maxPages;
  return initReply(unique, {
    minor,
    flags: flags & wanted,
    maxWriteBytes: (flags & maxPages) !== 0 ? maxTransferBytes : oldTransferBytes,
    maxBackground: maxBackgroundRequests,
  });
}
