import type { Membership } from './membership.ts';

/** Name of a member; unique in the cluster and never given to another member. */
export type PeerId = string;

/**
 * One slot of the log. A leader never makes two entries of one (index, term), so the pair names the
 * content, and by log matching the whole log before it (Raft paper, section 5.3).
 */
export interface Entry {
  index: number;
  term: number;
  /**
   * `normal` carries a proposal; `empty` opens a leader's term, so that it may commit what it
   * inherited; `config` carries a whole `Membership`, in force when the entry is appended.
   */
  type: 'normal' | 'empty' | 'config';
  data: Uint8Array;
}

/** What a member must remember through a restart besides the log. */
export interface HardState {
  term: number;
  /** who got this member's vote in `term`; null when nobody did */
  vote: PeerId | null;
  /** highest index known to be committed; it may lag behind, it never runs ahead of the log */
  commit: number;
}

export interface LogPosition {
  index: number;
  term: number;
}

/**
 * A log snapshot: the state machine after `index`, and the members of that time. Its content may be
 * large, so it is in the store only, and is written and read in pieces.
 */
export interface Snapshot extends LogPosition {
  membership: Membership;
  /** of the content */
  sizeBytes: number;
  /** CRC-32 of the content */
  checksum: number;
}

/** A log snapshot and its content in one. */
export interface WholeSnapshot extends LogPosition {
  membership: Membership;
  data: Uint8Array;
}

/** The next bytes of a log snapshot on their way into the store. */
export interface SnapshotPiece extends LogPosition {
  /** by this member's state machine, or from a leader: there may be one of each under way */
  source: 'made' | 'arriving';
  /** of the whole content; null while it is being made */
  totalBytes: number | null;
  /** 0 begins anew, and drops what came from this source before */
  offset: number;
  data: Uint8Array;
  /** CRC-32 of the content up to the end of this piece */
  checksum: number;
}

/** How much of a log snapshot has arrived. */
export interface ArrivingSnapshot extends LogPosition {
  totalBytes: number;
  /** all bytes in front of it are in the store */
  bytes: number;
  /** CRC-32 of those */
  checksum: number;
}

/** Bytes of the store's log snapshot that a follower is to get. */
export interface ChunkOrder {
  to: PeerId;
  /** the leader's, when it was ordered */
  term: number;
  snapshot: Snapshot;
  offset: number;
  /** bytes; 0 only of a snapshot without content */
  length: number;
}

export type Role = 'leader' | 'follower' | 'candidate' | 'preCandidate';

interface Envelope {
  from: PeerId;
  to: PeerId;
  /** the sender's term; for a pre-vote and its grant the term that would begin */
  term: number;
}

export interface VoteRequest extends Envelope {
  type: 'vote' | 'preVote';
  lastIndex: number;
  lastTerm: number;
  /** of a vote: the leader wants it so, and no lease of votes holds against it */
  isTransfer: boolean;
}

export interface VoteResponse extends Envelope {
  type: 'voteResponse' | 'preVoteResponse';
  rejected: boolean;
}

export interface AppendRequest extends Envelope {
  type: 'append';
  previousIndex: number;
  previousTerm: number;
  commit: number;
  entries: Entry[];
}

export interface AppendResponse extends Envelope {
  type: 'appendResponse';
  rejected: boolean;
  /** accepted: the last index known to match; rejected: the `previousIndex` that was refused */
  index: number;
  /** rejected: the highest index at which the logs might agree, and its term here (0: unknown) */
  hintIndex: number;
  hintTerm: number;
  /** rejected: it has lost what it acknowledged; what the leader knows of it is void */
  isRecovering: boolean;
}

export interface Heartbeat extends Envelope {
  type: 'heartbeat';
  commit: number;
  /** newest read waiting for a round of heartbeats; 0: none */
  readContext: number;
}

export interface HeartbeatResponse extends Envelope {
  type: 'heartbeatResponse';
  readContext: number;
}

/** A log snapshot in one message, as members before there were chunks send it. */
export interface SnapshotRequest extends Envelope {
  type: 'snapshot';
  snapshot: WholeSnapshot;
}

/** A piece of a log snapshot. */
export interface SnapshotChunk extends Envelope {
  type: 'snapshotChunk';
  snapshotIndex: number;
  snapshotTerm: number;
  membership: Membership;
  /** of the whole snapshot */
  totalBytes: number;
  offset: number;
  data: Uint8Array;
  /** CRC-32 of the snapshot up to the end of this chunk */
  checksum: number;
}

export interface SnapshotChunkResponse extends Envelope {
  type: 'snapshotChunkResponse';
  snapshotIndex: number;
  snapshotTerm: number;
  /** all bytes in front of it are there, and outlive a crash unless the member is of an earlier version */
  nextOffset: number;
}

/** A leader hands over: stand for election at once. */
export interface TimeoutNow extends Envelope {
  type: 'timeoutNow';
}

/** What members say to each other. Any of it may be lost, repeated, delayed or reordered. */
export type RaftMessage =
  | VoteRequest
  | VoteResponse
  | AppendRequest
  | AppendResponse
  | Heartbeat
  | HeartbeatResponse
  | SnapshotRequest
  | TimeoutNow
  | SnapshotChunk
  | SnapshotChunkResponse;

/** A read whose leadership was confirmed: serve it once `index` is applied. */
export interface ReadState {
  context: number;
  index: number;
}
