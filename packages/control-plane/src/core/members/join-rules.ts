import { StorError } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { goneForEver } from '../../resources/forgotten-record.ts';
import type { MemberRecord } from '../../resources/member-record.ts';
import { maxMembers } from './plan-members.ts';

export interface JoinRequest {
  nodeId: string;
  /** chosen once for this folder: the same join, sent again, is known by it */
  nonce: string;
  name: string;
  address: string;
  /** it takes the place of a node of that name that is down and has lost its folder */
  replace: boolean;
  /** it is never made a voter by itself */
  neverVotes: boolean;
}

export interface JoinDecision {
  /** it has joined before: only the answer was lost */
  repeated: boolean;
  record: MemberRecord;
  /** whose place it takes */
  replaced: string | null;
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;
const nodeIdPattern = /^n-[0-9a-f]{16}$/;
const addressPattern = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Za-z:.%]+\]):[0-9]{1,5}$/;

/** INVALID_ARGUMENT when it could come from no agent of ours. */
export function checkJoin({ nodeId, nonce, name, address }: JoinRequest): void {
  const refuse = (what: string, given: string, wanted: string): never => {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${what} ${JSON.stringify(given)} is not valid: ${wanted}`,
    );
  };
  if (!nodeIdPattern.test(nodeId)) refuse('node id', nodeId, 'n- and 16 hexadecimal digits');
  if (nonce.length < 16 || nonce.length > 64) refuse('nonce', nonce, '16 to 64 characters');
  if (!namePattern.test(name)) {
    refuse('node name', name, 'use 1 to 63 letters, digits, ".", "_" or "-"');
  }
  if (!addressPattern.test(address)) refuse('address', address, 'give HOST:PORT');
}

/**
 * Whether a node may join. ALREADY_EXISTS (its name is another node's), FAILED_PRECONDITION (its id
 * was a member of this store before, or there are too many members).
 */
export function decideJoin(
  state: ClusterState,
  request: JoinRequest,
  nowMs: number,
  most = maxMembers,
): JoinDecision {
  const { nodeId, nonce, name, address } = request;
  const gone = state.forgotten.get(nodeId)?.value;
  if (gone) throw goneForEver(gone);
  const known = state.members.get(nodeId)?.value;
  if (known && known.nonce !== nonce) refuseSecondLife(known);
  if (known?.removedAtMs !== undefined) refuseSecondLife(known);
  const replaced = replacedNode(state, request);
  const members = [...state.members.values()].filter(({ value }) => stays(state, value)).length;
  if (!known && members >= most) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `the cluster has ${members} members, and more than ${most} are not possible with the embedded store: use etcd as the cluster store`,
    );
  }
  const { neverVotes } = request;
  const record: MemberRecord = {
    ...(known ?? { addedAtMs: nowMs, ...(neverVotes ? { voter: 'never' as const } : {}) }),
    id: nodeId,
    name,
    address,
    nonce,
  };
  return { repeated: known !== undefined, record, replaced };
}

/** It has voted and has lost its log: what it said would be taken back (Raft, section 5). */
function refuseSecondLife({ id, name }: MemberRecord): never {
  throw new StorError(
    'FAILED_PRECONDITION',
    `${name} (${id}) has been a member of this cluster store, and must not come back under its old id without its log: start with an empty data folder, and give --replace`,
  );
}

/** Its name and its place are its own. */
function stays(state: ClusterState, { id, removedAtMs }: MemberRecord): boolean {
  return removedAtMs === undefined && !state.forgotten.has(id);
}

function replacedNode(state: ClusterState, { nodeId, name, replace }: JoinRequest): string | null {
  const owner =
    [...state.nodes.values()].find(({ value }) => value.name === name && value.id !== nodeId)
      ?.value ??
    [...state.members.values()].find(
      ({ value }) => value.name === name && value.id !== nodeId && stays(state, value),
    )?.value;
  if (!owner) return null;
  if (isUp(state, owner.id)) {
    throw new StorError(
      'ALREADY_EXISTS',
      `node ${name} (${owner.id}) is a member and is up: give this node another --name`,
    );
  }
  if (!replace) {
    throw new StorError(
      'ALREADY_EXISTS',
      `node ${name} (${owner.id}) is a member and is down: give --replace when this is the same host with its data folder lost, else another --name`,
    );
  }
  return owner.id;
}
