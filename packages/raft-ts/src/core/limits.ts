/**
 * Every bound of the library, in one place. All may be passed in `limits` of the options except the
 * ones of the wire, which both sides must agree on.
 */
export interface RaftLimits {
  /** Entries of one append; one larger entry still goes alone. Keeps a lost message cheap. */
  appendBytes: number;
  /** Appends under way to one follower. */
  inflightMessages: number;
  /** Bytes of entries under way to one follower. */
  inflightBytes: number;
  /** Bytes of a log snapshot in one message. */
  snapshotChunkBytes: number;
  /** Chunks of a log snapshot under way to one follower. */
  snapshotChunks: number;
  /** Chunks that have arrived and wait for the disk; what is above is lost, and comes again. */
  waitingChunkBytes: number;
  /** Log kept for a follower that is being sent a log snapshot, so that it can go on behind it. */
  transferLogBytes: number;
  /** Proposals accepted and not yet committed, on the leader: memory if a quorum is away. */
  uncommittedBytes: number;
  /**
   * Log kept in memory; when it is over this a leader takes no proposal. It is reached only when the
   * log is not compacted fast enough, because the store or the state machine's snapshot does not keep up.
   */
  logBytes: number;
  /** Messages that wait for the disk of this member; the oldest are dropped, as if lost. */
  waitingMessages: number;
  /** Reads waiting for a round of heartbeats. */
  pendingReads: number;
  /** Callers that wait for an index to be applied. */
  pendingWaits: number;
  /** Committed entries handed to the state machine in one call. */
  applyBytes: number;
  /** Log kept in memory and on disk after a log snapshot, for followers that lag. */
  trailingBytes: number;
  /** A learner that lags by no more than this may become a voter. */
  promotionLagBytes: number;
  /** A log snapshot is taken when this much was applied since the last one. */
  snapshotLogBytes: number;
}

export const defaultLimits: Readonly<RaftLimits> = {
  appendBytes: 1 << 20,
  inflightMessages: 256,
  inflightBytes: 8 << 20,
  snapshotChunkBytes: 256 << 10,
  snapshotChunks: 4,
  waitingChunkBytes: 8 << 20,
  transferLogBytes: 64 << 20,
  uncommittedBytes: 32 << 20,
  logBytes: 256 << 20,
  waitingMessages: 4_096,
  pendingReads: 10_000,
  pendingWaits: 10_000,
  applyBytes: 1 << 20,
  trailingBytes: 8 << 20,
  promotionLagBytes: 1 << 20,
  snapshotLogBytes: 64 << 20,
};

/** One proposal. */
export const maxProposalBytes = 8 << 20;
/** What a leader may announce of one log snapshot; it lies on the disk, and is never in memory as a whole. */
export const maxSnapshotBytes = 2 ** 36;
/** One in a single message, as members before there were chunks send it, and in stores of format 2. */
export const maxWholeSnapshotBytes = 64 << 20;
/** One encoded batch of messages: a snapshot, a window of appends, and room for headers. */
export const maxFrameBytes = 96 << 20;
/** Messages in one encoded batch. */
export const maxFrameMessages = 65_535;
/** Entries in one append; more go in the next. */
export const maxAppendEntries = 65_535;
export const maxPeerIdBytes = 255;
/** Voters and learners together. */
export const maxVoters = 63;

/** What an entry costs besides its data; so that empty ones are bounded too. */
export const entryOverheadBytes = 32;
