import type { Member } from '@stor/protocol';
import type { StoreMember } from '../../cluster-store.ts';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';

/** What is seen of a member; what only a leader knows may be missing. */
export type SeenMember = Pick<StoreMember, 'id' | 'role' | 'address'> & {
  matchIndex: number | null;
  lagEntries: number | null;
};

/** Members as the API shows them, by name. */
export function describeMembers(state: ClusterState, seen: readonly SeenMember[]): Member[] {
  const members = seen.map(({ id, role, address, matchIndex, lagEntries }): Member => {
    const record = state.members.get(id)?.value;
    const node = state.nodes.get(id)?.value;
    return {
      nodeId: id,
      name: node?.name ?? record?.name ?? id,
      role,
      address: address === '' ? (node?.addresses.api ?? '') : address,
      up: isUp(state, id),
      sinceMs: record?.addedAtMs ?? node?.createdAtMs ?? 0,
      matchIndex,
      lagEntries,
      vote: record?.voter ?? 'auto',
    };
  });
  return members.sort((a, b) => (a.name < b.name ? -1 : 1));
}
