import { invariant } from '../errors.ts';
import {
  campaign,
  campaignForTransfer,
  handleVoteRequest,
  handleVoteResponse,
  refusesVoteByLease,
} from './election.ts';
import { handleAppend, handleHeartbeat, handleSnapshot, handleSnapshotChunk } from './follower.ts';
import {
  handleAppendResponse,
  handleChunkResponse,
  handleHeartbeatResponse,
  tickLeader,
} from './leader.ts';
import type { RaftState } from './raft-state.ts';
import type { PeerId, RaftMessage } from './types.ts';

/** One step of time. */
export function tick(state: RaftState): void {
  if (state.voteHoldTicks > 0) state.voteHoldTicks--;
  if (state.role === 'leader') {
    tickLeader(state);
    return;
  }
  state.electionElapsed++;
  if (state.promotable && state.electionElapsed >= state.electionTimeoutTicks) {
    state.electionElapsed = 0;
    campaign(state);
  }
}

/** One message, from a peer or from itself after a save. Terms are settled first, then the rest. */
export function step(state: RaftState, message: RaftMessage): void {
  if (message.to !== state.id) return;
  if (message.term > state.term && !settleHigherTerm(state, message)) return;
  if (message.term < state.term) {
    answerLowerTerm(state, message);
    return;
  }
  // a pre-vote and its grant are of the next term
  switch (message.type) {
    case 'vote':
    case 'preVote':
      handleVoteRequest(state, message);
      return;
    case 'voteResponse':
    case 'preVoteResponse':
      handleVoteResponse(state, message);
      return;
    case 'append':
      followLeader(state, message.from);
      handleAppend(state, message);
      return;
    case 'heartbeat':
      followLeader(state, message.from);
      handleHeartbeat(state, message);
      return;
    case 'snapshot':
      followLeader(state, message.from);
      handleSnapshot(state, message);
      return;
    case 'snapshotChunk':
      followLeader(state, message.from);
      handleSnapshotChunk(state, message);
      return;
    case 'snapshotChunkResponse':
      if (state.role === 'leader') handleChunkResponse(state, message);
      return;
    case 'appendResponse':
      if (state.role === 'leader') handleAppendResponse(state, message);
      return;
    case 'heartbeatResponse':
      if (state.role === 'leader') handleHeartbeatResponse(state, message);
      return;
    case 'timeoutNow':
      if (state.role === 'follower' && state.leaderId === message.from) campaignForTransfer(state);
  }
}

/** False when the message is to be dropped. */
function settleHigherTerm(state: RaftState, message: RaftMessage): boolean {
  if (refusesVoteByLease(state, message)) return false;
  switch (message.type) {
    case 'preVote':
      return true; // nobody's term rises by asking
    case 'preVoteResponse':
      if (!message.rejected) return true; // granted for the term that we asked about
      state.becomeFollower(message.term, null);
      return true;
    case 'append':
    case 'heartbeat':
    case 'snapshot':
    case 'snapshotChunk':
      state.becomeFollower(message.term, message.from);
      return true;
    case 'vote':
    case 'voteResponse':
    case 'appendResponse':
    case 'heartbeatResponse':
    case 'snapshotChunkResponse':
      state.becomeFollower(message.term, null);
      return true;
    case 'timeoutNow':
      // a leader that was not heard in its term has not been followed either
      return false;
  }
}

/**
 * Pre-vote and the lease of votes can leave a member behind in a higher term whose word nobody
 * hears: a leader of a lower term must learn that term from the answer, or it could never be
 * followed by that member. A pre-candidate of a lower term likewise.
 */
function answerLowerTerm(state: RaftState, message: RaftMessage): void {
  const envelope = { from: state.id, to: message.from, term: state.term };
  if (speaksForLeader(message)) {
    state.send({
      ...envelope,
      type: 'appendResponse',
      rejected: true,
      index: 0,
      hintIndex: 0,
      hintTerm: 0,
      isRecovering: false,
    });
  } else if (message.type === 'preVote') {
    state.send({ ...envelope, type: 'preVoteResponse', rejected: true });
  }
}

function speaksForLeader({ type }: RaftMessage): boolean {
  return ['append', 'heartbeat', 'snapshot', 'snapshotChunk'].includes(type);
}

/**
 * There is one leader per term, so whoever speaks as one in our term is it. Two of them mean that
 * a member forgot its vote: to go on would fork the log.
 */
function followLeader(state: RaftState, from: PeerId): void {
  invariant(state.role !== 'leader', `${from} leads term ${state.term} too`);
  if (state.role !== 'follower') state.becomeFollower(state.term, from);
  invariant(
    state.leaderId === null || state.leaderId === from,
    `${from} and ${state.leaderId} both lead term ${state.term}`,
  );
  state.electionElapsed = 0;
  state.leaderId = from;
}
