import { z } from 'zod';

import { StorError, errorCodes } from './errors.ts';
import type { SnapshotId } from './ids.ts';
import type { VersionRange } from './version-range.ts';
import { backgroundClasses } from './qos.ts';
import { blockBytes, maxPayloadBytes, maxPeerControlBytes } from './limits.ts';

/**
 * Frames between two lanes (docs/wire-protocol.md). Every frame starts with 32 bytes, big-endian:
 *
 *     0 type u8 | 1 flags u8 | 2 segment u16 | 4 channel u32 | 8 sequence u64
 *     16 offset u64 | 24 length u32 (of the range) | 28 bodyBytes u32 (what follows)
 *
 * 64-bit numbers stay below 2^53. A body's length is checked against its type before anything is
 * allocated for it, so a broken peer can cost one connection and nothing else.
 */
export const peerVersions: VersionRange = { min: 4, max: 4 };
/** What a node speaks that names no range, and what it wants to hear of others. */
const rangelessVersion = 4;
export const peerHeaderBytes = 32;

export const peerFrame = {
  hello: 1,
  open: 2,
  opened: 3,
  close: 4,
  closed: 5,
  write: 6,
  zero: 7,
  ack: 8,
  flush: 9,
  flushed: 10,
  read: 11,
  readReply: 12,
  sums: 13,
  sumsReply: 14,
  control: 15,
  controlReply: 16,
  requestFailed: 17,
  ping: 18,
  pong: 19,
  openReader: 20,
  readerOpened: 21,
} as const;
export type PeerFrameType = (typeof peerFrame)[keyof typeof peerFrame];

/** zero: whole chunks keep their space. */
export const peerFlagKeepAllocated = 1;
/** read and its reply: blocks that do not verify are sent too, and which do is said. */
export const peerFlagUnverified = 2;

/**
 * close: the primary has ended in order. All members that it closes so have applied the same writes,
 * and nothing was under way.
 */
export const peerFlagDrained = 4;
/**
 * read, sums, write, zero: of a snapshot's image, not of the live one; the body begins with the
 * snapshot's id (peerViewBytes). Answers do not repeat it.
 */
export const peerFlagView = 8;
/** The 16 digits of a snapshot's id as bytes. */
export const peerViewBytes = 8;
/** Extents that one answer may hold. */
export const maxPeerExtents = 65_536;
/** Snapshots of one replica that may be listed: what a volume may have, and what is being deleted. */
export const maxPeerSnapshots = 16_384;

/** An unaligned request of the largest NBD payload grows by one block at either end. */
export const maxPeerIoBytes = maxPayloadBytes + 2 * blockBytes;
/** Bytes of a channel's entry in a pong: channel u32, marks u32, sequence u64, free chunks u32, 0. */
export const peerPongEntryBytes = 24;
export const maxPeerChannels = 65_536;
/** A hello is a few ids; more than this before the peer is known is an attack or another protocol. */
export const maxPeerHelloBytes = 4_096;
/** Largest frame: what a receive buffer must be able to hold. */
export const maxPeerFrameBytes =
  peerHeaderBytes + peerViewBytes + maxPeerIoBytes + (maxPeerIoBytes / blockBytes) * 4;

/** A decoded header; one object is reused for all frames of a connection. */
export interface PeerHeader {
  type: number;
  flags: number;
  segment: number;
  channel: number;
  sequence: number;
  offset: number;
  length: number;
  bodyBytes: number;
}

export function newPeerHeader(): PeerHeader {
  return {
    type: 0,
    flags: 0,
    segment: 0,
    channel: 0,
    sequence: 0,
    offset: 0,
    length: 0,
    bodyBytes: 0,
  };
}

const two32 = 2 ** 32;

function writeU64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / two32), at);
  bytes.writeUInt32BE(value % two32, at + 4);
}

function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * two32 + bytes.readUInt32BE(at + 4);
}

/** Writes the 32 bytes of a header at `at`. Arguments are flat: this runs once per write. */
export function encodePeerHeader(
  bytes: Buffer,
  at: number,
  type: PeerFrameType,
  flags: number,
  segment: number,
  channel: number,
  sequence: number,
  offset: number,
  length: number,
  bodyBytes: number,
): void {
  bytes[at] = type;
  bytes[at + 1] = flags;
  bytes.writeUInt16BE(segment, at + 2);
  bytes.writeUInt32BE(channel, at + 4);
  writeU64(bytes, sequence, at + 8);
  writeU64(bytes, offset, at + 16);
  bytes.writeUInt32BE(length, at + 24);
  bytes.writeUInt32BE(bodyBytes, at + 28);
}

