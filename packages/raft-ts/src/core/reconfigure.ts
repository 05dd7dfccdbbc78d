import { RaftError } from '../errors.ts';
import {
  changed,
  encodeMembership,
  isJoint,
  isVoter,
  left,
  type MemberChange,
  type Membership,
} from './membership.ts';
import { notLeader } from './not-leader.ts';
import type { RaftState } from './raft-state.ts';
import { broadcastAppend } from './replication.ts';

/**
 * Change of members. A `config` entry holds the whole next membership, and a member goes by the
 * newest one in its log, from when it is *appended* and whether or not it is committed: the rule of
 * Ongaro's thesis (chapter 4), with its proof. A log that is cut back brings the one before back.
 *
 * etcd-io/raft goes by the newest *applied* one. We did so first, and the simulation found what
 * etcd's documentation warns of: a change that only the removed member knows to be committed stops
 * a cluster of two for ever. Those who stay have it in their logs, ask by the old membership, and
 * need the vote of the one that left. By the rule of the thesis they need it no more.
 *
 * What keeps it safe:
 *
 * 1. A leader proposes a change only when an entry of its own term is committed, and the newest
 *    membership is (the first is a correction to the thesis, raft-dev, 10 July 2015).
 * 2. Two memberships that follow each other have overlapping majorities: they differ by one voter,
 *    or one of them is the joint membership of both.
 * 3. A leader that is no voter any more counts for nothing and leads on until that is committed.
 */
export function proposeChange(state: RaftState, changes: MemberChange[], joint = false): void {
  const next = checkChange(state, changes, joint);
  for (const id of next.voters) {
    if (!isVoter(state.log.membership, id)) requireCaughtUp(state, id);
  }
  appendMembership(state, next);
}

/** The membership after the change, which may be proposed now. Throws what `proposeChange` throws. */
export function checkChange(state: RaftState, changes: MemberChange[], joint = false): Membership {
  if (state.role !== 'leader') throw notLeader(state);
  if (state.transferee !== null) {
    throw new RaftError('CHANGE_PENDING', `leadership is being handed to ${state.transferee}`);
  }
  const { log } = state;
  if (log.membershipIndex > log.committed || isJoint(log.membership)) {
    throw new RaftError('CHANGE_PENDING', 'an earlier change of members is not finished');
  }
  if (log.committed < state.termStartIndex) {
    throw new RaftError('CHANGE_PENDING', 'the leader is new: its first entry is not committed');
  }
  return changed(log.membership, changes, joint);
}

/** A voter that lacks much of the log would hold up every commit that needs it. */
function requireCaughtUp(state: RaftState, id: string): void {
  if (isCaughtUp(state, id)) return;
  throw new RaftError(
    'INVALID_ARGUMENT',
    `${id} does not have the log yet: add it as a learner, and promote it when it has caught up`,
  );
}

/** It has what is committed, up to `promotionLagBytes`. */
export function isCaughtUp(state: RaftState, id: string): boolean {
  const progress = state.tracker.progress(id);
  if (!progress || progress.state !== 'replicate') return false;
  const lag = state.log.bytesBetween(progress.match, state.log.committed);
  return progress.match > 0 && lag <= state.limits.promotionLagBytes;
}

function appendMembership(state: RaftState, next: Membership): void {
  state.appendOwn([{ type: 'config', data: encodeMembership(next) }]);
  broadcastAppend(state);
}

/**
 * The commit index of a leader has moved. A joint membership is left as soon as it is committed, by
 * whoever leads then; a leader that was removed has done its work when that is committed.
 */
export function settleMembership(state: RaftState): void {
  const { log } = state;
  if (log.membershipIndex > log.committed) return;
  state.tracker.dropLeft();
  if (!isVoter(log.membership, state.id)) {
    state.becomeFollower(state.term, null);
  } else if (isJoint(log.membership) && log.membership.autoLeave) {
    appendMembership(state, left(log.membership));
  }
}
