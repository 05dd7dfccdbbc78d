import t from 'tap';
import { MetricsPage } from '@stor/runtime';
import { metricFamilies } from '../src/metric-families.ts';
import { metricSnapshot, type MetricSources } from '../src/metrics-snapshot.ts';

/**
 * The names that dashboards and alerts of the field expect of us. What is not measured yet is named
 * here with the reason, so that nothing is left out by accident.
 */
const mustHave = [
  'stor_volume_read_ops_total',
  'stor_volume_write_ops_total',
  'stor_volume_trim_ops_total',
  'stor_volume_flush_ops_total',
  'stor_volume_read_bytes_total',
  'stor_volume_write_bytes_total',
  'stor_volume_trim_bytes_total',
  'stor_volume_flush_bytes_total',
  'stor_volume_io_latency_seconds',
  'stor_volume_qos_throttled_seconds_total',
  'stor_volume_state',
  'stor_volume_replicas',
  'stor_volume_allocated_bytes',
  'stor_volume_capacity_bytes',
  'stor_volume_reclaimable_bytes',
  'stor_volume_last_backup_timestamp_seconds',
  'stor_volume_rpo_seconds',
  'stor_rebuild_bytes_remaining',
  'stor_rebuild_bytes_per_second',
  'stor_rebuild_eta_seconds',
  'stor_scrub_last_ok_timestamp',
  'stor_scrub_errors_total',
  'stor_scrub_repaired_total',
  'stor_disk_capacity_bytes',
  'stor_disk_used_bytes',
  'stor_disk_free_bytes',
  'stor_disk_io_latency_seconds',
  'stor_disk_errors_total',
  'stor_disk_smart_health',
  'stor_node_up',
  'stor_raft_term',
  'stor_raft_leader_changes_total',
  'stor_raft_commit_latency_seconds',
  'stor_raft_applied_index',
  'stor_nbd_connections',
  'stor_nbd_inflight',
  'stor_nbd_errors_total',
  'stor_nbd_refused_connections_total',
  'stor_placement_violations',
  'stor_pool_spread_ratio',
  'stor_rebalance_running',
  'stor_rebalance_moved_replicas',
  'stor_rebalance_moved_bytes',
  'stor_pool_days_until_full',
  'stor_cert_expiry_seconds',
];

/** Names of our own beside them. */
const ours = [
  'stor_volume_snapshot_bytes',
  'stor_volume_snapshots',
  'stor_trash_volumes',
  'stor_placement_violations',
  'stor_primary_state',
  'stor_primary_settle_bytes_remaining',
  'stor_primary_no_space_writes_total',
  'stor_primary_full_replicas',
  'stor_primary_bad_blocks_total',
  'stor_primary_repaired_blocks_total',
  'stor_lane_relay_connections',
  'stor_lane_relay_read_bytes_total',
  'stor_lane_relay_written_bytes_total',
  'stor_relay_connections',
  'stor_relay_read_bytes_total',
  'stor_relay_written_bytes_total',
  'stor_lane_busy_poll_seconds_total',
  'stor_handovers_total',
  'stor_host_devices',
  'stor_host_failed_devices',
  'stor_host_mounts',
  'stor_scrub_bytes_total',
  'stor_scrub_diverged_blocks_total',
  'stor_scrub_bytes_remaining',
  'stor_disk_reserved_bytes',
  'stor_disk_state',
  'stor_disk_space',
  'stor_pool_capacity_bytes',
  'stor_pool_provisioned_bytes',
  'stor_pool_provision_limit_bytes',
  'stor_volume_qos_throttled_requests_total',
  'stor_volume_qos_queued_requests',
  'stor_volume_qos_limit_ops',
  'stor_volume_qos_limit_bytes',
  'stor_volume_qos_guaranteed_ops',
  'stor_volume_qos_guaranteed_bytes',
  'stor_volume_qos_burst_credits_ratio',
  'stor_qos_class_bytes_total',
  'stor_qos_class_operations_total',
  'stor_qos_class_throttled_seconds_total',
  'stor_qos_class_throttled_operations_total',
  'stor_qos_class_queued_operations',
  'stor_qos_class_weight',
  'stor_qos_class_limit_ops',
  'stor_qos_class_limit_bytes',
];

const notYet: Record<string, string> = {
  stor_volume_last_backup_timestamp_seconds: 'no backups yet',
  stor_volume_rpo_seconds: 'no backups yet',
  stor_disk_io_latency_seconds: 'disk I/O is not timed apart from requests yet',
  stor_disk_smart_health: 'a disk is a directory; its device is not known yet',
  stor_placement_violations: 'placement knows only distinct nodes, which always hold',
  stor_pool_days_until_full: 'no forecast yet',
  stor_cert_expiry_seconds: 'no TLS yet',
};