/** Reads and checks the header at `at`; throws PROTOCOL when no peer of ours would send it. */
export function decodePeerHeader(bytes: Buffer, at: number, into: PeerHeader): void {
  into.type = bytes.readUInt8(at);
  into.flags = bytes.readUInt8(at + 1);
  into.segment = bytes.readUInt16BE(at + 2);
  into.channel = bytes.readUInt32BE(at + 4);
  into.sequence = readU64(bytes, at + 8);
  into.offset = readU64(bytes, at + 16);
  into.length = bytes.readUInt32BE(at + 24);
  into.bodyBytes = bytes.readUInt32BE(at + 28);
  const problem = problemOf(into);
  if (problem) throw new StorError('PROTOCOL', `peer frame of type ${into.type}: ${problem}`);
}

function problemOf(header: PeerHeader): string | null {
  if (!Number.isSafeInteger(header.sequence)) return 'sequence is above 2^53';
  if (!Number.isSafeInteger(header.offset + header.length)) return 'offset is above 2^53';
  switch (header.type) {
    case peerFrame.hello:
      return header.bodyBytes > maxPeerHelloBytes ? 'body is too long' : null;
    case peerFrame.open:
    case peerFrame.opened:
    case peerFrame.closed:
    case peerFrame.control:
    case peerFrame.controlReply:
    case peerFrame.requestFailed:
    case peerFrame.openReader:
    case peerFrame.readerOpened:
      return header.bodyBytes > maxPeerControlBytes ? 'body is too long' : null;
    case peerFrame.write:
      return (
        rangeProblem(header, true) ??
        bodyProblem(header, viewBytes(header) + peerWriteBodyBytes(header.length))
      );
    case peerFrame.zero:
      return rangeProblem(header, false) ?? bodyProblem(header, viewBytes(header));
    case peerFrame.read:
    case peerFrame.sums:
      return rangeProblem(header, true) ?? bodyProblem(header, viewBytes(header));
    case peerFrame.readReply:
      return (
        rangeProblem(header, true) ??
        bodyProblem(
          header,
          header.flags & peerFlagUnverified
            ? header.length + header.length / blockBytes
            : peerWriteBodyBytes(header.length),
        )
      );
    case peerFrame.sumsReply:
      return rangeProblem(header, true) ?? bodyProblem(header, peerSumsBodyBytes(header.length));
    case peerFrame.pong:
      if (header.bodyBytes % peerPongEntryBytes !== 0) return 'body is cut';
      return header.bodyBytes > maxPeerChannels * peerPongEntryBytes ? 'body is too long' : null;
    case peerFrame.close:
    case peerFrame.ack:
    case peerFrame.flush:
    case peerFrame.flushed:
    case peerFrame.ping:
      return bodyProblem(header, 0);
    default:
      return 'the type is unknown';
  }
}

function viewBytes(header: PeerHeader): number {
  return header.flags & peerFlagView ? peerViewBytes : 0;
}

/** A snapshot's id as it lies before the rest of a body. */
export function encodePeerView(snapshotId: SnapshotId): Buffer {
  return Buffer.from(snapshotId.slice(2), 'hex');
}

export function decodePeerView(bytes: Buffer, at: number): SnapshotId {
  return `s-${bytes.toString('hex', at, at + peerViewBytes)}`;
}

function rangeProblem(header: PeerHeader, bounded: boolean): string | null {
  if (header.length === 0) return 'the range is empty';
  if (header.length % blockBytes !== 0 || header.offset % blockBytes !== 0) {
    return 'the range is not made of whole blocks';
  }
  return bounded && header.length > maxPeerIoBytes ? 'the range is too long' : null;
}

function bodyProblem(header: PeerHeader, expected: number): string | null {
  return header.bodyBytes === expected ? null : `body has ${header.bodyBytes}, not ${expected}`;
}

/** Bytes behind the header of a write: a CRC-32 per block, then the blocks. */
export function peerWriteBodyBytes(length: number): number {
  return length + (length / blockBytes) * 4;
}

