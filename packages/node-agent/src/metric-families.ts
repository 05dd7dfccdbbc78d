import type { MetricFamily } from '@stor/runtime';

/** Every metric of an agent. Names are an interface: dashboards and alerts depend on them. */
export const metricFamilies: readonly MetricFamily[] = [
  ...(['read', 'write', 'trim', 'flush'] as const).map((op) => ({
    name: `stor_volume_${op}_ops_total`,
    help: `Completed ${op} requests of this node's NBD clients`,
    type: 'counter' as const,
  })),
  ...(['read', 'write', 'trim', 'flush'] as const).map((op) => ({
    name: `stor_volume_${op}_bytes_total`,
    help: `Bytes of completed ${op} requests of this node's NBD clients`,
    type: 'counter' as const,
  })),
  {
    name: 'stor_volume_io_latency_seconds',
    help: 'Time from the arrival of a request to its answer, per operation',
    type: 'histogram',
  },
  {
    name: 'stor_volume_qos_throttled_seconds_total',
    help: "Time that requests waited for a limit of the volume, for its tenant's, or for other volumes",
    type: 'counter',
  },
  {
    name: 'stor_volume_qos_throttled_requests_total',
    help: 'Requests that waited so, by what they waited for first',
    type: 'counter',
  },
  {
    name: 'stor_volume_qos_queued_requests',
    help: 'Requests that wait so now',
    type: 'gauge',
  },
  {
    name: 'stor_volume_qos_limit_ops',
    help: 'Requests per second that the volume may make; absent: no limit',
    type: 'gauge',
  },
  {
    name: 'stor_volume_qos_limit_bytes',
    help: 'Bytes per second that the volume may read or write; absent: no limit',
    type: 'gauge',
  },
  {
    name: 'stor_volume_qos_guaranteed_ops',
    help: 'Requests per second that the volume gets before all others; absent: none',
    type: 'gauge',
  },
  {
    name: 'stor_volume_qos_guaranteed_bytes',
    help: 'Bytes per second that the volume gets before all others; absent: none',
    type: 'gauge',
  },
  {
    name: 'stor_volume_qos_burst_credits_ratio',
    help: 'Saved for bursts, as part of what may be saved; of the limit that has the least',
    type: 'gauge',
  },
  {
    name: 'stor_qos_class_bytes_total',
    help: 'Bytes that background work of the class has compared, copied or read; each piece once on each node',
    type: 'counter',
  },
  {
    name: 'stor_qos_class_operations_total',
    help: 'Pieces of background work of the class',
    type: 'counter',
  },
  {
    name: 'stor_qos_class_throttled_seconds_total',
    help: 'Time that pieces waited for a limit of the class, or for their turn beside clients',
    type: 'counter',
  },
  {
    name: 'stor_qos_class_throttled_operations_total',
    help: 'Pieces that waited so, by what they waited for first',
    type: 'counter',
  },
  {
    name: 'stor_qos_class_queued_operations',
    help: 'Pieces that wait so now',
    type: 'gauge',
  },
  {
    name: 'stor_qos_class_weight',
    help: 'Share of the class beside clients and other classes',
    type: 'gauge',
  },
  {
    name: 'stor_qos_class_limit_ops',
    help: 'Pieces per second that the node may begin; absent: no limit',
    type: 'gauge',
  },
  {
    name: 'stor_qos_class_limit_bytes',
    help: 'Bytes per second that the class may use on the node; absent: no limit',
    type: 'gauge',
  },
  {
    name: 'stor_volume_state',
    help: '1 for the state that the volume is in (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_volume_replicas',
    help: 'Replicas that are (insync="true") and are not (insync="false") in sync (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_volume_allocated_bytes',
    help: "Bytes that the primary's replica of the volume takes on its disk",
    type: 'gauge',
  },
  {
    name: 'stor_volume_snapshot_bytes',
    help: "Bytes that snapshots alone hold on the disk of the primary's replica",
    type: 'gauge',
  },
  {
    name: 'stor_volume_reclaimable_bytes',
    help: "Bytes that the primary's replica has freed and not yet given back to the file system",
    type: 'gauge',
  },
  {
    name: 'stor_volume_snapshots',
    help: 'Ready snapshots of the volume (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_trash_volumes',
    help: 'Deleted volumes that are kept for a while (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_placement_violations',
    help: 'Rules of placement that the replicas of volumes break at present, by kind (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_pool_spread_ratio',
    help: 'Between the fullest and the emptiest disk of one tag, as part of their capacity (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_rebalance_running',
    help: '1 while replicas are moved to make disks equally full, or wait for that (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_rebalance_moved_replicas',
    help: 'Replicas that the present or the last rebalance has moved (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_rebalance_moved_bytes',
    help: 'What those replicas took when they began to move (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_volume_capacity_bytes',
    help: 'Size of the volume as its clients see it (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_rebuild_bytes_remaining',
    help: 'Bytes still to be compared or copied to a replica that is coming back',
    type: 'gauge',
  },
  {
    name: 'stor_rebuild_bytes_per_second',
    help: 'Bytes per second that are compared or copied to it; 0 while it waits',
    type: 'gauge',
  },
  {
    name: 'stor_rebuild_eta_seconds',
    help: 'Time until it is in sync at that rate; absent when nobody can say',
    type: 'gauge',
  },
  {
    name: 'stor_primary_state',
    help: '1 for the state of a primary of this node (holding: I/O waits; failing: I/O gets errors)',
    type: 'gauge',
  },
  {
    name: 'stor_primary_settle_bytes_remaining',
    help: 'Bytes that may differ between replicas after an unclean stop and are not settled yet',
    type: 'gauge',
  },
  {
    name: 'stor_primary_bad_blocks_total',
    help: 'Blocks of a replica that did not match their checksum, seen by reads of this primary',
    type: 'counter',
  },
  {
    name: 'stor_primary_repaired_blocks_total',
    help: 'Those of them that were written again from another replica',
    type: 'counter',
  },
  {
    name: 'stor_primary_no_space_writes_total',
    help: 'Writes that got ENOSPC because a replica had no room for a new chunk',
    type: 'counter',
  },
  {
    name: 'stor_primary_full_replicas',
    help: 'Replicas whose disk has no room for a new chunk: writes that need one get ENOSPC',
    type: 'gauge',
  },
  {
    name: 'stor_scrub_errors_total',
    help: 'Blocks of a disk that did not match their checksum, found by scrubs and reads of this node',
    type: 'counter',
  },
  {
    name: 'stor_scrub_repaired_total',
    help: 'Blocks of a disk that scrubs and reads of this node had written again from another replica',
    type: 'counter',
  },
  {
    name: 'stor_scrub_bytes_total',
    help: 'Bytes of volumes that scrubs of this node have read and compared at all replicas',
    type: 'counter',
  },
  {
    name: 'stor_scrub_diverged_blocks_total',
    help: 'Blocks that match their checksums and differ between replicas, found by scrubs of this node',
    type: 'counter',
  },
  {
    name: 'stor_scrub_last_ok_timestamp',
    help: 'When the last complete scrub of the volume ended, in Unix seconds; absent: there was none (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_scrub_bytes_remaining',
    help: 'Bytes that the scrub under way has still to read; absent: there is none (from the leader)',
    type: 'gauge',
  },
  { name: 'stor_disk_capacity_bytes', help: 'Size of the disk', type: 'gauge' },
  { name: 'stor_disk_used_bytes', help: 'Bytes of the disk in use', type: 'gauge' },
  { name: 'stor_disk_free_bytes', help: 'Bytes of the disk that are free', type: 'gauge' },
  {
    name: 'stor_disk_reserved_bytes',
    help: 'Bytes of the disk that replicas may not use; the free bytes do not count them',
    type: 'gauge',
  },
  {
    name: 'stor_disk_state',
    help: '1 for the state of the disk (failing: it had errors and is being emptied)',
    type: 'gauge',
  },
  {
    name: 'stor_disk_space',
    help: '1 for how full the disk is: nearly-full from 80 %, full from 95 %, without its reserve',
    type: 'gauge',
  },
  {
    name: 'stor_pool_capacity_bytes',
    help: 'Size of the disks of one tag that take replicas (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_pool_provisioned_bytes',
    help: 'Bytes promised to volumes on them; volumes are thin (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_pool_provision_limit_bytes',
    help: 'Bytes that may be promised on them (from the leader)',
    type: 'gauge',
  },
  { name: 'stor_disk_errors_total', help: 'Reads, writes and syncs that failed', type: 'counter' },
  {
    name: 'stor_node_up',
    help: '1 when the node holds its lease (from the leader)',
    type: 'gauge',
  },
  { name: 'stor_raft_term', help: 'Current Raft term', type: 'gauge' },
  {
    name: 'stor_raft_leader_changes_total',
    help: 'Leader changes that this member has seen since it started',
    type: 'counter',
  },
  { name: 'stor_raft_applied_index', help: 'Index of the last applied entry', type: 'gauge' },
  {
    name: 'stor_raft_commit_latency_seconds',
    help: 'Time of a committed transaction of this member, from proposal to result',
    type: 'histogram',
  },
  { name: 'stor_nbd_connections', help: 'Open NBD connections', type: 'gauge' },
  {
    name: 'stor_relay_connections',
    help: "NBD connections of this node's clients that another node's primary serves",
    type: 'gauge',
  },
  {
    name: 'stor_relay_read_bytes_total',
    help: 'Bytes read through the primary of another node',
    type: 'counter',
  },
  {
    name: 'stor_relay_written_bytes_total',
    help: 'Bytes written through the primary of another node',
    type: 'counter',
  },
  {
    name: 'stor_lane_relay_connections',
    help: "NBD connections that came to another lane of this node than the volume's",
    type: 'gauge',
  },
  {
    name: 'stor_lane_relay_read_bytes_total',
    help: 'Bytes read through another lane of this node',
    type: 'counter',
  },
  {
    name: 'stor_lane_relay_written_bytes_total',
    help: 'Bytes written through another lane of this node',
    type: 'counter',
  },
  {
    name: 'stor_lane_busy_poll_seconds_total',
    help: 'Time in which lanes waited awake for clients that send one request after another',
    type: 'counter',
  },
  {
    name: 'stor_handovers_total',
    help: 'Volumes that this node gave over to another while they were in use',
    type: 'counter',
  },
  { name: 'stor_nbd_inflight', help: 'NBD requests received and not answered yet', type: 'gauge' },
  { name: 'stor_nbd_errors_total', help: 'NBD requests answered with an error', type: 'counter' },
  {
    name: 'stor_nbd_refused_connections_total',
    help: 'NBD connections turned away or cut off: too many, too slow a handshake, no TLS, replies not taken',
    type: 'counter',
  },
  {
    name: 'stor_host_devices',
    help: 'Volumes that are block devices of this host, by how they are made',
    type: 'gauge',
  },
  {
    name: 'stor_host_failed_devices',
    help: 'Of these, those whose requests fail: storctl volume devices says why',
    type: 'gauge',
  },
  { name: 'stor_host_mounts', help: 'File systems on them that are mounted', type: 'gauge' },
];
