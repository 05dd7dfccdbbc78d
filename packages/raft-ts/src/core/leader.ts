import { RaftError } from '../errors.ts';
import { entryOverheadBytes, maxProposalBytes } from './limits.ts';
import { notLeader } from './not-leader.ts';
import type { Progress } from './progress.ts';
import type { RaftState } from './raft-state.ts';
import { settleMembership } from './reconfigure.ts';
import {
  advanceCommit,
  broadcastAppend,
  broadcastHeartbeat,
  sendAppend,
  sendChunks,
  sendChunksAgain,
} from './replication.ts';
import type { AppendResponse, HeartbeatResponse, PeerId, SnapshotChunkResponse } from './types.ts';

/** What a leader does with time, proposals, reads, and its followers' answers. */

export function tickLeader(state: RaftState): void {
  if (state.transferee !== null && ++state.transferElapsed >= state.electionTicks) {
    // it cannot, or was not heard: this leader goes on
    state.transferee = null;
  }
  state.heartbeatElapsed++;
  state.electionElapsed++;
  if (state.electionElapsed >= state.electionTicks) {
    state.electionElapsed = 0;
    // CheckQuorum: a leader that hears no majority stops, so its clients look for the new one.
    if (!state.tracker.takeQuorumActive(state.id)) {
      state.becomeFollower(state.term, null);
      return;
    }
  }
  for (const [id, progress] of state.tracker.entries()) {
    if (progress.state !== 'snapshot') continue;
    if (progress.transfer?.tick()) sendChunksAgain(state, id, progress);
    // No word for so long: the snapshot or its answer was lost. A probe finds out which.
    if (++progress.snapshotTicks >= state.snapshotPatienceTicks) progress.becomeProbe();
  }
  if (state.heartbeatElapsed >= state.heartbeatTicks) {
    state.heartbeatElapsed = 0;
    broadcastHeartbeat(state);
  }
}

/** Appends proposals as one group. Throws NOT_LEADER, TOO_BUSY, INVALID_ARGUMENT: nothing happened. */
export function propose(state: RaftState, proposals: Uint8Array[]): void {
  if (state.role !== 'leader') throw notLeader(state);
  if (state.transferee !== null) {
    throw new RaftError('TOO_BUSY', `leadership is being handed to ${state.transferee}`);
  }
  const bytes = proposals.reduce((sum, data) => sum + data.length + entryOverheadBytes, 0);
  if (proposals.some((data) => data.length > maxProposalBytes)) {
    throw new RaftError('INVALID_ARGUMENT', `a proposal is larger than ${maxProposalBytes} bytes`);
  }
  // One group is let in when nothing is under way, so that no limit can block for ever.
  if (
    state.uncommittedBytes > 0 &&
    state.uncommittedBytes + bytes > state.limits.uncommittedBytes
  ) {
    throw new RaftError(
      'TOO_BUSY',
      `${state.uncommittedBytes} bytes of proposals wait for a quorum already`,
    );
  }
  if (state.log.bytes > state.limits.logBytes) {
    throw new RaftError(
      'TOO_BUSY',
      `the log has ${state.log.bytes} bytes and is not compacted: the store, or the state ` +
        'machine that makes the log snapshot, does not keep up',
    );
  }
  state.appendOwn(proposals.map((data) => ({ type: 'normal', data })));
  broadcastAppend(state);
}

/**
 * Begins to hand over. While it lasts, no longer than an election timeout, nothing is proposed, so
 * that the other can have all of the log. Throws NOT_LEADER, CHANGE_PENDING, INVALID_ARGUMENT.
 */
export function transferLeadership(state: RaftState, to: PeerId): void {
  if (state.role !== 'leader') throw notLeader(state);
  if (state.transferee === to) return;
  if (state.transferee !== null) {
    throw new RaftError('CHANGE_PENDING', `leadership is being handed to ${state.transferee}`);
  }
  const progress = state.tracker.progress(to);
  if (!progress || to === state.id || !state.tracker.membership.voters.includes(to)) {
    throw new RaftError('INVALID_ARGUMENT', `${to} is not another voter`);
  }
  state.transferee = to;
  state.transferElapsed = 0;
  if (!finishTransfer(state, to, progress)) sendAppend(state, to, true);
}

/** As soon as it has all of the log. */
function finishTransfer(state: RaftState, to: PeerId, progress: Progress): boolean {
  if (state.transferee !== to || progress.match < state.log.lastIndex) return false;
  // the word may arrive late, even after we gave up: no lease holds in this term any more
  state.leaseBroken = true;
  state.send({ type: 'timeoutNow', from: state.id, to, term: state.term });
  return true;
}

