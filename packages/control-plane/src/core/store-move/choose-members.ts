import { StorError } from '@stor/protocol';
import type { KeyValue } from '../../cluster-store.ts';
import { applyChange, emptyState, isUp, type ClusterState } from '../../resources/cluster-state.ts';
import { defaultVoters, fits, maxMembers, mayVote } from '../members/plan-members.ts';
import { byDistance } from '../members/voter-distance.ts';
import { membersPrefix, nodeLeasesPrefix, nodesPrefix } from '../../resources/keys.ts';
import type { MoveMembers } from './move-records.ts';

const memberKeys = [nodesPrefix, nodeLeasesPrefix, membersPrefix];

/**
 * With whom an embedded store begins that the cluster moves to: every node that it has, and of those
 * that are up the voters. `listed`: everything in the store that is left. FAILED_PRECONDITION.
 */
export function chooseMembers(listed: {
  revision: number;
  items: readonly KeyValue[];
}): MoveMembers {
  const state = emptyState();
  for (const item of listed.items) {
    const error = applyChange(state, item);
    // one that is left out would not be a member
    if (error && memberKeys.some((prefix) => item.key.startsWith(prefix))) throw error;
  }
  const nodes = [...state.nodes.values()]
    .map(({ value }) => ({ id: value.id, address: value.addresses.api }))
    .filter(({ id }) => state.members.get(id)?.value.removedAtMs === undefined)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  if (nodes.length > maxMembers) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `the cluster has ${nodes.length} nodes, and the embedded store takes ${maxMembers} members at most: stay with etcd`,
    );
  }
  const voters = new Set(chooseVoters(state));
  return {
    voters: nodes.filter(({ id }) => voters.has(id)),
    learners: nodes.filter(({ id }) => !voters.has(id)),
    revision: listed.revision,
  };
}

/**
 * An odd number of which a majority is up, first of those that have disks. Who is down votes too when
 * there are too few others: a node that begins anew during the move is down until its end.
 */
function chooseVoters(state: ClusterState): string[] {
  const able = [...state.nodes.keys()].filter((id) => mayVote(state, id)).sort();
  const up = able.filter((id) => fits(state, id));
  if (up.length === 0) {
    const known = [...state.nodes.keys()].filter((id) => isUp(state, id)).length;
    throw new StorError(
      'FAILED_PRECONDITION',
      `no node can vote in the embedded store: ${known} of ${state.nodes.size} are up, and each of those is in maintenance, is to leave, or was demoted`,
    );
  }
  const down = able.filter((id) => !isUp(state, id));
  const ranked = [up, down].reduce<string[]>((before, ids) => rank(state, ids, before), []);
  const wanted = ranked.filter((id) => state.members.get(id)?.value.voter === 'wanted').length;
  const target = Math.max(state.memberSettings?.value.voters ?? defaultVoters, wanted);
  // with one more that is down the majority would not be up
  const most = Math.min(target, ranked.length, 2 * up.length - 1);
  return ranked.slice(0, most % 2 === 1 ? most : most - 1);
}

function rank(state: ClusterState, ids: readonly string[], before: readonly string[]): string[] {
  const withDisks = new Set([...state.disks.values()].map(({ value }) => value.nodeId));
  const first = ids.filter((id) => withDisks.has(id));
  const storing = [...before, ...byDistance(first, before, state)];
  const others = ids.filter((id) => !withDisks.has(id));
  return [...storing, ...byDistance(others, storing, state)];
}
