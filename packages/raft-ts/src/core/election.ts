import type { RaftState } from './raft-state.ts';
import { broadcastAppend } from './replication.ts';
import type { PeerId, RaftMessage, VoteRequest, VoteResponse } from './types.ts';

/**
 * Elections with pre-vote (thesis, section 9.6): who stands first asks, without raising its term,
 * whether a majority would vote for it. So a member that was cut off does not disturb the others
 * when it returns.
 */
export function campaign(state: RaftState): void {
  if (!state.promotable || state.role === 'leader') return;
  state.becomePreCandidate();
  askForVotes(state, 'preVote');
}

/** The leader hands over: no pre-vote, and the lease of votes does not hold against it. */
export function campaignForTransfer(state: RaftState): void {
  if (!state.promotable || state.role === 'leader') return;
  state.becomeCandidate();
  askForVotes(state, 'vote', true);
}

/**
 * The transport has lost its connection to `peer`. Who follows it waits only a few ticks more for its
 * word, and no longer holds its vote back for it; the pre-vote keeps a leader that others hear. Not
 * where lease reads are allowed: they rely on votes being held back for the whole time.
 */
export function suspectLeader(state: RaftState, peer: PeerId): void {
  if (state.role !== 'follower' || state.leaderId !== peer || state.holdsVotes) return;
  state.electionElapsed = Math.max(state.electionElapsed, state.electionTicks);
  state.shortenElectionTimeout(peer);
}

function askForVotes(state: RaftState, type: 'preVote' | 'vote', isTransfer = false): void {
  const term = type === 'preVote' ? state.term + 1 : state.term;
  for (const to of state.tracker.voters) {
    const envelope = { from: state.id, to, term };
    if (to === state.id) {
      // its own vote counts when it is durable, like everybody's
      state.send({ ...envelope, type: `${type}Response`, rejected: false });
    } else {
      const { lastIndex, lastTerm } = state.log;
      state.send({ ...envelope, type, lastIndex, lastTerm, isTransfer });
    }
  }
}

/**
 * The lease of votes: who heard a leader within the shortest election timeout takes no part in an
 * election, whatever its term, so one confused member cannot depose a leader that works.
 */
export function refusesVoteByLease(state: RaftState, message: RaftMessage): boolean {
  if (message.type !== 'vote' && message.type !== 'preVote') return false;
  if (message.isTransfer) return false;
  if (state.voteHoldTicks > 0) return true;
  return state.leaderId !== null && state.electionElapsed < state.electionTicks;
}

export function handleVoteRequest(state: RaftState, message: VoteRequest): void {
  const type = message.type === 'vote' ? 'voteResponse' : 'preVoteResponse';
  const mayVote =
    state.vote === message.from ||
    (state.vote === null && state.leaderId === null) ||
    (message.type === 'preVote' && message.term > state.term);
  const mayKnow = state.recoverTo === null;
  const granted = mayVote && mayKnow && state.log.isUpToDate(message.lastIndex, message.lastTerm);
  // a granted pre-vote speaks of the term that would begin, every other answer of the present one
  const term = granted ? message.term : state.term;
  state.send({ type, from: state.id, to: message.from, term, rejected: !granted });
  if (granted && message.type === 'vote') {
    state.electionElapsed = 0;
    state.vote = message.from;
  }
}

export function handleVoteResponse(state: RaftState, message: VoteResponse): void {
  const expected = state.role === 'preCandidate' ? 'preVoteResponse' : 'voteResponse';
  if (state.role !== 'candidate' && state.role !== 'preCandidate') return;
  if (message.type !== expected) return;
  // a grant for a term that has begun meanwhile is not one for the term after it
  const isOldGrant = message.type === 'preVoteResponse' && message.term === state.term;
  if (isOldGrant && !message.rejected) return;
  switch (state.tracker.recordVote(message.from, !message.rejected)) {
    case 'won':
      if (state.role === 'preCandidate') {
        state.becomeCandidate();
        askForVotes(state, 'vote');
      } else {
        state.becomeLeader();
        broadcastAppend(state);
      }
      return;
    case 'lost':
      // the term stays: for a pre-candidate it is its own, not the one that would have begun
      state.becomeFollower(state.term, null);
      return;
    case 'pending':
  }
}
