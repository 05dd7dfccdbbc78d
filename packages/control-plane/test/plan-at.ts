import type { Action, Controllers } from '../src/core/controllers/controllers.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { disksPrefix } from '../src/resources/keys.ts';
import type { StoredVolume } from '../src/resources/records.ts';

let replicas = 0;

/**
 * One look of the controllers at `nowMs` by both clocks, without notes and events and without scrubs, which begin by themselves some day.
 */
export function planAt(controllers: Controllers, state: ClusterState, nowMs: number): Action[] {
  const now = { monotonicMs: nowMs, wallMs: nowMs };
  return controllers
    .plan(state, now, () => `r-new-${++replicas}`)
    .filter(({ type }) => !['note-absence', 'note-event', 'put-scrub'].includes(type));
}

/** Does to the state what the runner's transactions would do. */
export function apply(state: ClusterState, action: Action): void {
  const put = (record: StoredVolume): void => {
    const modRevision = (state.volumes.get(record.metadata.id)?.modRevision ?? 0) + 1;
    state.volumes.set(record.metadata.id, { value: record, modRevision });
  };
  switch (action.type) {
    case 'mark-ready':
    case 'mark-failed':
      put(action.record);
      return;
    case 'roll-back': {
      const { value } = action.volume;
      state.volumes.delete(value.metadata.id);
      state.names.delete(value.metadata.name);
      state.deleted.set(value.metadata.id, { value, modRevision: 2 });
      return;
    }
    case 'put-scrub':
      state.scrubs.set(action.record.volumeId, { value: action.record, modRevision: 1 });
      return;
    case 'forget-scrub':
      state.scrubs.delete(action.volumeId);
      return;
    case 'finish-delete':
      state.deleted.delete(action.volume.value.metadata.id);
      for (const id of action.replicaIds) state.reports.delete(id);
      return;
    case 'change-replicas':
      put(action.change.record);
      for (const id of action.change.forgotten) state.reports.delete(id);
      return;
    case 'note-absence': {
      const { node, downSinceMs } = action.note;
      const { downSinceMs: _old, ...rest } = node.value;
      const value = downSinceMs === null ? rest : { ...rest, downSinceMs };
      state.nodes.set(rest.id, { value, modRevision: node.modRevision + 1 });
      return;
    }
    case 'give-up-snapshots':
      for (const record of action.snapshots) {
        const value = { ...record, state: 'deleting', message: action.reason };
        state.snapshots.get(record.volumeId)?.set(record.id, { value, modRevision: 2 });
      }
      return;
    case 'forget-snapshots':
      for (const { value } of action.snapshots)
        state.snapshots.get(value.volumeId)?.delete(value.id);
      return;
    case 'empty-trash': {
      const { value } = action.volume;
      state.trash.delete(value.metadata.id);
      state.deleted.set(value.metadata.id, { value, modRevision: 2 });
      return;
    }
    case 'note-trash-age': {
      const { value, modRevision } = action.volume;
      const trash = value.trash && { ...value.trash, agedMs: action.agedMs };
      const aged = { ...value, ...(trash ? { trash } : {}) };
      state.trash.set(value.metadata.id, { value: aged, modRevision: modRevision + 1 });
      return;
    }
    case 'rebalance':
      state.rebalance = {
        value: action.record,
        modRevision: action.rebalance.modRevision + 1,
      };
      if (action.begins) put(action.begins.change.record);
      return;
    case 'put-node': {
      const { record, node } = action;
      state.nodes.set(record.id, { value: record, modRevision: node.modRevision + 1 });
      return;
    }
    case 'remove-node': {
      const { id, name } = action.node.value;
      const value = { id, name, atMs: 0, how: 'decommissioned' };
      state.forgotten.set(id, { value, modRevision: 1 });
      state.nodes.delete(id);
      for (const [diskId, disk] of state.disks) {
        if (disk.value.nodeId === id) state.disks.delete(diskId);
      }
      return;
    }
    case 'end-lease':
      state.leases.delete(action.nodeId);
      return;
    case 'forget-disks':
      for (const { key } of action.transaction.operations) {
        state.disks.delete(key.slice(disksPrefix.length));
      }
      return;
    case 'move-primary':
    case 'note-event':
    case 'ask-attach':
    case 'resume-rollback':
      // the primary acts, and the record follows
      return;
    case 'ship-policies':
    case 'share-tenant':
      // they move nothing
      return;
  }
}
