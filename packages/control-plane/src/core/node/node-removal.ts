import type { NodeId } from '@stor/protocol';
import type { Compare, Operation, Transaction } from '../../cluster-store.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { ForgottenRecord } from '../../resources/forgotten-record.ts';
import { diskKey, forgottenKey, memberKey, nodeKey, nodeLeaseKey } from '../../resources/keys.ts';
import type { MemberRecord } from '../../resources/member-record.ts';
import { encodeRecord } from '../../resources/records.ts';
import type { NodeRecord, StoredVolume } from '../../resources/records.ts';
import { disksOn, volumesOn } from '../../resources/state-index.ts';
import { holderLives } from '../controllers/attachment-rules.ts';
import { placedSegments } from '../volume/segment-size.ts';

/**
 * Disks whose records go together with the node's: etcd takes 128 operations. Those of a node that has
 * more follow, as any disk record of a node that is gone.
 */
export const maxDisksAtOnce = 100;

/**
 * Removes a node for ever: its record and those of its disks go, and a tombstone says that they are not
 * merely missing. `mustBeDown`: only while it holds no lease. `isMember`: it leaves the embedded store too;
 * with etcd it leaves the record that would make it a member when the cluster moves to the embedded store.
 */
export function removalOf(
  state: ClusterState,
  node: Versioned<NodeRecord>,
  options: {
    how: 'decommissioned' | 'forgotten';
    nowWallMs: number;
    mustBeDown: boolean;
    isMember: boolean;
  },
): Transaction {
  const { id, name } = node.value;
  const { how, nowWallMs, mustBeDown, isMember } = options;
  const record: ForgottenRecord = { id, name, atMs: nowWallMs, how };
  const compare: Compare[] = [
    { key: nodeKey(id), modRevision: node.modRevision },
    { key: forgottenKey(id), modRevision: 0 },
  ];
  if (mustBeDown) compare.push({ key: nodeLeaseKey(id), modRevision: 0 });
  const operations: Operation[] = [
    { type: 'put', key: forgottenKey(id), value: encodeRecord(record) },
    { type: 'delete', key: nodeKey(id) },
  ];
  for (const disk of disksOn(state, id).slice(0, maxDisksAtOnce)) {
    const key = diskKey(disk.value.id);
    compare.push({ key, modRevision: disk.modRevision });
    operations.push({ type: 'delete', key });
  }
  const known = state.members.get(id);
  if (isMember || known) {
    const key = memberKey(id);
    compare.push({ key, modRevision: known?.modRevision ?? 0 });
    operations.push({
      type: 'put',
      key,
      value: encodeRecord(leaver(node.value, known, nowWallMs)),
    });
  }
  return { compare, operations };
}

/** Raft lets it go as it does any member that is to leave: without its vote first. */
function leaver(
  { id, name, addresses, createdAtMs }: NodeRecord,
  known: Versioned<MemberRecord> | undefined,
  nowWallMs: number,
): MemberRecord {
  const base = known?.value ?? { id, name, address: addresses.api, addedAtMs: createdAtMs };
  return { ...base, removedAtMs: nowWallMs };
}

/** What of a node keeps it from being gone. */
export interface Holdings {
  attachments: number;
  replicas: number;
  /** replicas of volumes in the trash, which is not moved */
  trashed: number;
  /** replicas that left, or whose volume was deleted, and that its agent has not deleted yet */
  leftovers: number;
}

/** By the records alone, whether or not the node or its disks have records of their own. */
export function holdingsOf(state: ClusterState, nodeId: NodeId): Holdings {
  const found = { attachments: 0, replicas: 0, trashed: 0, leftovers: 0 };
  const isLeft = ({ id, nodeId: on }: { id: string; nodeId: NodeId }): boolean =>
    on === nodeId && state.reports.get(id)?.value.state !== 'deleted';
  for (const { value } of volumesOn(state.volumes, nodeId)) {
    if (isAttached(state, value, nodeId)) found.attachments += 1;
    for (const { replicas, removed = [] } of placedSegments(value)) {
      found.replicas += replicas.filter((replica) => replica.nodeId === nodeId).length;
      found.leftovers += removed.filter(isLeft).length;
    }
  }
  for (const { value } of volumesOn(state.trash, nodeId)) {
    for (const { replicas, removed = [] } of placedSegments(value)) {
      found.trashed += replicas.filter((replica) => replica.nodeId === nodeId).length;
      found.leftovers += removed.filter(isLeft).length;
    }
  }
  for (const { value } of volumesOn(state.deleted, nodeId)) {
    for (const { replicas, removed = [] } of placedSegments(value)) {
      found.leftovers += [...replicas, ...removed].filter(isLeft).length;
    }
  }
  return found;
}

/** One that a process held which is dead is given to whoever asks next, and keeps nobody. */
function isAttached(state: ClusterState, { spec, status }: StoredVolume, nodeId: NodeId): boolean {
  const { attachment } = status;
  if (spec.attachTo === nodeId) return true;
  const lease = state.leases.get(nodeId)?.value ?? null;
  return attachment?.nodeId === nodeId && holderLives(attachment, lease);
}

export function holdsNothing(holdings: Holdings): boolean {
  return Object.values(holdings).every((count) => count === 0);
}
