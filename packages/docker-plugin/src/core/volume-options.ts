import { fileSystems, type FileSystem } from '@stor/host-attach';
import {
  checkLabels,
  checkPolicyName,
  checkQos,
  checkSnapshotName,
  checkVolumeName,
  maxReplicas,
  parseByteSize,
  parseFailureMode,
  parseQosValue,
  qosFieldNamed,
  qosFieldNames,
  qosFields,
  splitSnapshotName,
  StorError,
} from '@stor/protocol';
import type { FailureMode, QosSpec, SnapshotName } from '@stor/protocol';
import { labelTextOf, maxLabelValueLength } from './label-text.ts';
import { similarName } from './similar-name.ts';

/** What was said with `-o NAME=VALUE`, and nothing else. */
export interface VolumeOptions {
  sizeBytes?: number;
  replicas?: number;
  fileSystem?: FileSystem;
  policyName?: string;
  failureMode?: FailureMode;
  qos?: QosSpec;
  labels?: Record<string, string>;
  /** `snapshot` '': the live volume */
  from?: SnapshotName;
  /** for mkfs, when the file system is made */
  formatOptions?: string[];
  /** for mount(8) */
  mountOptions?: string[];
}

/** Labels of this name say how Docker uses a volume, on every node; see file-system-labels.ts. */
export const ownLabelPrefix = 'docker.stor/';

const plainOptions = [
  'size',
  'replicas',
  'fs',
  'policy',
  'failure-mode',
  'labels',
  'from',
  'mkfs-options',
  'mount-options',
] as const;
type PlainOption = (typeof plainOptions)[number];

/** Everything that may be said with `-o`. */
export const optionNames: readonly string[] = [
  ...plainOptions,
  ...qosFields.map((field) => `qos.${qosFieldNames[field]}`),
];

/** What other plug-ins call it. */
const otherNames: ReadonlyMap<string, string> = new Map([
  ['capacity', 'size'],
  ['type', 'fs'],
  ['fstype', 'fs'],
  ['filesystem', 'fs'],
  ['file-system', 'fs'],
  ['repl', 'replicas'],
  ['label', 'labels'],
  ['snapshot', 'from'],
  ['clone', 'from'],
  ['iops', 'qos.iops'],
  ['bps', 'qos.bps'],
  ['o', 'mount-options'],
  ['mountopts', 'mount-options'],
  ['mkfs', 'mkfs-options'],
]);

/** They will exist. Who asks for them must not get a volume that is not what it is believed to be. */
const notYet = /^(encrypt|crypt|luks|passphrase|backup)/i;

/** Reads the options of `docker volume create -o`. Throws INVALID_ARGUMENT with what may be said. */
export function parseVolumeOptions(given: Readonly<Record<string, string>>): VolumeOptions {
  const options: VolumeOptions = {};
  const qos: QosSpec = {};
  for (const [name, text] of Object.entries(given)) {
    const field = name.startsWith('qos.') ? qosFieldNamed(name.slice('qos.'.length)) : null;
    if (field) Object.assign(qos, { [field]: parseQosValue(field, text.trim()) });
    else if (isPlain(name)) Object.assign(options, readers[name](text.trim()));
    else throw notKnown(name);
  }
  if (Object.keys(qos).length > 0) {
    checkQos(qos);
    options.qos = qos;
  }
  return options;
}

function isPlain(name: string): name is PlainOption {
  return plainOptions.some((each) => each === name);
}

function notKnown(name: string): StorError {
  const shown = JSON.stringify(name.slice(0, 64));
  if (notYet.test(name)) {
    return invalid(
      `option ${shown} is not supported yet: volumes have no encryption and no backups`,
    );
  }
  const meant = otherNames.get(name.toLowerCase()) ?? similarName(name, optionNames);
  const question = meant === null ? '' : ` (did you mean ${meant}?)`;
  return invalid(`option ${shown} is not known${question}: there are ${optionNames.join(', ')}`);
}

const readers: Readonly<Record<PlainOption, (text: string) => VolumeOptions>> = {
  size: (text) => ({ sizeBytes: readSize(text) }),
  replicas: (text) => ({ replicas: readReplicas(text) }),
  fs: (text) => ({ fileSystem: readFileSystem(text) }),
  policy: (text) => {
    checkPolicyName(text);
    return { policyName: text };
  },
  'failure-mode': (text) => ({ failureMode: readFailureMode(text) }),
  labels: (text) => ({ labels: readLabels(text) }),
  from: (text) => ({ from: readSource(text) }),
  'mkfs-options': (text) => ({ formatOptions: readFormatOptions(text) }),
  'mount-options': (text) => ({ mountOptions: readMountOptions(text) }),
};

