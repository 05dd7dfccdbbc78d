import { StorError } from '@stor/protocol';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import type { NodeRecord } from '../resources/records.ts';

/** By name or id. NOT_FOUND. */
export function findNode(state: ClusterState, nameOrId: string): Versioned<NodeRecord> {
  const found =
    [...state.nodes.values()].find((node) => node.value.name === nameOrId) ??
    state.nodes.get(nameOrId);
  if (found) return found;
  const names = [...state.nodes.values()].map((node) => node.value.name).sort();
  throw new StorError(
    'NOT_FOUND',
    `there is no node ${JSON.stringify(nameOrId)}: the nodes are ${names.join(', ') || '(none)'}`,
  );
}
