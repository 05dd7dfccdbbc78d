import { entryBytes } from './raft-log.ts';
import type { Progress } from './progress.ts';
import type { RaftState } from './raft-state.ts';
import { SnapshotTransfer } from './snapshot-transfer.ts';
import type { ChunkOrder, PeerId, SnapshotChunk } from './types.ts';

/** What a leader sends, and what it commits. */

/**
 * Sends what the follower lacks, as far as its progress allows; with `evenIfEmpty` an append that
 * only carries the commit index or probes. Returns whether anything left.
 */
export function sendAppend(state: RaftState, to: PeerId, evenIfEmpty: boolean): boolean {
  const progress = state.tracker.progress(to);
  if (!progress || progress.isPaused) return false;
  const previousIndex = progress.next - 1;
  const previousTerm = state.log.termAt(previousIndex);
  if (previousTerm === undefined) return sendSnapshot(state, to, progress);
  // A full window sends no entries, but an empty append still finds out what was lost of it.
  const blocked = progress.state === 'replicate' && progress.inflights.full;
  const entries = blocked ? [] : state.log.entriesFrom(progress.next, state.limits.appendBytes);
  if (entries.length === 0 && !evenIfEmpty) return false;
  const commit = state.log.committed;
  state.send({
    type: 'append',
    from: state.id,
    to,
    term: state.term,
    previousIndex,
    previousTerm,
    commit,
    entries,
  });
  const bytes = entries.reduce((sum, entry) => sum + entryBytes(entry), 0);
  progress.sentEntries(entries.length, bytes, commit);
  return true;
}

/** Only to who answers: a snapshot to a dead member would be built and lost again and again. */
function sendSnapshot(state: RaftState, to: PeerId, progress: Progress): boolean {
  if (!progress.recentActive) return false;
  const { snapshotChunkBytes: chunkBytes, snapshotChunks: window } = state.limits;
  const patienceTicks = state.electionTicks;
  const options = { chunkBytes, window, patienceTicks };
  progress.becomeSnapshot(new SnapshotTransfer(state.log.snapshot, options));
  sendChunks(state, to, progress);
  return true;
}

/** As many as the window lets: their bytes are in the store, from where the driver fetches them. */
export function sendChunks(state: RaftState, to: PeerId, progress: Progress): void {
  const { transfer } = progress;
  if (!transfer) return;
  const { snapshot } = transfer;
  for (const { offset, length } of transfer.take()) {
    state.chunkOrders.push({ to, term: state.term, snapshot, offset, length });
  }
}

/** Those that wait to be read are among those that are ordered now. */
export function sendChunksAgain(state: RaftState, to: PeerId, progress: Progress): void {
  state.chunkOrders = state.chunkOrders.filter((order) => order.to !== to);
  sendChunks(state, to, progress);
}

/** The transfer that this is of; null when it has ended. */
function transferOf(state: RaftState, { to, term, snapshot }: ChunkOrder): Progress | null {
  const progress = state.tracker.progress(to);
  const isLeader = state.role === 'leader' && state.term === term;
  return isLeader && progress?.transfer?.snapshot === snapshot ? progress : null;
}

/** The next chunk that is still wanted. */
export function takeChunkOrder(state: RaftState): ChunkOrder | null {
  for (let order = state.chunkOrders.shift(); order; order = state.chunkOrders.shift()) {
    if (transferOf(state, order)) return order;
  }
  return null;
}

/** What was read for an order, as a message; null when it is not wanted any more. */
export function sendChunk(
  state: RaftState,
  order: ChunkOrder,
  { data, checksum }: { data: Uint8Array; checksum: number },
): SnapshotChunk | null {
  if (!transferOf(state, order)) return null;
  const { index, term: snapshotTerm, membership, sizeBytes } = order.snapshot;
  return {
    type: 'snapshotChunk',
    from: state.id,
    to: order.to,
    term: order.term,
    snapshotIndex: index,
    snapshotTerm,
    membership,
    totalBytes: sizeBytes,
    offset: order.offset,
    data,
    checksum,
  };
}

/**
 * The store has a newer snapshot instead: the transfer begins anew with that, when the follower has
 * answered a heartbeat, as this member may not know of the newer one for a moment.
 */
export function abandonTransfer(state: RaftState, order: ChunkOrder): void {
  const progress = transferOf(state, order);
  if (!progress) return;
  progress.becomeProbe();
  progress.paused = true;
}

/** To every follower at least one append, as it carries the commit index, then what the window lets. */
export function broadcastAppend(state: RaftState): void {
  for (const [id] of state.tracker.entries()) {
    if (id === state.id) continue;
    sendAppend(state, id, true);
    while (sendAppend(state, id, false));
  }
}

export function broadcastHeartbeat(state: RaftState): void {
  const readContext = state.readOnly.newestContext;
  for (const [id, progress] of state.tracker.entries()) {
    if (id === state.id) continue;
    // The follower may lack what it has not acknowledged: it must not commit beyond that.
    const commit = Math.min(progress.match, state.log.committed);
    state.send({
      type: 'heartbeat',
      from: state.id,
      to: id,
      term: state.term,
      commit,
      readContext,
    });
  }
}

/** Commits what a majority holds; true when the commit index moved. */
export function advanceCommit(state: RaftState): boolean {
  const before = state.log.committed;
  if (!state.log.commitOwnTerm(state.tracker.committed(), state.term)) return false;
  const own = Math.max(before, state.termStartIndex - 1);
  state.uncommittedBytes -= state.log.bytesBetween(own, state.log.committed);
  return true;
}
