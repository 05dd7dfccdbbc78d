import type { StoreMember } from '../../cluster-store.ts';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { MemberRecord } from '../../resources/member-record.ts';
import { defaultVoterWaitMs } from '../../resources/member-settings.ts';
import { isInMaintenance } from '../node/node-intent.ts';
import { byDistance } from './voter-distance.ts';

/** Members of one store, voters and learners together: what raft-ts carries. */
export const maxMembers = 63;
export const defaultVoters = 3;
/** A node that was decommissioned stays a learner so long (ms): then its own copy of the store says so. */
export const farewellMs = 3_000;

export type MembersAction =
  | { type: 'add'; id: string }
  | { type: 'remove'; id: string }
  /** at once, by a joint membership when more than one vote is concerned */
  | { type: 'change'; promote: string[]; demote: string[]; reason: string }
  /** the node is reached elsewhere now */
  | { type: 'readdress'; record: MemberRecord; address: string };

/**
 * What the leader does next about the members of the embedded store; null: all is as it should be.
 * One change at a time: the next look sees what came of it. `members` is the leader's own view.
 *
 * Voters are an odd number, so a pair of newcomers becomes voters together: with two, both must be
 * up. A voter is replaced and never merely dropped, unless an operator wants it out: a smaller store
 * bears fewer losses, and the one that is away may be back in a minute.
 */
export function planMembers(
  members: readonly StoreMember[],
  state: ClusterState,
  nowMs: number,
): MembersAction | null {
  return (
    planRecords(members, state, nowMs) ??
    planVoters(members, state, nowMs) ??
    planAddresses(state) ??
    null
  );
}

/** Who has joined becomes a learner, who has left leaves once it has no vote. */
function planRecords(
  members: readonly StoreMember[],
  state: ClusterState,
  nowMs: number,
): MembersAction | null {
  const known = new Map(members.map((member) => [member.id, member]));
  for (const { value: record } of state.members.values()) {
    const member = known.get(record.id);
    const leaves = record.removedAtMs !== undefined || state.forgotten.has(record.id);
    if (leaves && member?.role === 'learner' && !isToldNow(state, record, nowMs))
      return { type: 'remove', id: record.id };
    // one of a configuration is a member without having been added
    const isNew = !leaves && !member && record.nonce !== undefined;
    if (isNew && members.length < maxMembers) return { type: 'add', id: record.id };
  }
  return null;
}

function planVoters(
  members: readonly StoreMember[],
  state: ClusterState,
  nowMs: number,
): MembersAction | null {
  const voters = members.filter(({ role }) => role !== 'learner').map(({ id }) => id);
  if (voters.length === 0) return null;
  const unwanted = voters.filter((id) => !mayVote(state, id));
  const dead = voters.filter((id) => !unwanted.includes(id) && isDead(state, id, nowMs));
  const keep = voters.filter((id) => !unwanted.includes(id) && !dead.includes(id));
  const candidates = members
    .filter(({ id, role, isCaughtUp }) => role === 'learner' && isCaughtUp && fits(state, id))
    .map(({ id }) => id);
  const ranked = byDistance(candidates, keep, state);
  const [out = ''] = [...unwanted, ...dead];
  const [best] = ranked;
  if (out !== '' && best !== undefined) {
    const why = unwanted.includes(out) ? 'is not to vote any more' : 'is down for too long';
    return { type: 'change', promote: [best], demote: [out], reason: `voter ${out} ${why}` };
  }
  const [leaver] = unwanted;
  if (leaver !== undefined && bearsLoss(state, voters, leaver)) {
    return { type: 'change', promote: [], demote: [leaver], reason: 'it is not to vote any more' };
  }
  return planCount(state, { voters, dead, ranked, members });
}

/** More voters when there are nodes for it, fewer when somebody has said so. */
function planCount(
  state: ClusterState,
  found: { voters: string[]; dead: string[]; ranked: string[]; members: readonly StoreMember[] },
): MembersAction | null {
  const { voters, ranked } = found;
  const said = state.memberSettings?.value.voters;
  const wanted = voters.filter((id) => state.members.get(id)?.value.voter === 'wanted').length;
  const target = Math.max(said ?? Math.max(defaultVoters, voters.length), wanted);
  const reachable = Math.min(target, voters.length + ranked.length);
  const count = reachable % 2 === 1 ? reachable : reachable - 1;
  if (count > voters.length) {
    const promote = ranked.slice(0, count - voters.length);
    return { type: 'change', promote, demote: [], reason: `there are to be ${target} voters` };
  }
  if (said === undefined || voters.length <= target) return null;
  const surplus = voters
    .filter((id) => state.members.get(id)?.value.voter !== 'wanted')
    .filter((id) => found.members.find((member) => member.id === id)?.role !== 'leader');
  // who is away goes first
  surplus.sort((a, b) => Number(isUp(state, a)) - Number(isUp(state, b)) || (a < b ? 1 : -1));
  const demote = surplus.slice(0, voters.length - target);
  if (demote.length === 0 || !bearsLoss(state, voters, ...demote)) return null;
  return { type: 'change', promote: [], demote, reason: `there are to be ${target} voters` };
}

/** Learned by everybody from the record: the node itself has registered with it. */
function planAddresses(state: ClusterState): MembersAction | null {
  for (const { value: record } of state.members.values()) {
    const node = state.nodes.get(record.id)?.value;
    if (!node || record.removedAtMs !== undefined || !isUp(state, record.id)) continue;
    const address = node.addresses.api;
    if (address !== record.address) return { type: 'readdress', record, address };
  }
  return null;
}

/** It has just been decommissioned, and hears of that as long as it is a member. */
function isToldNow(
  state: ClusterState,
  { id, removedAtMs = 0 }: MemberRecord,
  nowMs: number,
): boolean {
  if (state.forgotten.get(id)?.value.how !== 'decommissioned') return false;
  return nowMs >= removedAtMs && nowMs - removedAtMs < farewellMs;
}

/** Nobody has said that it is to have no vote. */
export function mayVote(state: ClusterState, id: string): boolean {
  const record = state.members.get(id)?.value;
  if (record?.removedAtMs !== undefined || record?.voter === 'never') return false;
  if (state.forgotten.has(id)) return false;
  return state.nodes.get(id)?.value.spec?.decommission === undefined;
}

/** A learner that may become a voter now. */
export function fits(state: ClusterState, id: string): boolean {
  const { evacuate, maintenance } = state.nodes.get(id)?.value.spec ?? {};
  return mayVote(state, id) && isUp(state, id) && !evacuate && !maintenance;
}

/** A node that was never up may still be on its way: it is not called dead. */
function isDead(state: ClusterState, id: string, nowMs: number): boolean {
  const node = state.nodes.get(id)?.value;
  if (!node || isUp(state, id) || node.downSinceMs === undefined) return false;
  if (isInMaintenance(node, nowMs)) return false;
  const waitMs = state.memberSettings?.value.replacementWaitMs ?? defaultVoterWaitMs;
  return nowMs - node.downSinceMs >= waitMs;
}

/** Of the voters that would be left a majority is up. */
export function bearsLoss(
  state: ClusterState,
  voters: readonly string[],
  ...without: string[]
): boolean {
  const left = voters.filter((id) => !without.includes(id));
  const up = left.filter((id) => isUp(state, id));
  return left.length > 0 && up.length > left.length / 2;
}