function readSize(text: string): number {
  const bytes = parseByteSize(text);
  if (bytes > 0) return bytes;
  throw invalid('size=0 is nothing: write for example size=20GiB');
}

function readReplicas(text: string): number {
  const replicas = /^[0-9]+$/.test(text) ? Number(text) : NaN;
  if (replicas >= 1 && replicas <= maxReplicas) return replicas;
  throw invalid(
    `replicas=${text.slice(0, 32)} is not valid: a volume has 1 to ${maxReplicas} replicas`,
  );
}

function readFileSystem(text: string): FileSystem {
  const found = fileSystems.find((each) => each === text);
  if (found) return found;
  throw invalid(`fs=${text.slice(0, 32)} is not known: there are ${fileSystems.join(' and ')}`);
}

function readFailureMode(text: string): FailureMode {
  const mode = parseFailureMode(text);
  if (mode !== null) return mode;
  throw invalid(
    `failure-mode=${text.slice(0, 32)} is none: use hard, soft, alwayson or threshold=N with N from 1 to ${maxReplicas}`,
  );
}

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const word of text.split(',').map((each) => each.trim())) {
    const equals = word.indexOf('=');
    if (equals <= 0) {
      throw invalid(
        `labels: ${JSON.stringify(word)} is no label: write labels=KEY=VALUE,KEY=VALUE`,
      );
    }
    const key = word.slice(0, equals);
    if (key.startsWith(ownLabelPrefix)) {
      throw invalid(`label ${key} is not yours to set: options of this plug-in set it`);
    }
    if (Object.hasOwn(labels, key)) throw invalid(`label ${key} is given twice`);
    labels[key] = word.slice(equals + 1);
  }
  checkLabels(labels);
  return labels;
}

function readSource(text: string): SnapshotName {
  const snapshot = splitSnapshotName(text);
  const source = snapshot ?? { volume: text, snapshot: '' };
  checkVolumeName(source.volume);
  if (snapshot) checkSnapshotName(source.snapshot);
  return source;
}

/** Words that would make mkfs format in spite of what is there, or nothing. */
const refusedFormatWords: readonly string[] = ['-F', '-FF', '-f', '-n', '-N', '-S', '-d', '-c'];

/**
 * Words of mkfs(8) options. One that stands alone would be taken for the device to be formatted, so
 * each belongs to an option before it.
 */
function readFormatOptions(text: string): string[] {
  const words = text.split(/\s+/).filter((word) => word !== '');
  if (words.length === 0) throw invalid('mkfs-options are empty: leave them out');
  for (const [at, word] of words.entries()) {
    const before = words[at - 1] ?? '';
    const isOption = word.startsWith('-');
    const isValue = /^-[A-Za-z]$/.test(before);
    if (!/^[A-Za-z0-9_.,=:^-]+$/.test(word) || (!isOption && !isValue)) {
      throw invalid(
        `mkfs-options: ${JSON.stringify(word.slice(0, 64))} is not taken: write options of mkfs, for example mkfs-options=-m 1 -E lazy_itable_init=0`,
      );
    }
    if (refusedFormatWords.includes(word)) {
      throw invalid(
        `mkfs-options: ${word} is not taken: a file system is made only on an empty volume, and always`,
      );
    }
  }
  checkRoom('mkfs-options', words.join(' '));
  return words;
}

const refusedMountOptions: readonly string[] = [
  'bind',
  'rbind',
  'move',
  'remount',
  'loop',
  'offset',
  'sizelimit',
];

function readMountOptions(text: string): string[] {
  const options = text.split(',').map((each) => each.trim());
  for (const option of options) {
    const name = option.split('=')[0] ?? '';
    if (name === 'ro' || name === 'rw') {
      throw invalid(
        `mount-options: ${name} is not taken: say it where the volume is used, docker run -v db:/data:${name}`,
      );
    }
    if (
      refusedMountOptions.includes(name) ||
      !/^[A-Za-z0-9_.-]+(=[A-Za-z0-9_.:/-]+)?$/.test(option)
    ) {
      throw invalid(
        `mount-options: ${JSON.stringify(option.slice(0, 64))} is not taken: write options of mount, for example mount-options=noatime,discard`,
      );
    }
  }
  checkRoom('mount-options', options.join(','));
  return options;
}

/** They are kept in a label of the volume, so that every node has them. */
function checkRoom(name: string, text: string): void {
  if (labelTextOf(text).length <= maxLabelValueLength) return;
  throw invalid(
    `${name} are too long: they are kept in a label of the volume, which has room for ${maxLabelValueLength} characters (three for each that is no letter, digit, ".", "_", "/" or "-")`,
  );
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
