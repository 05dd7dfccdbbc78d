import { homeLane, laneAddress } from '@stor/protocol';
import type { DiskId, NodeId, PeerLanes } from '@stor/protocol';
import type { VolumePlaces } from '../../agent-port.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { disksPrefix, nodesPrefix } from '../../resources/keys.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** Splits `host:port` and `[v6]:port`; port 0 when there is none. */
export function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  if (at < 0) return { host: address, port: 0 };
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  return { host, port: Number(address.slice(at + 1)) || 0 };
}

/** Where the lane listens that has this disk of the node; port 0 when that is not known. */
export function peerAddress(
  state: ClusterState,
  nodeId: NodeId,
  diskId: DiskId,
): { host: string; port: number } {
  const addresses = state.nodes.get(nodeId)?.value.addresses.peers ?? [];
  return splitAddress(laneAddress(addresses, laneOf(state, diskId)) ?? '');
}

/** `host:port` for NBD of the lane that is, or would be, primary of the volume on this node. */
export function nbdAddress(
  state: ClusterState,
  nodeId: NodeId,
  { status }: Pick<StoredVolume, 'status'>,
  known?: number,
): string | undefined {
  const addresses = state.nodes.get(nodeId)?.value.addresses.nbd ?? [];
  const home = known ?? homeLane(status.segments, nodeId, (diskId) => laneOf(state, diskId));
  return laneAddress(addresses, home ?? 0);
}

/** Where the replicas of a volume are. */
export function placesOf({ metadata, status }: StoredVolume): VolumePlaces {
  return {
    volumeId: metadata.id,
    name: metadata.name,
    segments: status.segments.map(({ inSync, replicas }) => ({
      inSync: [...inSync],
      replicas: replicas.map(({ id, nodeId, diskId, leaving = false }) => {
        return { id, nodeId, diskId, leaving };
      }),
    })),
  };
}

/** Could a change of these keys have made `peerLanes` another? null: it is not known what changed. */
export function mayMoveLanes(keys: readonly string[] | null): boolean {
  if (keys === null) return true;
  return keys.some((key) => key.startsWith(nodesPrefix) || key.startsWith(disksPrefix));
}

/** Where the lanes of every node listen, and which disks are whose. */
export function peerLanes(state: ClusterState): PeerLanes[] {
  const lanes = new Map<NodeId, Record<DiskId, number>>();
  for (const { value } of state.disks.values()) {
    const { id, nodeId, lane = 0 } = value;
    if (lane > 0) lanes.set(nodeId, { ...lanes.get(nodeId), [id]: lane });
  }
  return [...state.nodes.values()].map(({ value }) => ({
    nodeId: value.id,
    addresses: value.addresses.peers.map(splitAddress),
    lanes: lanes.get(value.id) ?? {},
  }));
}

function laneOf(state: ClusterState, diskId: DiskId): number {
  return state.disks.get(diskId)?.value.lane ?? 0;
}
