import { inOnePiece } from './whole-snapshot.ts';
import type { RaftState } from './raft-state.ts';
import type {
  AppendRequest,
  Heartbeat,
  LogPosition,
  PeerId,
  Snapshot,
  SnapshotChunk,
  SnapshotRequest,
} from './types.ts';

/** What a member does with the word of its term's leader. */

function acknowledge(state: RaftState, to: PeerId, index: number): void {
  state.send({
    type: 'appendResponse',
    from: state.id,
    to,
    term: state.term,
    rejected: false,
    index,
    hintIndex: 0,
    hintTerm: 0,
    isRecovering: false,
  });
}

/** `index` is what was refused; the hint is the highest index at which the logs might agree. */
function reject(state: RaftState, to: PeerId, index: number, hint: LogPosition): void {
  state.send({
    type: 'appendResponse',
    from: state.id,
    to,
    term: state.term,
    rejected: true,
    index,
    hintIndex: hint.index,
    hintTerm: hint.term,
    isRecovering: state.recoverTo !== null,
  });
}

export function handleAppend(state: RaftState, message: AppendRequest): void {
  const { log } = state;
  if (message.previousIndex < log.committed) {
    // old news: what is committed here equals the leader's log
    acknowledge(state, message.from, log.committed);
    return;
  }
  const last = log.appendAfter(message.previousIndex, message.previousTerm, message.entries);
  if (last !== null) {
    // the log goes on without a snapshot: what came of one is not kept
    state.assembly.clear();
    state.followMembership();
    log.commitTo(Math.min(message.commit, last));
    state.matchedLeader(last);
    acknowledge(state, message.from, last);
    return;
  }
  const hint = log.findConflictByTerm(message.previousIndex, message.previousTerm);
  reject(state, message.from, message.previousIndex, hint);
}

export function handleHeartbeat(state: RaftState, message: Heartbeat): void {
  const { log } = state;
  if (state.recoverTo === null) {
    log.commitTo(message.commit);
  } else if (message.commit > log.committed) {
    // the leader counts on what was acknowledged here and is lost: it has to begin anew
    reject(state, message.from, message.commit, { index: log.committed, term: 0 });
  }
  state.send({
    type: 'heartbeatResponse',
    from: state.id,
    to: message.from,
    term: state.term,
    readContext: message.readContext,
  });
}

/** In one message, as members of an earlier version send it: what goes for one chunk goes for it. */
export function handleSnapshot(state: RaftState, message: SnapshotRequest): void {
  const { index } = message.snapshot;
  if (index > state.log.committed && isStoring(state, message.snapshot.data.length)) return;
  const { snapshot, pieces } = inOnePiece(message.snapshot, 'arriving');
  if (index > state.log.committed) {
    state.assembly.clear();
    state.storeLater(pieces);
  }
  takeSnapshot(state, message.from, snapshot);
}

/** The disk does not keep up: what is not taken is lost, as if on the way. */
function isStoring(state: RaftState, bytes: number): boolean {
  // the whole one has to be named by a save before pieces of another take its place
  if (state.log.unsavedSnapshot()) return true;
  return (
    state.unsavedPieceBytes > 0 && state.unsavedPieceBytes + bytes > state.limits.waitingChunkBytes
  );
}

/**
 * A piece of a snapshot: answered when it is in the store, with how far it is complete there, so that a
 * crash of either side costs nothing that was answered; and with the last one the whole takes effect.
 */
export function handleSnapshotChunk(state: RaftState, message: SnapshotChunk): void {
  const { snapshotIndex, snapshotTerm, from } = message;
  if (snapshotIndex <= state.log.committed) {
    // what it tells is here already
    state.assembly.clear();
    acknowledge(state, from, state.log.committed);
    return;
  }
  if (isStoring(state, message.data.length)) return;
  const { nextOffset, isTaken, snapshot } = state.assembly.add(message);
  if (isTaken) {
    const { offset, data, checksum, totalBytes } = message;
    const position = { index: snapshotIndex, term: snapshotTerm };
    state.storeLater([{ ...position, source: 'arriving', totalBytes, offset, data, checksum }]);
  }
  const envelope = { from: state.id, to: from, term: state.term };
  state.send({
    ...envelope,
    type: 'snapshotChunkResponse',
    snapshotIndex,
    snapshotTerm,
    nextOffset,
  });
  if (snapshot) takeSnapshot(state, from, snapshot);
}

function takeSnapshot(state: RaftState, from: PeerId, snapshot: Snapshot): void {
  const { log } = state;
  if (snapshot.index > log.committed) {
    if (log.matches(snapshot.index, snapshot.term)) {
      // the log has it all: no need to start again from the snapshot
      log.commitTo(snapshot.index);
    } else {
      // it may be of before this member was added: the entries behind it add it
      log.restore(snapshot);
      state.followMembership();
    }
  }
  state.matchedLeader(log.committed);
  acknowledge(state, from, log.committed);
}
