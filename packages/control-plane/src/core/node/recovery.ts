import type { DiskId, NodeId } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { disksOn } from '../../resources/state-index.ts';
import { replicasOn } from '../disk/disk-replicas.ts';
import { planMoves } from '../disk/plan-evacuation.ts';

/** What is taken as lost. */
export interface Losses {
  nodes: Set<NodeId>;
  disks: Set<DiskId>;
}

/** Where what is lost would be made anew. */
export function recoveryOf(state: ClusterState, losses: Losses): ReturnType<typeof planMoves> {
  const nodes = new Map(state.nodes);
  const leases = new Map(state.leases);
  const disks = new Map(state.disks);
  const gone = new Set(losses.disks);
  for (const nodeId of losses.nodes) {
    leases.delete(nodeId);
    const node = nodes.get(nodeId);
    const spec = { ...node?.value.spec, evacuate: { sinceMs: 0 } };
    if (node) nodes.set(nodeId, { ...node, value: { ...node.value, spec } });
    for (const { value } of disksOn(state, nodeId)) gone.add(value.id);
  }
  for (const id of gone) {
    const disk = disks.get(id);
    if (disk) disks.set(id, { ...disk, value: { ...disk.value, state: 'failed', evacuate: true } });
  }
  const world = { ...state, nodes, leases, disks, volumes: new Map(state.volumes) };
  const placed = [...gone]
    .flatMap((diskId) => replicasOn(state, diskId))
    .filter(({ volume }) => !state.trash.has(volume.metadata.id));
  return planMoves(world, placed, { areLost: true });
}