const sources: MetricSources = {
  node: 'n1',
  lane: {
    exports: [
      {
        volume: 'db',
        volumeId: 'v-1',
        operations: (['read', 'write', 'trim', 'flush'] as const).map((op) => ({
          op,
          count: 3,
          bytes: 4096,
          errors: 0,
          buckets: [1, 2],
          secondsSum: 0.5,
        })),
        connections: 2,
        inflight: 1,
      },
    ],
    latencyBucketsSeconds: [0.001],
    nbdRefused: [{ reason: 'tls', count: 3 }],
    busyPollSeconds: 1.5,
    nbdErrors: [{ error: 'EIO', count: 1 }],
    disks: [{ diskId: 'd-1', errors: 0 }],
    relays: { connections: 3, readBytes: 100, writtenBytes: 200 },
    crossings: { connections: 2, readBytes: 30, writtenBytes: 40 },
    handovers: 4,
    qos: [
      {
        volumeId: 'v-1',
        name: 'db',
        qos: { writeIops: 500, bps: 1_000_000, minIops: 100, minBps: 4_096 },
        queued: 6,
        throttledRequests: { limit: 7, tenant: 0, contention: 1 },
        throttledMs: { limit: 2_500, tenant: 0, contention: 1 },
        burstCredits: 0.75,
      },
    ],
    classes: [
      {
        class: 'rebuild',
        weight: 50,
        iops: 40,
        bps: 1_000_000,
        operations: 12,
        bytes: 3_000,
        queued: 2,
        throttledRequests: { limit: 5, tenant: 0, contention: 1 },
        throttledMs: { limit: 1_500, tenant: 0, contention: 1 },
      },
    ],
    integrity: {
      disks: [{ diskId: 'd-1', found: 9, repaired: 8 }],
      diverged: 2,
      scrubbedBytes: 7_000,
    },
  },
  spaces: [1, 2].map((n) => ({
    replicaId: `r-${n}`,
    volumeId: `v-${n}`,
    allocatedBytes: 262_144,
    snapshotBytes: 300 * n,
    reclaimableBytes: 40 * n,
    snapshots: [],
  })),
  live: [
    {
      volumeId: 'v-1',
      epoch: 1,
      state: 'serving',
      reason: '',
      stateAgeMs: 10,
      connections: 2,
      allocatedBytes: 262144,
      settleBytesRemaining: 11,
      badBlocks: { found: 5, repaired: 4 },
      replicas: [
        {
          replicaId: 'r-1',
          state: 'syncing',
          bytesRemaining: 42,
          resync: {
            state: 'running',
            message: '',
            sourceReplicaId: 'r-2',
            bytesTotal: 100,
            bytesRemaining: 42,
            bytesCopied: 8,
            bytesPerSecond: 21,
            elapsedMs: 3_000,
          },
        },
        { replicaId: 'r-3', state: 'absent', bytesRemaining: 7 },
      ],
    },
  ],
  disks: [
    {
      diskId: 'd-1',
      path: '/d',
      tag: '',
      state: 'online',
      message: '',
      capacityBytes: 9,
      usedBytes: 4,
      freeBytes: 5,
      reservedBytes: 1,
      trouble: 'it had errors',
    },
  ],
  devices: [
    { means: 'fuse-loop', failure: null, mounts: [{}, {}] },
    { means: 'fuse-loop', failure: 'its process is gone', mounts: [] },
  ] as unknown as MetricSources['devices'],
  raft: {
    term: 3,
    appliedIndex: 7,
    leaderChanges: 1,
    commitLatency: { labels: { node: 'n1' }, bounds: [0.001], counts: [1, 0], sum: 0.1 },
  },
  cluster: {
    trashedVolumes: 2,
    violations: { domain: 3, spread: 0 },
    rebalance: {
      ...{ isRunning: true, moved: 3, movedBytes: 900 },
      spreads: [{ tag: '', spread: 0.25 }],
    },
    scrubs: [
      {
        volume: 'db',
        state: 'running',
        bytesRemaining: 4_096,
        history: [
          { complete: true, endedAtMs: 5_000 },
          { complete: false, endedAtMs: 9_000 },
        ],
      },
      { volume: 'wal', state: 'idle', bytesRemaining: 0, history: [] },
    ],
    pools: [{ tag: 'ssd', capacityBytes: 10, provisionedBytes: 30, provisionLimitBytes: 100 }],
    nodes: [{ metadata: { name: 'n1' }, status: { state: 'up' } }],
    volumes: [
      {
        metadata: { name: 'db' },
        spec: { sizeBytes: 1 << 20 },
        status: {
          snapshots: 7,
          health: 'degraded',
          replicas: [{ state: 'in-sync' }, { state: 'node-down' }],
        },
      },
    ],
  } as unknown as MetricSources['cluster'],
};

