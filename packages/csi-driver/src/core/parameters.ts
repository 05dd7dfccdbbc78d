import {
  checkLabels,
  checkPlacement,
  checkPolicyName,
  maxIoTimeoutMs,
  maxReplicas,
  parseFailureMode,
  parseTimeMs,
} from '@stor/protocol';
import type { PlacementRules, VolumePolicy } from '@stor/protocol';
import type { FileSystem } from '@stor/host-attach';
import type { Texts } from '../messages.ts';
import { readFileSystem } from './access-modes.ts';
import { checkMap, invalid } from './check-fields.ts';
import { qosKeys, readQos } from './qos-parameters.ts';
import type { QosChange } from './qos-parameters.ts';

/** What may be changed while a volume lives; what is absent stays as it is. */
export interface MutableSettings {
  policy: Pick<Partial<VolumePolicy>, 'failureMode' | 'onLoss' | 'ioTimeoutMs'>;
  qos: QosChange;
  /** of the policy whose QoS it has; '': of none */
  policyName?: string;
}

/** What a volume is made with, and keeps. */
export interface FixedSettings {
  /** 0: as many as usual */
  replicas: number;
  fileSystem: FileSystem;
  /** '': any disk */
  diskTag: string;
  placement: PlacementRules;
  labels: Texts;
}

export interface VolumeSettings extends MutableSettings, FixedSettings {}

const mutableKeys: readonly string[] = ['failureMode', 'onLoss', 'ioTimeout', 'policy', ...qosKeys];
const fixedKeys: readonly string[] = [
  'replicas',
  'fs',
  'diskTag',
  'requiredDomains',
  'preferredDomains',
  'nodeSelector',
  'labels',
];

/** What the sidecars of Kubernetes add: they say whose volume it is, and ask for nothing. */
const claimLabels: Readonly<Record<string, string>> = {
  'csi.storage.k8s.io/pvc/name': 'csi/pvc',
  'csi.storage.k8s.io/pvc/namespace': 'csi/namespace',
  'csi.storage.k8s.io/pv/name': 'csi/pv',
};
const snapshotLabels: Readonly<Record<string, string>> = {
  'csi.storage.k8s.io/volumesnapshot/name': 'csi/snapshot',
  'csi.storage.k8s.io/volumesnapshot/namespace': 'csi/namespace',
  'csi.storage.k8s.io/volumesnapshotcontent/name': 'csi/content',
  'csi.storage.k8s.io/volumegroupsnapshot/name': 'csi/snapshot',
  'csi.storage.k8s.io/volumegroupsnapshot/namespace': 'csi/namespace',
  'csi.storage.k8s.io/volumegroupsnapshotcontent/name': 'csi/content',
};

/** Labels whose keys begin like this are the driver's own. */
const ownLabels = 'csi/';
const labelValue = /^[A-Za-z0-9_.:/-]{1,128}$/;

/**
 * Parameters of a new volume; those that may be changed later may stand in either map, and `mutable` comes
 * first. INVALID_ARGUMENT: unknown, or a value that is not possible.
 */
export function readSettings(parameters: Texts, mutable: Texts): VolumeSettings {
  checkMap('parameters', parameters);
  checkKnown(parameters, [...fixedKeys, ...mutableKeys, ...Object.keys(claimLabels)], 'parameter');
  const changeable = readMutable(mutable, { ...parameters, ...mutable });
  const { replicas, fs, diskTag = '', labels } = parameters;
  checkLabels(diskTag === '' ? {} : { diskTag });
  const placement = checkPlacement({
    required: readList(parameters['requiredDomains']),
    preferred: readList(parameters['preferredDomains']),
    nodeSelector: readPairs('nodeSelector', parameters['nodeSelector']),
  });
  return {
    ...changeable,
    replicas: replicas === undefined ? 0 : readReplicas(replicas),
    fileSystem: fs === undefined ? 'ext4' : readFileSystem('parameter fs', fs),
    diskTag,
    placement: placement ?? {},
    labels: { ...readLabels(labels), ...labelsOf(parameters, claimLabels) },
  };
}

/** Parameters of a change. INVALID_ARGUMENT; nothing was changed then. */
export function readChange(mutable: Texts): MutableSettings {
  return readMutable(mutable, mutable);
}