/** Bytes behind the header of a sums reply: 16 of hash per block, then a byte per block. */
export function peerSumsBodyBytes(length: number): number {
  return (length / blockBytes) * 17;
}

export interface PeerPongEntry {
  channel: number;
  markedCount: number;
  sequence: number;
  freeChunks: number;
}

export function encodePongEntry(bytes: Buffer, at: number, entry: PeerPongEntry): void {
  bytes.writeUInt32BE(entry.channel, at);
  bytes.writeUInt32BE(Math.min(entry.markedCount, two32 - 1), at + 4);
  writeU64(bytes, entry.sequence, at + 8);
  bytes.writeUInt32BE(Math.min(entry.freeChunks, two32 - 1), at + 16);
  bytes.writeUInt32BE(0, at + 20);
}

export function decodePongEntry(bytes: Buffer, at: number): PeerPongEntry {
  return {
    channel: bytes.readUInt32BE(at),
    markedCount: bytes.readUInt32BE(at + 4),
    sequence: readU64(bytes, at + 8),
    freeChunks: bytes.readUInt32BE(at + 16),
  };
}

const id = z.string().min(1).max(64);
const count = z.number().int().nonnegative();
/**
 * Regions or chunks as a bitmap, bit i of byte i >> 3, base64; zeros at the end may be left out, but for one
 * byte. After `~` it is runs, to a side that said `runs` when it opened.
 */
const bitmap = z.union([z.base64(), z.templateLiteral(['~', z.base64()])]);
const generation = z.object({ epoch: count, n: count });
/** When regions last changed; a byte for each, base64. */
const history = z.object({
  after: generation,
  generations: z.array(generation).max(254),
  regions: z.base64(),
});
export type PeerHistory = z.infer<typeof history>;
const snapshotId = z.string().regex(/^s-[0-9a-f]{16}$/);
const snapshot = z.object({
  snapshotId,
  state: z.enum(['prepared', 'ready', 'incomplete']),
  epoch: count,
  sizeBytes: count,
  parent: snapshotId.nullable(),
  ownBytes: count,
});
/** The snapshots of a replica, in the order in which they were taken. */
const snapshots = z.array(snapshot).max(maxPeerSnapshots);
const setView = z.object({ epoch: count, setRevision: count, members: z.array(id).max(64) });
const failure = z.object({
  code: z.enum(errorCodes),
  message: z.string().max(4_096),
  details: z.record(z.string(), z.string()).optional(),
});

/** First frame of either side. */
export const peerHello = z.object({
  version: count,
  /** absent: `version` is the only one */
  minVersion: count.optional(),
  maxVersion: count.optional(),
  clusterId: id,
  nodeId: id,
  agentInstance: id,
});
export type PeerHello = z.infer<typeof peerHello>;

/** What a hello says of versions: a node that knows no ranges looks at `version` alone. */
export function helloVersions({
  min,
  max,
}: VersionRange): Partial<PeerHello> & { version: number } {
  const version = Math.max(min, Math.min(rangelessVersion, max));
  return { version, minVersion: min, maxVersion: max };
}

export function versionsOfHello({ version, minVersion, maxVersion }: PeerHello): VersionRange {
  return { min: minVersion ?? version, max: maxVersion ?? version };
}

/** Fences the replica at the epoch and binds it to the channel. */
export const peerOpen = z.object({
  volumeId: id,
  segment: count,
  replicaId: id,
  epoch: count,
  sizeBytes: count,
  /** takes bitmaps as runs too; absent: flat ones only */
  runs: z.boolean().optional(),
});
export type PeerOpen = z.infer<typeof peerOpen>;

/** Opens a ready snapshot of a replica to be read: no fence, no epoch, no lease. */
export const peerOpenReader = z.object({
  volumeId: id,
  segment: count,
  replicaId: id,
  snapshotId,
  /** takes bitmaps as runs too; absent: flat ones only */
  runs: z.boolean().optional(),
});
export type PeerOpenReader = z.infer<typeof peerOpenReader>;

export const peerReaderOpened = z.union([
  z.object({ error: failure }),
  z.object({ sizeBytes: count }),
]);
export type PeerReaderOpened = z.infer<typeof peerReaderOpened>;

