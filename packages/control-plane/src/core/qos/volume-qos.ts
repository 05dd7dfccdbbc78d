import { effectiveQos, isQosField, knownQos, qosFieldNames, tenantLabel } from '@stor/protocol';
import type { EffectiveQos, VolumeQos, VolumeThrottle } from '@stor/protocol';
import type { LiveThrottle } from '../../agent-port.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { tenantOf } from './tenant-rules.ts';

/** What holds for the volume, and where each value comes from. A policy that is gone says nothing. */
export function qosOf({ spec }: Pick<StoredVolume, 'spec'>, state: ClusterState): EffectiveQos {
  const policy = state.policies.get(spec.policyName ?? '')?.value;
  return effectiveQos(knownQos(spec.qos), policy ? knownQos(policy.qos) : null);
}

/** What its primary says of requests that wait, and whose limit that is. */
export function throttleOf(
  { metadata, spec }: Pick<StoredVolume, 'metadata' | 'spec'>,
  { sources }: EffectiveQos,
  live: LiveThrottle,
): VolumeThrottle {
  const { waitsFor: reason, queued, limitMs, tenantMs, contentionMs } = live;
  const fields = live.limits.filter(isQosField);
  const isOwn = reason === 'limit' && fields.some((field) => sources[field] !== 'policy');
  let source = '';
  if (reason === 'tenant') source = `tenant ${metadata.labels[tenantLabel] ?? ''}`;
  else if (reason === 'limit') source = isOwn ? 'volume' : `policy ${spec.policyName ?? ''}`;
  const limits = fields.map((field) => qosFieldNames[field]);
  return { reason, source, limits, queued, limitMs, tenantMs, contentionMs };
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
