import type { VolumeInfo } from '../../agent-port.ts';
import type { Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { publishedTo } from './publication-rules.ts';

/** What is told about a volume without attaching it. */
export function volumeInfoOf({ value, modRevision }: Versioned<StoredVolume>): VolumeInfo {
  const { name, id: volumeId, labels } = value.metadata;
  const { sizeBytes, policy, replicas } = value.spec;
  return {
    ...{ name, volumeId, sizeBytes, shared: policy.shared, replicas, labels },
    resourceVersion: modRevision,
    attachedEpoch: value.status.attachment?.epoch ?? null,
    ...publishedTo(value),
  };
}
