import type { DiskStore, IntegrityCounters } from '@stor/replicator';
import { latencyBucketsSeconds, nbdOperations, type NbdStats } from '../nbd/nbd-stats.ts';
import type { VolumeExports } from '../exports/volume-exports.ts';
import type { ClassQosReport } from '../qos/lane-turns.ts';
import type { LaneCounters } from './lane-protocol.ts';

/** The lane's plain counters in the form that crosses to the main thread. */
export function laneCounters(
  stats: NbdStats | null,
  disks: DiskStore[],
  exports: VolumeExports,
  integrity: IntegrityCounters,
  classes: ClassQosReport[],
): LaneCounters {
  return {
    exports: [...(stats?.exports.values() ?? [])].map((counters) => ({
      volume: counters.name,
      volumeId: counters.volumeId,
      operations: nbdOperations.map((op) => {
        const { ops, bytes, errors, latencyCounts, latencySumMs } = counters[op];
        return {
          op,
          count: ops,
          bytes,
          errors,
          buckets: [...latencyCounts],
          secondsSum: latencySumMs / 1000,
        };
      }),
      connections: counters.connections,
      inflight: counters.inFlight,
    })),
    latencyBucketsSeconds: [...latencyBucketsSeconds],
    nbdErrors: [...(stats?.errors ?? [])].map(([error, count]) => ({ error, count })),
    nbdRefused: [...(stats?.refused ?? [])].map(([reason, count]) => ({ reason, count })),
    busyPollSeconds: (stats?.busyPollMs ?? 0) / 1000,
    disks: disks.map((disk) => ({
      diskId: disk.diskId,
      errors: (disk.failure ? 1 : 0) + disk.replicas().filter(({ failure }) => failure).length,
    })),
    relays: { ...exports.relayStats },
    crossings: { ...exports.crossingStats },
    integrity,
    handovers: exports.handovers,
    qos: exports.qosReports(),
    classes,
  };
}
