import type { VolumeInfo } from '../../agent-port.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** What is told about a volume without attaching it. */
export function volumeInfoOf({ metadata, spec }: StoredVolume): VolumeInfo {
  const { name, id: volumeId, labels } = metadata;
  const { sizeBytes, policy, replicas } = spec;
  return { name, volumeId, sizeBytes, shared: policy.shared, replicas, labels };
}
