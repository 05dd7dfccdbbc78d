import type { AgentDisk, LiveVolume, ReplicaSpace } from '@stor/control-plane';
import type { HostDevice } from '@stor/host-attach';
import { spaceLevel } from '@stor/protocol';
import type { Node, Pool, Scrub, Volume } from '@stor/protocol';
import type { HistogramSample, MetricSample, MetricSnapshot } from '@stor/runtime';
import type { LaneCounters } from './lane/lane-protocol.ts';
import { addClasses, addQos } from './qos-metrics.ts';

/** Everything that one scrape shows, gathered beforehand. */
export interface MetricSources {
  node: string;
  lane: LaneCounters;
  live: LiveVolume[];
  /** of this node's replicas of those volumes */
  spaces: ReplicaSpace[];
  disks: AgentDisk[];
  /** volumes that are block devices of this host */
  devices: readonly HostDevice[];
  raft: {
    term: number;
    appliedIndex: number;
    leaderChanges: number;
    commitLatency: HistogramSample;
  };
  /** what only the leader shows, so that a sum over agents counts nothing twice; null elsewhere */
  cluster: ClusterView | null;
}

export interface ClusterView {
  nodes: Node[];
  volumes: Volume[];
  scrubs: Scrub[];
  trashedVolumes: number;
  pools: Pool[];
  violations: Readonly<Record<string, number>>;
  rebalance: {
    isRunning: boolean;
    moved: number;
    movedBytes: number;
    spreads: readonly { tag: string; spread: number }[];
  };
}

const volumeStates = [
  'creating',
  'healthy',
  'degraded',
  'suspended',
  'unavailable',
  'deleting',
] as const;
const diskStates = ['online', 'failing', 'failed'] as const;
const spaceLevels = ['ok', 'nearly-full', 'full'] as const;
const primaryStates = ['activating', 'serving', 'holding', 'failing', 'stopping'] as const;

/** Turns what was gathered into samples by family name (see metric-families.ts). */
export function metricSnapshot(sources: MetricSources): MetricSnapshot {
  const samples = new Map<string, MetricSample[]>();
  const histograms = new Map<string, HistogramSample[]>();
  const add = (name: string, labels: Record<string, string>, value: number): void => {
    const list = samples.get(name);
    if (list) list.push({ labels, value });
    else samples.set(name, [{ labels, value }]);
  };
  const { node } = sources;
  addLane(sources, add, histograms);
  addPrimaries(sources, add);
  addQos(sources.lane.qos, node, add);
  addClasses(sources.lane.classes, node, add);
  for (const disk of sources.disks) {
    const labels = { node, pool: disk.tag || 'any', disk: disk.diskId };
    add('stor_disk_capacity_bytes', labels, disk.capacityBytes);
    add('stor_disk_used_bytes', labels, disk.usedBytes);
    add('stor_disk_free_bytes', labels, disk.freeBytes);
    add('stor_disk_reserved_bytes', labels, disk.reservedBytes ?? 0);
    const { state, trouble } = disk;
    const shown = state === 'online' && trouble !== undefined ? 'failing' : state;
    for (const each of diskStates) {
      add('stor_disk_state', { ...labels, state: each }, each === shown ? 1 : 0);
    }
    const { capacityBytes, freeBytes, reservedBytes = 0 } = disk;
    const level = spaceLevel({ capacityBytes, freeBytes, reservedBytes });
    for (const each of spaceLevels) {
      add('stor_disk_space', { ...labels, level: each }, each === level ? 1 : 0);
    }
  }
  addDevices(sources, add);
  add('stor_raft_term', { node }, sources.raft.term);
  add('stor_raft_applied_index', { node }, sources.raft.appliedIndex);
  add('stor_raft_leader_changes_total', { node }, sources.raft.leaderChanges);
  histograms.set('stor_raft_commit_latency_seconds', [sources.raft.commitLatency]);
  if (sources.cluster) addCluster(sources.cluster, node, add);
  return { samples, histograms };
}