export const peerOpened = z.union([
  z.object({ error: failure }),
  z.object({
    diskId: id,
    keptMemory: z.boolean(),
    failure: failure.nullable(),
    highestEpoch: count,
    setView: setView.nullable(),
    generation,
    marks: bitmap,
    allocated: bitmap,
    /** chunks that a write needs no new room for */
    owned: bitmap,
    freeChunks: count,
    /** of the replica as it is: it may have grown, or not yet */
    sizeBytes: count,
    snapshots,
    headParent: snapshotId.nullable(),
    /** absent: a peer from before it; then a whole lease may be left */
    leaseRemainingMs: count.optional(),
    /** epoch of the primary before, if it closed the channel as drained and nobody came since */
    drainedEpoch: count.optional(),
    /** it answers `turn`; absent: a peer from before it */
    turns: z.boolean().optional(),
  }),
]);
export type PeerOpened = z.infer<typeof peerOpened>;

export const peerClosed = failure;
export type PeerFailure = z.infer<typeof failure>;

export const peerControl = z.discriminatedUnion('op', [
  z.object({ op: z.literal('set-view'), view: setView }),
  z.object({ op: z.literal('checkpoint') }),
  z.object({ op: z.literal('retire'), generation }),
  z.object({ op: z.literal('adopt'), generation, history: history.nullable() }),
  z.object({ op: z.literal('history') }),
  z.object({ op: z.literal('changed-since'), generation }),
  z.object({
    op: z.literal('take-snapshot'),
    snapshotId,
    kind: z.enum(['prepared', 'incomplete']),
  }),
  /** how long the snapshot is where it is whole; a copy that was taken later may be longer */
  z.object({ op: z.literal('confirm-snapshot'), snapshotId, sizeBytes: count.optional() }),
  z.object({ op: z.literal('drop-snapshot'), snapshotId }),
  z.object({ op: z.literal('rollback'), snapshotId }),
  z.object({ op: z.literal('resize'), sizeBytes: count }),
  z.object({ op: z.literal('snapshots') }),
  z.object({
    op: z.literal('changed-chunks'),
    from: snapshotId.nullable(),
    to: snapshotId.nullable(),
  }),
  z.object({ op: z.literal('space') }),
  /** more credits: room for so many new chunks beyond what was sent */
  z.object({ op: z.literal('room'), chunks: count }),
  /** answered when a piece of background work may begin, however late */
  z.object({ op: z.literal('turn'), class: z.enum(backgroundClasses), bytes: count }),
  /** on a reader's channel: what takes space in the snapshot */
  z.object({
    op: z.literal('extents'),
    offset: count,
    length: count,
    limit: z.number().int().min(1).max(maxPeerExtents),
  }),
]);
export type PeerControl = z.infer<typeof peerControl>;

export const peerControlReply = z.object({
  regions: bitmap.nullable().optional(),
  history: history.optional(),
  /** changed-chunks: null when an id is not known */
  chunks: bitmap.nullable().optional(),
  /** snapshots */
  snapshots: snapshots.optional(),
  headParent: snapshotId.nullable().optional(),
  /** rollback, resize, snapshots */
  sizeBytes: count.optional(),
  /** rollback, space: as they are when this is answered */
  allocated: bitmap.optional(),
  owned: bitmap.optional(),
  /** room too: once everything up to `sequence` is applied */
  freeChunks: count.optional(),
  sequence: count.optional(),
  /** extents: offset, length and whether it takes space (0 or 1), one after another */
  extents: z
    .array(count)
    .max(3 * maxPeerExtents)
    .optional(),
});
export type PeerControlReply = z.infer<typeof peerControlReply>;

/** The JSON body of a frame, checked; throws PROTOCOL. */
export function parsePeerBody<T>(
  schema: z.ZodType<T>,
  bytes: Buffer,
  start: number,
  end: number,
): T {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8', start, end));
  } catch (error) {
    throw new StorError('PROTOCOL', 'peer frame body is not JSON', { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new StorError('PROTOCOL', `peer frame body: ${parsed.error.message.slice(0, 500)}`);
  }
  return parsed.data;
}

export function peerFailureOf(error: StorError): PeerFailure {
  return { code: error.code, message: error.message.slice(0, 4_096), details: error.details };
}

export function errorOfPeer(failed: PeerFailure): StorError {
  return new StorError(failed.code, failed.message, { details: failed.details ?? {} });
}
