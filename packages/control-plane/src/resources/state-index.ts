import type { DiskId, NodeId, ReplicaId, VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from './cluster-state.ts';
import { DiskTable } from './disk-table.ts';
import type { DiskRecord, ReplicaReport, StoredVolume } from './records.ts';
import { ReportTable } from './report-table.ts';
import { addShares, isRuled, isUnsettled, nodesOf, VolumeTable } from './volume-table.ts';
import type { DiskShare } from './volume-table.ts';

/**
 * Questions about one node or disk, answered without a look at every volume. Tables that are plain maps
 * (a copy that somebody changed) have no index: there everything is looked at.
 */
type Volumes = Map<VolumeId, Versioned<StoredVolume>>;

/** A node's disks, by their ids. */
export function disksOn(
  state: Pick<ClusterState, 'disks'>,
  nodeId: NodeId,
): Versioned<DiskRecord>[] {
  const { disks } = state;
  const isHere = (id: DiskId): boolean => disks.get(id)?.value.nodeId === nodeId;
  const ids = disks instanceof DiskTable ? disks.idsOn(nodeId) : [...disks.keys()].filter(isHere);
  return [...ids].sort().map((id) => disks.get(id) as Versioned<DiskRecord>);
}

/**
 * Volumes of a table that have or had replicas on the node, are attached there or should be; in no
 * particular order.
 */
export function volumesOn(volumes: Volumes, nodeId: NodeId): Versioned<StoredVolume>[] {
  if (!(volumes instanceof VolumeTable)) {
    return [...volumes.values()].filter(({ value }) => nodesOf(value).has(nodeId));
  }
  return Array.from(volumes.idsOn(nodeId), (id) => volumes.get(id) as Versioned<StoredVolume>);
}

/** Volumes of a table whose record alone says that something is to be done or under way. */
export function unsettledVolumes(volumes: Volumes): Versioned<StoredVolume>[] {
  if (!(volumes instanceof VolumeTable)) {
    return [...volumes.values()].filter(({ value }) => isUnsettled(value));
  }
  return Array.from(volumes.unsettled, (id) => volumes.get(id) as Versioned<StoredVolume>);
}

/** Volumes of a table that have all these labels; with none of them all volumes. */
export function volumesLabelled(
  volumes: Volumes,
  labels: Readonly<Record<string, string>>,
): Versioned<StoredVolume>[] {
  const pairs = Object.entries(labels);
  const hasAll = ({ value }: Versioned<StoredVolume>): boolean =>
    pairs.every(([key, wanted]) => value.metadata.labels[key] === wanted);
  if (!(volumes instanceof VolumeTable) || pairs.length === 0) {
    return [...volumes.values()].filter(hasAll);
  }
  const fewest = pairs
    .map((pair) => volumes.idsLabelled(pair))
    .reduce((a, b) => (b.size < a.size ? b : a));
  return Array.from(fewest, (id) => volumes.get(id) as Versioned<StoredVolume>).filter(hasAll);
}

/** Volumes of a table with rules of affinity or anti-affinity; usually few. */
export function ruledVolumes(volumes: Volumes): Versioned<StoredVolume>[] {
  if (!(volumes instanceof VolumeTable)) {
    return [...volumes.values()].filter(({ value }) => isRuled(value));
  }
  return Array.from(volumes.ruled, (id) => volumes.get(id) as Versioned<StoredVolume>);
}

/** Replicas and promises of each disk that has any, of the volumes of a table. */
export function diskShares(volumes: Volumes): ReadonlyMap<DiskId, Readonly<DiskShare>> {
  if (volumes instanceof VolumeTable) return volumes.shares;
  const shares = new Map<DiskId, DiskShare>();
  for (const { value } of volumes.values()) addShares(shares, value, 1);
  return shares;
}

/** Reports of replicas that failed for good or could not be made. */
export function failedReports(
  reports: Map<ReplicaId, Versioned<ReplicaReport>>,
): Versioned<ReplicaReport>[] {
  if (!(reports instanceof ReportTable)) {
    return [...reports.values()].filter(({ value }) => value.state === 'failed');
  }
  return Array.from(reports.failed, (id) => reports.get(id) as Versioned<ReplicaReport>);
}
