import type { Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import type { NodeAction } from '../core/controllers/node-verbs-keeper.ts';
import { decommissionedNote } from '../core/node/node-notes.ts';
import { nodeLeaseKey } from '../resources/keys.ts';
import type { EventLog } from './event-log.ts';

type Removal = Extract<NodeAction, { type: 'remove-node' | 'end-lease' | 'forget-disks' }>;

/** Carries out what the leader has planned about a node that leaves the cluster. Each works twice. */
export async function carryOutRemoval(
  action: Removal,
  store: ClusterStore,
  events: Pick<EventLog, 'note'>,
  logger: Logger,
): Promise<void> {
  switch (action.type) {
    case 'remove-node': {
      const { succeeded } = await store.transact(action.transaction);
      if (!succeeded) return;
      const { id, name } = action.node.value;
      logger.info({ node: name }, 'the node is decommissioned');
      events.note(decommissionedNote({ id, name }));
      return;
    }
    case 'end-lease': {
      const { nodeId } = action;
      const item = await store.get(nodeLeaseKey(nodeId));
      if (item) await store.revokeLease(item.leaseId);
      return;
    }
    case 'forget-disks':
      await store.transact(action.transaction);
      return;
  }
}
