import type { MetricFamily } from '@stor/runtime';

/** Every metric of an agent. Names are an interface: dashboards and alerts depend on them. */
export const metricFamilies: readonly MetricFamily[] = [
  ...(['read', 'write', 'trim', 'flush'] as const).map((op) => ({
    name: `stor_volume_${op}_ops_total`,
    help: `Completed ${op} requests of NBD clients at the primary`,
    type: 'counter' as const,
  })),
  ...(['read', 'write', 'trim', 'flush'] as const).map((op) => ({
    name: `stor_volume_${op}_bytes_total`,
    help: `Bytes of completed ${op} requests of NBD clients at the primary`,
    type: 'counter' as const,
  })),
  {
    name: 'stor_volume_io_latency_seconds',
    help: 'Time from the arrival of a request to its answer, per operation',
    type: 'histogram',
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
    name: 'stor_volume_capacity_bytes',
    help: 'Size of the volume as its clients see it (from the leader)',
    type: 'gauge',
  },
  {
    name: 'stor_rebuild_bytes_remaining',
    help: 'Bytes still to be compared or copied to a replica that is coming back',
    type: 'gauge',
  },
  { name: 'stor_disk_capacity_bytes', help: 'Size of the disk', type: 'gauge' },
  { name: 'stor_disk_used_bytes', help: 'Bytes of the disk in use', type: 'gauge' },
  { name: 'stor_disk_free_bytes', help: 'Bytes of the disk that are free', type: 'gauge' },
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
  { name: 'stor_nbd_inflight', help: 'NBD requests received and not answered yet', type: 'gauge' },
  { name: 'stor_nbd_errors_total', help: 'NBD requests answered with an error', type: 'counter' },
];