/** Asks for the commit index as of now; `context` rises from call to call. Throws NOT_LEADER. */
export function readIndex(state: RaftState, context: number): void {
  if (state.role !== 'leader') throw notLeader(state);
  if (state.log.committed < state.termStartIndex) {
    // Until an entry of its term is committed a leader does not know what was committed before.
    state.earlyReads.push(context);
    return;
  }
  beginRead(state, context);
  broadcastHeartbeat(state);
}

function beginRead(state: RaftState, context: number): void {
  state.readOnly.add(context, state.log.committed, state.id);
  // alone it is its own majority
  confirmReads(state, state.id, context);
}

function confirmReads(state: RaftState, from: string, context: number): void {
  const confirmed = state.readOnly.acknowledge(from, context, (ids) => state.tracker.isQuorum(ids));
  state.readStates.push(...confirmed);
}

export function handleAppendResponse(state: RaftState, message: AppendResponse): void {
  const progress = state.tracker.progress(message.from);
  if (!progress) return;
  progress.recentActive = true;
  if (message.rejected) {
    handleRejection(state, message, progress);
  } else {
    handleAcknowledgement(state, message, progress);
  }
}

function handleRejection(state: RaftState, message: AppendResponse, progress: Progress): void {
  // The follower's last index that might agree; ours with a term not above its own is as far as
  // the logs can agree (both sides skip whole terms).
  const probe =
    message.hintTerm > 0
      ? state.log.findConflictByTerm(message.hintIndex, message.hintTerm).index
      : message.hintIndex;
  if (message.isRecovering && progress.match > probe) {
    progress.forget(Math.min(probe, state.log.lastIndex));
    sendAppend(state, message.from, true);
    return;
  }
  if (!progress.reject(message.index, probe)) return;
  if (progress.state === 'replicate') progress.becomeProbe();
  sendAppend(state, message.from, true);
}

function handleAcknowledgement(
  state: RaftState,
  message: AppendResponse,
  progress: Progress,
): void {
  if (message.index > state.log.lastIndex) return; // it cannot have more than was sent
  const wasPaused = progress.isPaused;
  const probed = progress.state === 'probe' && progress.match === message.index;
  if (!progress.acknowledge(message.index) && !probed) return;
  if (progress.state === 'probe') {
    progress.becomeReplicate();
  } else if (progress.state === 'snapshot') {
    // enough that the log can go on from there, be it by this snapshot or by another way
    if (progress.match + 1 >= state.log.firstIndex) progress.becomeReplicate();
    // it has what it was sent, but the log begins later by now: it needs the next one
    else if (progress.match >= progress.pendingSnapshot) progress.becomeProbe();
  } else {
    progress.inflights.freeThrough(message.index);
  }
  if (advanceCommit(state)) {
    beginEarlyReads(state);
    broadcastAppend(state);
    settleMembership(state);
    if (state.role !== 'leader') return;
  } else if (message.from !== state.id && (wasPaused || mayTellCommit(state, progress))) {
    sendAppend(state, message.from, true);
  }
  if (message.from === state.id) return;
  while (sendAppend(state, message.from, false));
  finishTransfer(state, message.from, progress);
}

function mayTellCommit(state: RaftState, progress: Progress): boolean {
  return state.log.committed > progress.sentCommit && progress.sentCommit < progress.next - 1;
}

function beginEarlyReads(state: RaftState): void {
  if (state.earlyReads.length === 0 || state.log.committed < state.termStartIndex) return;
  const contexts = state.earlyReads;
  state.earlyReads = [];
  for (const context of contexts) beginRead(state, context);
  broadcastHeartbeat(state);
}

/** What the follower has of the snapshot: the next chunks leave. */
export function handleChunkResponse(state: RaftState, message: SnapshotChunkResponse): void {
  const progress = state.tracker.progress(message.from);
  if (!progress) return;
  progress.recentActive = true;
  const { transfer } = progress;
  const { index, term } = transfer?.snapshot ?? { index: 0, term: 0 };
  if (!transfer || message.snapshotIndex !== index || message.snapshotTerm !== term) return;
  if (!transfer.acknowledge(message.nextOffset)) return;
  progress.snapshotTicks = 0;
  sendChunks(state, message.from, progress);
}

export function handleHeartbeatResponse(state: RaftState, message: HeartbeatResponse): void {
  const progress = state.tracker.progress(message.from);
  if (!progress) return;
  progress.recentActive = true;
  // It lives: whatever was lost may be sent again, one append per heartbeat.
  progress.paused = false;
  if (progress.match < state.log.lastIndex || progress.state === 'probe') {
    sendAppend(state, message.from, true);
  }
  if (message.readContext > 0) confirmReads(state, message.from, message.readContext);
}
