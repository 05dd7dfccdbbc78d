import type { QosSpec } from '@stor/protocol';
import { throttleReasons } from './core/qos/flow.ts';
import type { ClassQosReport } from './qos/lane-turns.ts';
import type { VolumeQosReport } from './qos/lane-volume.ts';

type Add = (name: string, labels: Record<string, string>, value: number) => void;

const ops: readonly [keyof QosSpec, string][] = [
  ['readIops', 'read'],
  ['writeIops', 'write'],
  ['iops', 'all'],
];
const bytes: readonly [keyof QosSpec, string][] = [
  ['readBps', 'read'],
  ['writeBps', 'write'],
  ['bps', 'all'],
];

/** What each class of background work has done, and waited for. */
export function addClasses(classes: readonly ClassQosReport[], node: string, add: Add): void {
  for (const report of classes) {
    const labels = { class: report.class, node };
    add('stor_qos_class_bytes_total', labels, report.bytes);
    add('stor_qos_class_operations_total', labels, report.operations);
    for (const reason of ['limit', 'contention'] as const) {
      const seconds = report.throttledMs[reason] / 1_000;
      add('stor_qos_class_throttled_seconds_total', { ...labels, reason }, seconds);
      const operations = report.throttledRequests[reason];
      add('stor_qos_class_throttled_operations_total', { ...labels, reason }, operations);
    }
    add('stor_qos_class_queued_operations', labels, report.queued);
    add('stor_qos_class_weight', labels, report.weight);
    if (report.iops > 0) add('stor_qos_class_limit_ops', labels, report.iops);
    if (report.bps > 0) add('stor_qos_class_limit_bytes', labels, report.bps);
  }
}

/** What the volumes that are served here may use, and what that has cost their clients. */
export function addQos(volumes: readonly VolumeQosReport[], node: string, add: Add): void {
  for (const { name, qos, queued, throttledRequests, throttledMs, burstCredits } of volumes) {
    const labels = { volume: name, node };
    for (const reason of throttleReasons) {
      const seconds = throttledMs[reason] / 1_000;
      add('stor_volume_qos_throttled_seconds_total', { ...labels, reason }, seconds);
      const requests = throttledRequests[reason];
      add('stor_volume_qos_throttled_requests_total', { ...labels, reason }, requests);
    }
    add('stor_volume_qos_queued_requests', labels, queued);
    for (const [limit, op] of ops) {
      const value = qos[limit];
      if (typeof value === 'number') add('stor_volume_qos_limit_ops', { ...labels, op }, value);
    }
    for (const [limit, op] of bytes) {
      const value = qos[limit];
      if (typeof value === 'number') add('stor_volume_qos_limit_bytes', { ...labels, op }, value);
    }
    if (qos.minIops !== undefined) add('stor_volume_qos_guaranteed_ops', labels, qos.minIops);
    if (qos.minBps !== undefined) add('stor_volume_qos_guaranteed_bytes', labels, qos.minBps);
    if (burstCredits !== null) add('stor_volume_qos_burst_credits_ratio', labels, burstCredits);
  }
}