/** A host without devices has no such lines. */
function addDevices({ node, devices }: MetricSources, add: Add): void {
  for (const means of new Set(devices.map((device) => device.means))) {
    const made = devices.filter((device) => device.means === means);
    add('stor_host_devices', { node, means }, made.length);
  }
  if (devices.length === 0) return;
  const failed = devices.filter(({ failure }) => failure !== null);
  add('stor_host_failed_devices', { node }, failed.length);
  const mounts = devices.reduce((sum, device) => sum + device.mounts.length, 0);
  add('stor_host_mounts', { node }, mounts);
}

type Add = (name: string, labels: Record<string, string>, value: number) => void;

function addLane(
  sources: MetricSources,
  add: Add,
  histograms: Map<string, HistogramSample[]>,
): void {
  const { node, lane } = sources;
  const latencies: HistogramSample[] = [];
  let connections = 0;
  let inflight = 0;
  for (const counters of lane.exports) {
    const { volume } = counters;
    connections += counters.connections;
    inflight += counters.inflight;
    for (const { op, count, bytes, buckets, secondsSum } of counters.operations) {
      add(`stor_volume_${op}_ops_total`, { volume, node }, count);
      add(`stor_volume_${op}_bytes_total`, { volume, node }, bytes);
      // twenty lines each: a thousand volumes of which nobody trims a thing should not make 20,000
      if (count === 0) continue;
      latencies.push({
        labels: { volume, node, op },
        bounds: lane.latencyBucketsSeconds,
        counts: buckets,
        sum: secondsSum,
      });
    }
  }
  const spaces = new Map<string, ReplicaSpace[]>();
  for (const space of sources.spaces) {
    const known = spaces.get(space.volumeId);
    if (known) known.push(space);
    else spaces.set(space.volumeId, [space]);
  }
  const names = exportNames(lane);
  for (const volume of sources.live) {
    const name = names.get(volume.volumeId);
    if (name === undefined) continue;
    const labels = { volume: name, node };
    add('stor_volume_allocated_bytes', labels, volume.allocatedBytes);
    const mine = spaces.get(volume.volumeId) ?? [];
    const sum = (bytesOf: (space: ReplicaSpace) => number): number =>
      mine.reduce((bytes, space) => bytes + bytesOf(space), 0);
    add(
      'stor_volume_snapshot_bytes',
      labels,
      sum(({ snapshotBytes }) => snapshotBytes),
    );
    add(
      'stor_volume_reclaimable_bytes',
      labels,
      sum(({ reclaimableBytes }) => reclaimableBytes),
    );
  }
  histograms.set('stor_volume_io_latency_seconds', latencies);
  add('stor_nbd_connections', { node }, connections);
  add('stor_relay_connections', { node }, lane.relays.connections);
  add('stor_relay_read_bytes_total', { node }, lane.relays.readBytes);
  add('stor_relay_written_bytes_total', { node }, lane.relays.writtenBytes);
  add('stor_lane_relay_connections', { node }, lane.crossings.connections);
  add('stor_lane_relay_read_bytes_total', { node }, lane.crossings.readBytes);
  add('stor_lane_relay_written_bytes_total', { node }, lane.crossings.writtenBytes);
  add('stor_lane_busy_poll_seconds_total', { node }, lane.busyPollSeconds);
  add('stor_handovers_total', { node }, lane.handovers);
  const { disks, diverged, scrubbedBytes } = lane.integrity;
  for (const { diskId, found, repaired } of disks) {
    add('stor_scrub_errors_total', { node, disk: diskId }, found);
    add('stor_scrub_repaired_total', { node, disk: diskId }, repaired);
  }
  add('stor_scrub_bytes_total', { node }, scrubbedBytes);
  add('stor_scrub_diverged_blocks_total', { node }, diverged);
  add('stor_nbd_inflight', { node }, inflight);
  for (const { error, count } of lane.nbdErrors)
    add('stor_nbd_errors_total', { node, error }, count);
  for (const { reason, count } of lane.nbdRefused) {
    add('stor_nbd_refused_connections_total', { node, reason }, count);
  }
  for (const { diskId, errors } of lane.disks)
    add('stor_disk_errors_total', { node, disk: diskId }, errors);
}

/** By volume id; of those that a client has been at. */
function exportNames(lane: LaneCounters): Map<string, string> {
  return new Map(lane.exports.map(({ volumeId, volume }) => [volumeId, volume]));
}

