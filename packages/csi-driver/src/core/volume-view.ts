import type { Snapshot, Volume } from '@stor/protocol';
import type {
  ContentSource,
  CsiSnapshot,
  CsiVolume,
  Texts,
  Timestamp,
  Topology,
  VolumeCondition,
  VolumeEntry,
} from '../messages.ts';
import { labelKeys } from './csi-names.ts';

/** What stays the same of a volume for as long as it lives, and a host needs to know. */
export function volumeContext({ metadata }: Volume): Texts {
  const fs = metadata.labels[labelKeys.fs] ?? '';
  return fs === '' ? {} : { fs };
}

export function csiVolume(volume: Volume, topology: Topology[]): CsiVolume {
  return {
    capacityBytes: volume.spec.sizeBytes,
    volumeId: volume.metadata.id,
    volumeContext: volumeContext(volume),
    contentSource: contentSource(volume),
    accessibleTopology: topology,
  };
}

function contentSource({ metadata }: Volume): ContentSource | null {
  const id = metadata.labels[labelKeys.source] ?? '';
  if (id === '') return null;
  return id.startsWith('s-') ? { snapshot: { snapshotId: id } } : { volume: { volumeId: id } };
}

/** For people: an orchestrator does nothing by itself when it is abnormal. */
export function conditionOf({ status }: Volume): VolumeCondition {
  if (status.health === 'healthy') return { abnormal: false, message: 'healthy' };
  const why = status.message === '' ? '' : `: ${status.message}`;
  return { abnormal: true, message: `${status.health}${why}` };
}

export function volumeEntry(volume: Volume, topology: Topology[]): VolumeEntry {
  const nodes = volume.status.publications.map(({ nodeId }) => nodeId);
  return {
    volume: csiVolume(volume, topology),
    status: {
      publishedNodeIds: [...new Set(nodes)],
      volumeCondition: conditionOf(volume),
    },
  };
}

/** It can be used, or could be: not being made, nor being taken away. */
export function isPresent({ status }: Volume): boolean {
  return status.health !== 'creating' && status.health !== 'deleting';
}

/** As orchestrators see it: taken, and not being deleted. */
export function isShown({ status }: Snapshot): boolean {
  return status.state === 'ready';
}

export function timestampOf(ms: number): Timestamp {
  const seconds = Math.floor(ms / 1_000);
  return { seconds, nanos: Math.round((ms - seconds * 1_000) * 1e6) };
}

/** Of a member of a group: one that has no other member is its own. */
export function groupIdOf({ metadata, spec }: Snapshot): string {
  return spec.groupId === '' ? metadata.id : spec.groupId;
}

export function csiSnapshot(snapshot: Snapshot): CsiSnapshot {
  const { metadata, spec, status } = snapshot;
  return {
    sizeBytes: spec.sizeBytes,
    snapshotId: metadata.id,
    sourceVolumeId: spec.volumeId,
    creationTime: timestampOf(metadata.createdAtMs),
    readyToUse: status.state === 'ready',
    groupSnapshotId: metadata.labels[labelKeys.group] === undefined ? '' : groupIdOf(snapshot),
  };
}
