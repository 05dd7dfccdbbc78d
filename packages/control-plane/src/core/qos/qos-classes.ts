import { defaultQosClasses } from '@stor/protocol';
import type { QosClass } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { QosClassesRecord } from '../../resources/qos-classes-record.ts';

/** How clients and background work share lanes, as it is now. */
export function qosClassesOf(state: Pick<ClusterState, 'qosClasses'>): QosClass[] {
  const known = state.qosClasses?.value.classes;
  return defaultQosClasses.map((each) => {
    const { weight, iops, bps } = known?.[each.name] ?? each;
    return { name: each.name, weight, iops, bps };
  });
}

/** The record with these values; what it says of others is kept. */
export function withClasses(
  record: QosClassesRecord | null,
  classes: readonly QosClass[],
): QosClassesRecord {
  const changed = { ...record?.classes };
  for (const { name, weight, iops, bps } of classes) {
    changed[name] = { ...changed[name], weight, iops, bps };
  }
  return { ...record, classes: changed };
}
