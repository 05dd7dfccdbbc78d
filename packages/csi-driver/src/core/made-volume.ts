import { knownQos } from '@stor/protocol';
import type { PlacementRules, QosSpec, Volume } from '@stor/protocol';
import type { CapacityRange, ContentSource, Texts } from '../messages.ts';
import type { Access } from './access-modes.ts';
import { sizeMismatch } from './capacity-range.ts';
import { invalid, missing } from './check-fields.ts';
import { canonicalText, isNamed, labelKeys, nameLabels } from './csi-names.ts';
import type { Digest } from './csi-names.ts';
import { identityOf } from './parameters.ts';
import type { MutableSettings, VolumeSettings } from './parameters.ts';

/** What a CreateVolume asks for, checked. */
export interface WantedVolume {
  name: string;
  range: CapacityRange | null;
  accesses: Access[];
  shared: boolean;
  settings: VolumeSettings;
  source: { kind: 'snapshot' | 'volume'; id: string } | null;
  /** what the driver needs to tell it apart, on the volume itself */
  labels: Texts;
}

/** File system that will be made: the one that a capability names, else that of the parameters; null: block. */
export function wantedFileSystem({ accesses, settings }: WantedVolume): 'ext4' | 'xfs' | null {
  const mounts = accesses.filter(({ kind }) => kind === 'mount');
  if (mounts.length === 0) return null;
  // of several the one that needs most
  const named = mounts.map(({ fileSystem }) => fileSystem ?? settings.fileSystem);
  return named.includes('xfs') ? 'xfs' : 'ext4';
}

/** INVALID_ARGUMENT when it names none or both. */
export function readSource(source: ContentSource | null): WantedVolume['source'] {
  if (!source) return null;
  const { snapshot, volume } = source;
  if (snapshot && volume) throw invalid('volume_content_source names a snapshot and a volume');
  const found = snapshot
    ? ({ kind: 'snapshot', id: snapshot.snapshotId } as const)
    : ({ kind: 'volume', id: volume?.volumeId ?? '' } as const);
  if (found.id === '') throw missing('the id in volume_content_source');
  return found;
}

/** Labels of a new volume; see `labelKeys`. */
export function labelsFor(
  wanted: Omit<WantedVolume, 'labels'>,
  parameters: Texts,
  digest: Digest,
): Texts {
  const { settings, source, name } = wanted;
  return {
    ...settings.labels,
    ...nameLabels(name),
    [labelKeys.made]: madeDigest(parameters, wanted.shared, digest),
    [labelKeys.fs]: settings.fileSystem,
    ...(source ? { [labelKeys.source]: source.id } : {}),
  };
}

function madeDigest(parameters: Texts, shared: boolean, digest: Digest): string {
  return digest(canonicalText({ parameters: identityOf(parameters), shared })).slice(0, 32);
}

/**
 * Why a volume that has the name is not what is asked for; '' when it is. What may be changed later is
 * compared with what holds now, unless the volume has a source: it may still have to be set there.
 */
export function mismatch(volume: Volume, wanted: WantedVolume): string {
  const { labels } = volume.metadata;
  if (!isNamed(labels, wanted.name)) return 'it was not made by this driver under this name';
  const size = sizeMismatch(wanted.range, volume.spec.sizeBytes);
  if (size !== '') return size;
  const source = labels[labelKeys.source] ?? '';
  if (source !== (wanted.source?.id ?? '')) {
    return source === '' ? 'it was made empty' : `it was made of ${source}`;
  }
  if (labels[labelKeys.made] !== wanted.labels[labelKeys.made]) {
    return 'it was made with other parameters or capabilities';
  }
  const change = wanted.source ? null : changeFor(volume, wanted.settings);
  return change ? 'its mutable parameters are others by now' : '';
}

/** What updateVolume takes. */
export interface VolumeChange {
  policy?: MutableSettings['policy'];
  qos?: QosSpec;
  clearQos?: string[];
  policyName?: string;
  replicas?: number;
  placement?: PlacementRules;
}

/** What must be changed so that the volume has these settings; null: nothing. */
export function changeFor(volume: Volume, settings: MutableSettings): VolumeChange | null {
  const { spec } = volume;
  const qos = knownQos(spec.qos);
  const change: VolumeChange = {};
  const policy = Object.entries(settings.policy).filter(
    ([key, value]) => spec.policy[key as keyof typeof spec.policy] !== value,
  );
  if (policy.length > 0) change.policy = Object.fromEntries(policy);
  const set = Object.entries(knownQos(settings.qos.set)).filter(
    ([key, value]) => canonicalText(qos[key as keyof QosSpec] ?? null) !== canonicalText(value),
  );
  if (set.length > 0) change.qos = Object.fromEntries(set);
  const clear = settings.qos.clear.filter((field) => qos[field] !== undefined);
  if (clear.length > 0) change.clearQos = clear;
  const { policyName } = settings;
  if (policyName !== undefined && policyName !== (spec.policyName ?? '')) {
    change.policyName = policyName;
  }
  return Object.keys(change).length === 0 ? null : change;
}

/**
 * What must be changed of a clone, which begins as its source is. INVALID_ARGUMENT for what a clone cannot
 * have: its bytes lie on the disks of its source.
 */
export function changeForClone(clone: Volume, { settings }: WantedVolume): VolumeChange | null {
  const { spec } = clone;
  const change: VolumeChange = { ...changeFor(clone, settings) };
  if (settings.replicas > 0 && settings.replicas !== spec.replicas) {
    change.replicas = settings.replicas;
  }
  const isPlaced = canonicalText(spec.placement ?? {}) === canonicalText(settings.placement);
  if (!isPlaced && Object.keys(settings.placement).length > 0) {
    change.placement = settings.placement;
  }
  return Object.keys(change).length === 0 ? null : change;
}

/** INVALID_ARGUMENT: a source and a parameter that do not go together. */
export function checkCloneable(source: Volume, { settings }: WantedVolume): void {
  const tag = source.spec.diskTag ?? '';
  if (settings.diskTag === '' || settings.diskTag === tag) return;
  throw invalid(
    `diskTag: ${settings.diskTag} is not possible: the volume shares the disks of its source, ${tag === '' ? 'which has any tag' : `whose tag is ${tag}`}`,
  );
}