function readMutable(mutable: Texts, values: Texts): MutableSettings {
  checkMap('mutable_parameters', mutable);
  checkKnown(mutable, mutableKeys, 'mutable parameter');
  const { failureMode, onLoss, ioTimeout, policy } = values;
  const settings: MutableSettings = { policy: {}, qos: readQos(values) };
  if (failureMode !== undefined) settings.policy.failureMode = readMode(failureMode);
  if (onLoss !== undefined) settings.policy.onLoss = readOnLoss(onLoss);
  if (ioTimeout !== undefined) settings.policy.ioTimeoutMs = readTime('ioTimeout', ioTimeout);
  if (policy !== undefined) settings.policyName = readPolicyName(policy);
  return settings;
}

/** Nothing is asked for in it. */
export function changesNothing({ policy, qos, policyName }: MutableSettings): boolean {
  const fields = [policy, qos.set, qos.clear].map((each) => Object.keys(each).length);
  return fields.every((count) => count === 0) && policyName === undefined;
}

/** Labels of a snapshot. INVALID_ARGUMENT: a parameter that there is not. */
export function readSnapshotLabels(parameters: Texts): Texts {
  checkMap('parameters', parameters);
  checkKnown(parameters, ['labels', ...Object.keys(snapshotLabels)], 'parameter of a snapshot');
  return { ...readLabels(parameters['labels']), ...labelsOf(parameters, snapshotLabels) };
}

/** Those of parameters that tell two creations apart: not whose volume it is, nor what may change. */
export function identityOf(parameters: Texts): Texts {
  const kept = Object.entries(parameters).filter(([key]) => fixedKeys.includes(key));
  return Object.fromEntries(kept);
}

function checkKnown(parameters: Texts, known: readonly string[], what: string): void {
  for (const key of Object.keys(parameters)) {
    if (known.includes(key)) continue;
    const listed = known.filter((each) => !each.startsWith('csi.storage.k8s.io/'));
    throw invalid(
      `there is no ${what} ${JSON.stringify(key.slice(0, 128))}: use ${listed.join(', ')}`,
    );
  }
}

function readReplicas(text: string): number {
  const replicas = /^[0-9]$/.test(text) ? Number(text) : 0;
  if (replicas >= 1 && replicas <= maxReplicas) return replicas;
  throw invalid(`replicas: ${JSON.stringify(text)} is not possible: use 1 to ${maxReplicas}`);
}

function readMode(text: string): VolumePolicy['failureMode'] {
  const mode = parseFailureMode(text);
  if (mode !== null) return mode;
  throw invalid(
    `failureMode: ${JSON.stringify(text)} is none: use hard, soft, alwayson or threshold=N with N from 1 to ${maxReplicas}`,
  );
}

function readOnLoss(text: string): VolumePolicy['onLoss'] {
  if (text === 'suspend' || text === 'error') return text;
  throw invalid(`onLoss: ${JSON.stringify(text)} is none: use suspend or error`);
}

/** `30s`, `5m`; `0s`: for as long as it takes. */
function readTime(key: string, text: string): number {
  const ms = parseTimeMs(text);
  if (ms <= maxIoTimeoutMs) return ms;
  throw invalid(
    `${key}: ${JSON.stringify(text)} is not valid: write a time, for example 30s, of at most a day`,
  );
}

function readPolicyName(text: string): string {
  if (text === 'none') return '';
  checkPolicyName(text);
  return text;
}

function readList(text: string | undefined): string[] {
  const words = (text ?? '').split(',').map((word) => word.trim());
  return words.filter((word) => word !== '');
}

/** `a=1,b=2` */
function readPairs(key: string, text: string | undefined): Texts {
  const pairs = readList(text).map((word): [string, string] => {
    const at = word.indexOf('=');
    if (at > 0) return [word.slice(0, at), word.slice(at + 1)];
    throw invalid(`${key}: ${JSON.stringify(word.slice(0, 128))} is not valid: write name=value,…`);
  });
  const map = Object.fromEntries(pairs);
  checkLabels(map);
  return map;
}

function readLabels(text: string | undefined): Texts {
  const labels = readPairs('labels', text);
  const own = Object.keys(labels).find((key) => key.startsWith(ownLabels));
  if (own === undefined) return labels;
  throw invalid(`label ${own} is the driver's own: use another name`);
}

/** What a label cannot hold is left out: these are for people only. */
function labelsOf(parameters: Texts, keys: Readonly<Record<string, string>>): Texts {
  const pairs = Object.entries(keys).map(([key, label]): [string, string] => [
    label,
    parameters[key] ?? '',
  ]);
  return Object.fromEntries(pairs.filter(([, value]) => labelValue.test(value)));
}
