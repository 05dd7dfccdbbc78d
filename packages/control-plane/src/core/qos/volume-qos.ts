import { effectiveQos, knownQos } from '@stor/protocol';
import type { EffectiveQos, VolumeQos } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { tenantOf } from './tenant-rules.ts';

/** What holds for the volume, and where each value comes from. A policy that is gone says nothing. */
export function qosOf({ spec }: Pick<StoredVolume, 'spec'>, state: ClusterState): EffectiveQos {
  const policy = state.policies.get(spec.policyName ?? '')?.value;
  return effectiveQos(knownQos(spec.qos), policy ? knownQos(policy.qos) : null);
}

/** What its primary enforces; null: nothing, and it has the default weight. */
export function enforcedQos(
  volume: StoredVolume,
  state: ClusterState,
  isLeased: boolean,
): VolumeQos | null {
  const { qos } = qosOf(volume, state);
  const tenant = tenantOf(volume, state, isLeased);
  if (tenant) return { ...qos, tenant };
  return Object.keys(qos).length === 0 ? null : qos;
}
