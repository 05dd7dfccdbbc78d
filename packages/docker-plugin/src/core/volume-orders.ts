import { formatByteSize, StorError } from '@stor/protocol';
import type { StorApi, Volume } from '@stor/protocol';
import { fileSystemLabels, fileSystemOptionsOf } from './file-system-labels.ts';
import { defaultSizeBytes, minFileSystemBytes } from './limits.ts';
import type { VolumeOptions } from './volume-options.ts';

type CreateOrder = Parameters<StorApi['createVolume']>[0];
type CloneOrder = Parameters<StorApi['cloneVolume']>[0];

/**
 * The order that makes a new volume; what the options do not say, the defaults do. Throws
 * INVALID_ARGUMENT.
 */
export function createOrder(
  name: string,
  options: VolumeOptions,
  defaults: VolumeOptions = {},
): CreateOrder {
  const wanted = { ...defaults, ...options };
  const { sizeBytes = defaultSizeBytes, replicas = 0, fileSystem = 'ext4' } = wanted;
  // what mkfs is told fits one file system, so those of another one by default do not go with it
  const isOther = options.fileSystem !== undefined && options.fileSystem !== defaults.fileSystem;
  const { formatOptions, ...rest } = wanted;
  const format = isOther ? options.formatOptions : formatOptions;
  const { failureMode, qos, policyName } = rest;
  const least = minFileSystemBytes[fileSystem];
  if (sizeBytes < least) {
    throw invalid(
      `size=${formatByteSize(sizeBytes)} is too small: ${fileSystem} needs at least ${formatByteSize(least)}`,
    );
  }
  return {
    name,
    sizeBytes,
    replicas,
    labels: {
      ...labelsOf(options, defaults),
      ...fileSystemLabels({
        fileSystem,
        ...(format === undefined ? {} : { formatOptions: format }),
        ...(rest.mountOptions === undefined ? {} : { mountOptions: rest.mountOptions }),
      }),
    },
    ...(failureMode === undefined ? {} : { policy: { failureMode } }),
    ...(qos === undefined ? {} : { qos }),
    ...(policyName === undefined ? {} : { policyName }),
  };
}

/** What a clone has from its source and from nobody else. */
const sourceOptions = {
  replicas: 'replicas',
  fileSystem: 'fs',
  policyName: 'policy',
  qos: 'qos.*',
  formatOptions: 'mkfs-options',
} as const satisfies Partial<Record<keyof VolumeOptions, string>>;

/** INVALID_ARGUMENT when options are given beside `from` that a clone has from its source. */
export function checkCloneOptions(options: VolumeOptions): void {
  if (!options.from) return;
  for (const [key, name] of Object.entries(sourceOptions)) {
    if (options[key as keyof typeof sourceOptions] === undefined) continue;
    throw invalid(
      `${name} does not go with from: a clone has it as its source; change it afterwards with storctl volume update`,
    );
  }
}

/** The order that makes a volume of a snapshot, or of a live volume. */
export function cloneOrder(
  name: string,
  { from, ...options }: VolumeOptions & Required<Pick<VolumeOptions, 'from'>>,
  source: Pick<Volume, 'metadata'>,
  defaults: VolumeOptions = {},
): CloneOrder {
  const { sizeBytes = 0, failureMode, mountOptions } = options;
  const known = fileSystemOptionsOf(source.metadata.labels);
  return {
    source: from.volume,
    snapshot: from.snapshot,
    name,
    // 0: as the source
    sizeBytes,
    labels: {
      ...labelsOf(options, defaults),
      ...fileSystemLabels({ ...known, ...(mountOptions === undefined ? {} : { mountOptions }) }),
    },
    ...(failureMode === undefined ? {} : { policy: { failureMode } }),
  };
}

function labelsOf(options: VolumeOptions, defaults: VolumeOptions): Record<string, string> {
  return { ...defaults.labels, ...options.labels };
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
