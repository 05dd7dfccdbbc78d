import type { ThrottleReason } from '../qos/flow.ts';
import type { ExportCounters, LaneCounters } from '../../lane/lane-protocol.ts';

/** What the lanes of a node have counted, as one lane would. */
export function mergedCounters(lanes: readonly LaneCounters[]): LaneCounters {
  const sum = (countOf: (lane: LaneCounters) => number): number =>
    lanes.reduce((total, lane) => total + countOf(lane), 0);
  const traffic = (of: (lane: LaneCounters) => LaneCounters['relays']): LaneCounters['relays'] => ({
    connections: sum((lane) => of(lane).connections),
    readBytes: sum((lane) => of(lane).readBytes),
    writtenBytes: sum((lane) => of(lane).writtenBytes),
  });
  return {
    exports: mergedBy(
      lanes.flatMap((lane) => lane.exports),
      ({ volumeId }) => volumeId,
      mergedExport,
    ),
    latencyBucketsSeconds: lanes[0]?.latencyBucketsSeconds ?? [],
    nbdErrors: mergedBy(
      lanes.flatMap((lane) => lane.nbdErrors),
      ({ error }) => error,
      (a, b) => ({ ...a, count: a.count + b.count }),
    ),
    nbdRefused: mergedBy(
      lanes.flatMap((lane) => lane.nbdRefused),
      ({ reason }) => reason,
      (a, b) => ({ ...a, count: a.count + b.count }),
    ),
    busyPollSeconds: sum((lane) => lane.busyPollSeconds),
    disks: lanes.flatMap((lane) => lane.disks),
    relays: traffic((lane) => lane.relays),
    crossings: traffic((lane) => lane.crossings),
    integrity: {
      // primaries of several lanes may have found bad blocks on the same disk
      disks: mergedBy(
        lanes.flatMap((lane) => lane.integrity.disks),
        ({ diskId }) => diskId,
        (a, b) => ({ ...a, found: a.found + b.found, repaired: a.repaired + b.repaired }),
      ),
      diverged: sum((lane) => lane.integrity.diverged),
      scrubbedBytes: sum((lane) => lane.integrity.scrubbedBytes),
    },
    handovers: sum((lane) => lane.handovers),
    // one that moves between lanes may be on both for a moment
    qos: mergedBy(
      lanes.flatMap((lane) => lane.qos),
      ({ volumeId }) => volumeId,
      (a, b) => ({
        ...b,
        queued: a.queued + b.queued,
        throttledRequests: summed(a.throttledRequests, b.throttledRequests),
        throttledMs: summed(a.throttledMs, b.throttledMs),
      }),
    ),
    classes: mergedBy(
      lanes.flatMap((lane) => lane.classes),
      (each) => each.class,
      (a, b) => ({
        ...b,
        iops: a.iops + b.iops,
        bps: a.bps + b.bps,
        operations: a.operations + b.operations,
        bytes: a.bytes + b.bytes,
        queued: a.queued + b.queued,
        throttledRequests: summed(a.throttledRequests, b.throttledRequests),
        throttledMs: summed(a.throttledMs, b.throttledMs),
      }),
    ),
  };
}

/** A volume that was on one lane and then on another was counted by both. */
function mergedExport(a: ExportCounters, b: ExportCounters): ExportCounters {
  return {
    ...b,
    operations: a.operations.map((one, index) => {
      const other = b.operations[index] ?? one;
      return {
        op: one.op,
        count: one.count + other.count,
        bytes: one.bytes + other.bytes,
        errors: one.errors + other.errors,
        buckets: one.buckets.map((count, at) => count + (other.buckets[at] ?? 0)),
        secondsSum: one.secondsSum + other.secondsSum,
      };
    }),
    connections: a.connections + b.connections,
    inflight: a.inflight + b.inflight,
  };
}

function summed(
  a: Record<ThrottleReason, number>,
  b: Record<ThrottleReason, number>,
): Record<ThrottleReason, number> {
  return {
    limit: a.limit + b.limit,
    tenant: a.tenant + b.tenant,
    contention: a.contention + b.contention,
  };
}

function mergedBy<T>(all: readonly T[], keyOf: (one: T) => string, merge: (a: T, b: T) => T): T[] {
  const merged = new Map<string, T>();
  for (const one of all) {
    const known = merged.get(keyOf(one));
    merged.set(keyOf(one), known === undefined ? one : merge(known, one));
  }
  return [...merged.values()];
}
