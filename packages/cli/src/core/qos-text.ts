import {
  effectiveQos,
  knownQos,
  parseQosValue,
  qosFieldNamed,
  qosFieldNames,
  qosFields,
  qosValueText,
  StorError,
} from '@stor/protocol';
import type { QosField, QosSpec, Volume, VolumeThrottle } from '@stor/protocol';

/** What a `--qos` asks for: fields to set, and fields to take back. */
export interface QosChange {
  set: QosSpec;
  clear: QosField[];
}

/** What may be written for a value besides the value. */
export const orNone = ', or none to take it back';

/**
 * `iops=5000,bps=100MiB,burst=2x/30s,min-iops=none`, or `none` alone, which takes all fields back.
 * Throws INVALID_ARGUMENT.
 */
export function parseQos(texts: readonly string[]): QosChange {
  const change: QosChange = { set: {}, clear: [] };
  const words = texts.flatMap((text) => text.split(',')).map((word) => word.trim());
  if (words.length === 1 && isNone(words[0] ?? '')) return { set: {}, clear: [...qosFields] };
  const seen = new Set<QosField>();
  for (const word of words) {
    const at = word.indexOf('=');
    const name = at < 0 ? word : word.slice(0, at);
    const field = qosFieldNamed(name);
    if (!field || at < 0) throw notKnown(word);
    if (seen.has(field)) throw invalid(`--qos names ${name} twice: say it once`);
    seen.add(field);
    const text = word.slice(at + 1).trim();
    if (isNone(text)) change.clear.push(field);
    else Object.assign(change.set, { [field]: parseQosValue(field, text, orNone) });
  }
  return change;
}

const isNone = (text: string): boolean => text === 'none' || text === '-';

function notKnown(word: string): StorError {
  return invalid(
    `--qos ${JSON.stringify(word)} is not valid: write NAME=VALUE,... with ${qosFields.map((field) => qosFieldNames[field]).join(', ')}, or none to take all back`,
  );
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}

/** `iops=5000,bps=100MiB`; '' when nothing is wanted. */
export function qosText(spec: QosSpec): string {
  return qosFields
    .filter((field) => spec[field] !== undefined)
    .map((field) => `${qosFieldNames[field]}=${qosValueText(field, spec)}`)
    .join(',');
}

/** One line for each value that holds: `iops  5000 (policy gold)`. */
export function effectiveLines(volume: Volume): [string, string][] {
  const { effective, sources } = qosStatus(volume);
  return qosFields
    .filter((field) => effective[field] !== undefined)
    .map((field) => [
      `QoS ${qosFieldNames[field]}`,
      `${qosValueText(field, effective)} (${sourceText(sources[field], volume)})`,
    ]);
}

/** `Throttled  by iops (policy gold), 3 requests wait`, and for how long requests waited until now. */
export function throttleLines({ status }: Volume): [string, string][] {
  const throttle = status.qos?.throttle;
  if (!throttle) return [];
  const waited = [
    ['limits', throttle.limitMs],
    ['its tenant', throttle.tenantMs],
    ['others', throttle.contentionMs],
  ] as const;
  const seconds = waited
    .filter(([, ms]) => ms > 0)
    .map(([what, ms]) => `${(ms / 1_000).toFixed(1)} s for ${what}`);
  return [
    ['Throttled', throttleText(throttle)],
    ['Waited', seconds.join(', ')],
  ];
}

function throttleText({ reason, source, limits, queued }: VolumeThrottle): string {
  if (reason === '') return 'no';
  const waiting = `${queued} ${queued === 1 ? 'request waits' : 'requests wait'}`;
  if (reason === 'contention') return `no limit: other volumes of the node go first, ${waiting}`;
  const what = limits.length === 0 ? 'a limit' : limits.join(', ');
  return `by ${what} (${source}), ${waiting}`;
}

function sourceText(source: string | undefined, { spec }: Volume): string {
  return source === 'policy' ? `policy ${spec.policyName ?? ''}` : 'volume';
}

/** A node of an older version does not say it: then nothing is enforced by a policy. */
function qosStatus({ spec, status }: Volume): {
  effective: QosSpec;
  sources: Record<string, string>;
} {
  const known = status.qos;
  if (!known) {
    const { qos, sources } = effectiveQos(knownQos(spec.qos), null);
    return { effective: qos, sources };
  }
  return { effective: knownQos(known.effective), sources: known.sources };
}

/** `iops=5000,bps=100MiB`: what is enforced. */
export function effectiveText(volume: Volume): string {
  return qosText(qosStatus(volume).effective);
}

/** `iops  5000 -> none` for each wish that differs. */
export function qosChanges(before: QosSpec, after: QosSpec): [string, string, string][] {
  const said = (field: QosField, spec: QosSpec): string =>
    spec[field] === undefined ? 'none' : qosValueText(field, spec);
  return qosFields.map((field) => [
    `QoS ${qosFieldNames[field]}`,
    said(field, before),
    said(field, after),
  ]);
}