t.test(
  'every must-have name is there, or has a reason why not; and no other stor_ name',
  async (t) => {
    const names = metricFamilies.map((family) => family.name);
    t.same([...names, ...Object.keys(notYet)].sort(), [...mustHave, ...ours].sort());
  },
);

t.test('every family has a sample on the page, labelled by volume and node', async (t) => {
  const text = await new MetricsPage(metricFamilies, async () => metricSnapshot(sources)).text();
  for (const { name, type } of metricFamilies) {
    t.match(text, new RegExp(`^${name}${type === 'histogram' ? '_count' : ''}\\{`, 'm'), name);
  }
  t.match(text, 'stor_disk_state{node="n1",pool="any",disk="d-1",state="failing"} 1');
  t.match(text, 'stor_disk_state{node="n1",pool="any",disk="d-1",state="online"} 0');
  t.match(text, 'stor_disk_space{node="n1",pool="any",disk="d-1",level="ok"} 1');
  t.match(text, 'stor_pool_provisioned_bytes{pool="ssd"} 30');
  t.match(text, 'stor_volume_write_ops_total{volume="db",node="n1"} 3');
  t.match(text, 'stor_volume_snapshot_bytes{volume="db",node="n1"} 300');
  t.match(text, 'stor_volume_reclaimable_bytes{volume="db",node="n1"} 40');
  t.match(text, 'stor_volume_snapshots{volume="db"} 7');
  t.match(text, 'stor_trash_volumes{node="n1"} 2');
  t.match(text, 'stor_pool_spread_ratio{pool="any"} 0.25');
  t.match(text, 'stor_rebalance_running{node="n1"} 1');
  t.match(text, 'stor_rebalance_moved_bytes{node="n1"} 900');
  t.match(text, 'stor_placement_violations{kind="domain"} 3');
  t.match(text, 'stor_placement_violations{kind="spread"} 0');
  t.match(text, 'stor_volume_state{volume="db",state="degraded"} 1');
  t.match(text, 'stor_volume_state{volume="db",state="healthy"} 0');
  t.match(text, 'stor_volume_replicas{volume="db",insync="true"} 1');
  t.match(text, 'stor_rebuild_bytes_remaining{node="n1",replica="r-1"} 42');
  t.match(text, 'stor_rebuild_bytes_per_second{node="n1",replica="r-1"} 21');
  t.match(text, 'stor_rebuild_eta_seconds{node="n1",replica="r-1"} 2');
  t.match(text, 'stor_rebuild_bytes_per_second{node="n1",replica="r-3"} 0');
  t.notMatch(text, 'stor_rebuild_eta_seconds{node="n1",replica="r-3"}', 'nobody can say');
  t.match(text, 'stor_primary_state{volume="db",node="n1",state="serving"} 1');
  t.match(text, 'stor_primary_state{volume="db",node="n1",state="holding"} 0');
  t.match(text, 'stor_primary_settle_bytes_remaining{volume="db",node="n1"} 11');
  t.match(text, 'stor_primary_bad_blocks_total{volume="db",node="n1"} 5');
  t.match(text, 'stor_primary_repaired_blocks_total{volume="db",node="n1"} 4');
  t.match(text, 'stor_volume_state{volume="db",state="suspended"} 0');
  t.match(text, 'stor_relay_written_bytes_total{node="n1"} 200');
  t.match(text, 'stor_handovers_total{node="n1"} 4');
  t.match(text, 'stor_host_devices{node="n1",means="fuse-loop"} 2');
  t.match(text, 'stor_host_failed_devices{node="n1"} 1');
  t.match(text, 'stor_host_mounts{node="n1"} 2');
  t.match(text, 'stor_scrub_errors_total{node="n1",disk="d-1"} 9');
  t.match(text, 'stor_scrub_repaired_total{node="n1",disk="d-1"} 8');
  t.match(text, 'stor_scrub_bytes_total{node="n1"} 7000');
  t.match(text, 'stor_scrub_diverged_blocks_total{node="n1"} 2');
  t.match(text, 'stor_scrub_last_ok_timestamp{volume="db"} 5');
  t.match(text, 'stor_scrub_bytes_remaining{volume="db"} 4096');
  t.notMatch(text, 'volume="wal"');
});
