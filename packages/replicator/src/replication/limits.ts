/** Bounds of the replication engine, with units and reasons. */

/** A batch buffer: the writes of a few turns; larger frames get a buffer of their own (bytes). */
export const batchBytes = 1024 * 1024;
/** Large buffers kept for reuse by one lane (bytes): some 32 writes of 1 MiB under way. */
export const maxSpareBufferBytes = 64 * 1024 * 1024;
/** Spare batch buffers kept for reuse. */
export const maxSpareBatches = 8;

/**
 * Bytes given to one member and not yet acknowledged by it; above that no further write starts, so
 * a slow member costs latency and never memory.
 */
export const maxUnackedBytesPerMember = 64 * 1024 * 1024;
/** Bytes of slow writes that a secondary holds for one link before it stops reading from it. */
export const maxSecondaryBacklogBytes = 128 * 1024 * 1024;
/** Answers that a peer has not taken yet; above that no further request of it is read (bytes). */
export const maxSecondaryReplyBytes = 64 * 1024 * 1024;

/**
 * An established member that answers pings and owes another answer for this long leaves, when those
 * that acknowledgements need are there without it (failure row 10); four times as long for what
 * makes things durable.
 */
export const memberStallMs = 15_000;
/** It leaves in any case: nothing that needs it has been acknowledged for so long. */
export const memberLongStallMs = 60_000;
/** More between two ticks means that this process was stopped; it counts for no more (ms). */
export const maxAwakeStepMs = 1_000;
/** From connect to the peer's hello (ms). */
export const peerHandshakeMs = 3_000;
/** A fence may have to wait for slow writes of an older epoch (ms). */
export const openTimeoutMs = 20_000;
/** Reconnects back off between these (ms). */
export const reconnectMinMs = 500;
export const reconnectMaxMs = 5_000;
/** A secondary forgets a link on which not even pings come (ms). */
export const secondaryIdleMs = 10_000;

/**
 * In-sync members that do not answer get this long when another one kept its memory, and replicas
 * outside the set, which may remember a newer one (ms).
 */
export const activationGraceMs = 1_000;
/**
 * When replicas remember a newer set than the control plane has, it was restored from a backup, and
 * nodes are being started one after the other: another one may remember one that is newer still (ms).
 */
export const restoreGraceMs = 10_000;
/**
 * When none that is reached kept its memory and the policy accepts the loss of unflushed writes, the
 * others still get this long: nodes that lost power together do not come back together (ms).
 */
export const unflushedLossGraceMs = 10_000;
/** Then `attach` gives up; the caller may try again under the same grant (ms). */
export const activationTimeoutMs = 30_000;
/** Between two tries to change the set in the control plane (ms). */
export const proposeRetryMinMs = 100;
export const proposeRetryMaxMs = 2_000;
/** A proposal without any answer counts as of unknown outcome and is asked again (ms). */
export const proposeTimeoutMs = 10_000;

/** How often the engine looks at pings, silence, checkpoints (ms). */
export const tickMs = 250;
/**
 * How often it looks at a volume of which nobody wants anything (ms): at every fourth tick. What waits for
 * longer than that while a volume is quiet is a disk that broke without a request, and a due checkpoint.
 */
export const quietLookMs = 4 * tickMs - tickMs / 2;
/** When checkpoints come. */
export interface CheckpointPace {
  /** between two while regions are marked that have come to rest (ms) */
  everyMs: number;
  /** a region not written for this long has come to rest (seconds) */
  restSeconds: number;
  /** between two however many regions are marked (ms) */
  minMs: number;
}

/**
 * A region at rest was not written for this long. By then the kernel has written its pages back by
 * itself (dirty_expire_centisecs is 30 s), so the checkpoint's sync costs next to nothing; under
 * steady load on the same regions there is no checkpoint, and clients pay for none.
 */
export const checkpointPace: CheckpointPace = { everyMs: 10_000, restSeconds: 30, minMs: 5_000 };
/** With more marked regions than this one comes anyway: a crash would settle them all. */
export const checkpointMarks = 4_096;

/** Chunks settled or copied at once: polite to clients, enough to fill a disk. */
export const maxChunksInFlight = 4;
/** Chunks copied at once to all members of a segment together. */
export const maxChunksPerSegment = 8;
/** Copies that a member may have in its page cache before it is told to make them durable (bytes). */
export const resyncFlushBytes = 64 * 1024 * 1024;
/** A scrub that is not ordered again within this stops: nobody wants it any more (ms). */
export const scrubOrderMs = 30_000;
/** The rate of a scrub is what it read in such a time (ms). */
export const scrubRateMs = 2_000;
/** Chunks with bad blocks that wait for their repair; others are found again by the next read. */
export const maxRepairsWaiting = 1_024;
/** A member whose chunks fail so often in a row is dropped, and fenced anew. */
export const maxChunkFailures = 50;
/** A member without room is filled again after the first of these, doubling to the second (ms). */
export const spaceWaitMinMs = 5_000;
export const spaceWaitMaxMs = 300_000;
/** ... or as soon as the shorter time is over and it has room for so many chunks: 16 MiB. */
export const enoughChunksToRetry = 64;
/** A settle or copy step that could not finish is tried again after this (ms). */
export const chunkRetryMs = 100;

/** `stop` gives requests under way this long, then they are failed (ms). */
export const stopDrainMs = 10_000;
/** ... and looks this often whether a checkpoint or a join has ended (ms). */
export const stopPollMs = 20;

/**
 * A rollback may take as long as its replicas need to mark what differs and to make it durable; writes
 * are held meanwhile (ms). Only while it waits for what was started is it broken off.
 */
export const rollbackHoldMs = 10_000;
/** After snapshots were dropped a member is asked so often, so many times, what room came back. */
export const spaceRefreshMs = 1_000;
export const spaceRefreshes = 10;
/** One frame of zeros names no longer range (bytes): its length has 32 bits. */
export const maxZeroBytes = 1024 * 1024 * 1024;
