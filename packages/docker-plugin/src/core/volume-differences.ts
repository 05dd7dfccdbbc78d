import {
  formatByteSize,
  joinSnapshotName,
  qosFieldNames,
  qosFields,
  qosValueText,
} from '@stor/protocol';
import type { SnapshotName, Volume } from '@stor/protocol';
import { fileSystemOptionsOf } from './file-system-labels.ts';
import type { VolumeOptions } from './volume-options.ts';

/**
 * What was asked for and is otherwise in a volume that exists, each as `size: 2GiB, not 1GiB`. What was not
 * asked for may be anything: `docker run -v db:/data` says nothing and means the volume that is there.
 */
export function differences(options: VolumeOptions, volume: Volume): string[] {
  const { spec, metadata } = volume;
  const found: string[] = [];
  const compare = (name: string, wanted: string | undefined, has: string): void => {
    if (wanted !== undefined && wanted !== has) {
      found.push(`${name}: ${has === '' ? 'none' : has}, not ${wanted}`);
    }
  };
  if (options.sizeBytes !== undefined && options.sizeBytes !== spec.sizeBytes) {
    compare('size', exactSize(options.sizeBytes), exactSize(spec.sizeBytes));
  }
  compare('replicas', options.replicas?.toString(), spec.replicas.toString());
  compare('policy', options.policyName, spec.policyName ?? '');
  compare('failure-mode', options.failureMode, spec.policy.failureMode);
  const known = fileSystemOptionsOf(metadata.labels);
  compare('fs', options.fileSystem, known.fileSystem ?? '');
  compare('mkfs-options', options.formatOptions?.join(' '), known.formatOptions?.join(' ') ?? '');
  compare('mount-options', options.mountOptions?.join(','), known.mountOptions?.join(',') ?? '');
  for (const [key, value] of Object.entries(options.labels ?? {})) {
    const has = Object.hasOwn(metadata.labels, key) ? metadata.labels[key] : undefined;
    if (has !== value) compare(`label ${key}`, value === '' ? '(empty)' : value, has ?? '');
  }
  const wantedQos = options.qos ?? {};
  for (const field of qosFields) {
    if (wantedQos[field] === undefined) continue;
    const has = qosValueText(field, spec.qos ?? {});
    compare(`qos.${qosFieldNames[field]}`, qosValueText(field, wantedQos), has);
  }
  if (options.from) compare('from', sourceText(options.from), originText(options.from, volume));
  return found;
}

/** `1.5GiB`; with the bytes where the short form is not all of it. */
function exactSize(bytes: number): string {
  const text = formatByteSize(bytes);
  return bytes % (1024 * 1024) === 0 && !text.includes('.') ? text : `${bytes} bytes`;
}

function sourceText({ volume, snapshot }: SnapshotName): string {
  return snapshot === '' ? volume : joinSnapshotName(volume, snapshot);
}

/** As the source was called when the clone was made; by ids when it was asked for by them. */
function originText(wanted: SnapshotName, { status }: Volume): string {
  const { origin } = status;
  if (!origin) return '';
  const volume = wanted.volume === origin.volumeId ? origin.volumeId : origin.volume;
  const snapshot = wanted.snapshot === origin.snapshotId ? origin.snapshotId : origin.snapshot;
  return sourceText({ volume, snapshot });
}