/** What the primaries of this node say of themselves, and of the replicas that they fill. */
function addPrimaries({ node, lane, live: volumes }: MetricSources, add: Add): void {
  const names = exportNames(lane);
  for (const live of volumes) {
    const { volumeId, state, settleBytesRemaining, badBlocks, replicas } = live;
    // the name is known once a client has been there
    const labels = { volume: names.get(volumeId) ?? volumeId, node };
    for (const each of primaryStates) {
      add('stor_primary_state', { ...labels, state: each }, each === state ? 1 : 0);
    }
    add('stor_primary_settle_bytes_remaining', labels, settleBytesRemaining);
    add('stor_primary_bad_blocks_total', labels, badBlocks?.found ?? 0);
    add('stor_primary_repaired_blocks_total', labels, badBlocks?.repaired ?? 0);
    add('stor_primary_no_space_writes_total', labels, live.noSpaceWrites ?? 0);
    add('stor_primary_full_replicas', labels, replicas.filter(({ noSpace }) => noSpace).length);
    for (const { replicaId, bytesRemaining, resync } of replicas) {
      const ofReplica = { node, replica: replicaId };
      const rate = resync?.state === 'running' ? resync.bytesPerSecond : 0;
      add('stor_rebuild_bytes_remaining', ofReplica, bytesRemaining);
      add('stor_rebuild_bytes_per_second', ofReplica, rate);
      // without a rate nobody can say; a gauge that is absent then is no false promise
      const etaSeconds = bytesRemaining === 0 ? 0 : bytesRemaining / rate;
      if (Number.isFinite(etaSeconds)) add('stor_rebuild_eta_seconds', ofReplica, etaSeconds);
    }
  }
}

function addCluster(cluster: ClusterView, node: string, add: Add): void {
  add('stor_trash_volumes', { node }, cluster.trashedVolumes);
  for (const [kind, count] of Object.entries(cluster.violations)) {
    add('stor_placement_violations', { kind }, count);
  }
  const { isRunning, moved, movedBytes, spreads } = cluster.rebalance;
  add('stor_rebalance_running', { node }, isRunning ? 1 : 0);
  add('stor_rebalance_moved_replicas', { node }, moved);
  add('stor_rebalance_moved_bytes', { node }, movedBytes);
  for (const { tag, spread } of spreads) {
    add('stor_pool_spread_ratio', { pool: tag || 'any' }, spread);
  }
  for (const { tag: pool, capacityBytes, provisionedBytes, provisionLimitBytes } of cluster.pools) {
    add('stor_pool_capacity_bytes', { pool }, capacityBytes);
    add('stor_pool_provisioned_bytes', { pool }, provisionedBytes);
    add('stor_pool_provision_limit_bytes', { pool }, provisionLimitBytes);
  }
  for (const { volume, state, bytesRemaining, history } of cluster.scrubs) {
    const last = history.findLast(({ complete }) => complete);
    if (last) add('stor_scrub_last_ok_timestamp', { volume }, last.endedAtMs / 1_000);
    if (state !== 'idle') add('stor_scrub_bytes_remaining', { volume }, bytesRemaining);
  }
  for (const { metadata, status } of cluster.nodes) {
    add('stor_node_up', { node: metadata.name }, status.state === 'up' ? 1 : 0);
  }
  for (const volume of cluster.volumes) {
    const { name } = volume.metadata;
    for (const state of volumeStates) {
      add('stor_volume_state', { volume: name, state }, volume.status.health === state ? 1 : 0);
    }
    // a node that has two for a while, because one moves to another disk, counts once
    const inSync = new Set(
      volume.status.replicas.flatMap(({ state, nodeId, segment }) =>
        state === 'in-sync' ? [`${nodeId} ${segment}`] : [],
      ),
    ).size;
    add('stor_volume_replicas', { volume: name, insync: 'true' }, inSync);
    add(
      'stor_volume_replicas',
      { volume: name, insync: 'false' },
      volume.status.replicas.length - inSync,
    );
    add('stor_volume_capacity_bytes', { volume: name }, volume.spec.sizeBytes);
    add('stor_volume_snapshots', { volume: name }, volume.status.snapshots);
  }
}
