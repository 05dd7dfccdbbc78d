import { StorError } from '@stor/protocol';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { noSuchNodeAnyMore } from '../resources/forgotten-record.ts';
import type { NodeRecord } from '../resources/records.ts';

/** By name or id. NOT_FOUND. */
export function findNode(state: ClusterState, nameOrId: string): Versioned<NodeRecord> {
  const found =
    [...state.nodes.values()].find((node) => node.value.name === nameOrId) ??
    state.nodes.get(nameOrId);
  if (found) return found;
  const gone = [...state.forgotten.values()]
    .map(({ value }) => value)
    .filter(({ id, name }) => name === nameOrId || id === nameOrId)
    .sort((a, b) => b.atMs - a.atMs)[0];
  if (gone) throw noSuchNodeAnyMore(gone);
  const names = [...state.nodes.values()].map((node) => node.value.name).sort();
  throw new StorError(
    'NOT_FOUND',
    `there is no node ${JSON.stringify(nameOrId)}: the nodes are ${names.join(', ') || '(none)'}`,
  );
}
