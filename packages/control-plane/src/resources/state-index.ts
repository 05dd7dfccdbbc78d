import type { DiskId, NodeId, ReplicaId, VolumeId } from '@stor/protocol';
import type { ClusterState, Versioned } from './cluster-state.ts';
import { DiskTable } from './disk-table.ts';
import type { DiskRecord, ReplicaReport, StoredVolume } from './records.ts';
import { ReportTable } from './report-table.ts';
import { VolumeTable } from './volume-table.ts';
import type { DiskShare } from './volume-table.ts';

/**
 * Questions about one node or disk, answered without a look at every volume. Tables that are plain maps
 * (a copy that somebody changed) are indexed for the one question.
 */
type Volumes = Map<VolumeId, Versioned<StoredVolume>>;

function indexed(volumes: Volumes): VolumeTable {
  return volumes instanceof VolumeTable ? volumes : new VolumeTable(volumes);
}

/** A node's disks, by their ids. */
export function disksOn(
  state: Pick<ClusterState, 'disks'>,
  nodeId: NodeId,
): Versioned<DiskRecord>[] {
  const disks = state.disks instanceof DiskTable ? state.disks : new DiskTable(state.disks);
  const ids = [...disks.idsOn(nodeId)].sort();
  return ids.map((id) => disks.get(id) as Versioned<DiskRecord>);
}

/**
 * Volumes of a table that have or had replicas on the node, are attached there or should be; in no
 * particular order.
 */
export function volumesOn(volumes: Volumes, nodeId: NodeId): Versioned<StoredVolume>[] {
  const ids = [...indexed(volumes).idsOn(nodeId)];
  return ids.map((id) => volumes.get(id) as Versioned<StoredVolume>);
}

/** Volumes of a table whose record alone says that something is to be done or under way. */
export function unsettledVolumes(volumes: Volumes): Versioned<StoredVolume>[] {
  const ids = [...indexed(volumes).unsettled];
  return ids.map((id) => volumes.get(id) as Versioned<StoredVolume>);
}

/** Replicas and promises of each disk that has any, of the volumes of a table. */
export function diskShares(volumes: Volumes): ReadonlyMap<DiskId, Readonly<DiskShare>> {
  return indexed(volumes).shares;
}

/** Reports of replicas that failed for good or could not be made. */
export function failedReports(
  reports: Map<ReplicaId, Versioned<ReplicaReport>>,
): Versioned<ReplicaReport>[] {
  const table = reports instanceof ReportTable ? reports : new ReportTable(reports);
  return [...table.failed].map((id) => reports.get(id) as Versioned<ReplicaReport>);
}
