import { formatByteSize } from './byte-size.ts';
import { StorError } from './errors.ts';
import { defaultQosClasses, maxQosWeight, minQosWeight } from './qos.ts';
import type { QosBurst, QosClass, QosClassChange, QosLimitName, QosSpec } from './qos.ts';

/** Requests per second that any limit or guarantee may name: more than any network card carries. */
export const maxQosIops = 100_000_000;
/** Bytes per second: at least one block, at most what no machine moves. */
export const minQosBps = 4096;
export const maxQosBps = 2 ** 40;
export const maxBurstFactor = 100;
export const maxBurstSeconds = 3_600;

/** Everything that may be wanted, and how people write it. */
export const qosFieldNames = {
  iops: 'iops',
  readIops: 'read-iops',
  writeIops: 'write-iops',
  bps: 'bps',
  readBps: 'read-bps',
  writeBps: 'write-bps',
  burst: 'burst',
  weight: 'weight',
  minIops: 'min-iops',
  minBps: 'min-bps',
} as const satisfies Readonly<Record<keyof QosSpec, string>>;
export type QosField = keyof typeof qosFieldNames;
export const qosFields = Object.keys(qosFieldNames) as QosField[];

const iopsFields = ['iops', 'readIops', 'writeIops', 'minIops'] as const;
const bpsFields = ['bps', 'readBps', 'writeBps', 'minBps'] as const;

export function isQosField(field: string): field is QosField {
  return Object.hasOwn(qosFieldNames, field);
}

/** `5000` requests, `100MiB` bytes, `2x/30s`, `200`; `unlimited`, `off`. */
export function qosValueText(field: QosField, spec: QosSpec): string {
  const value = spec[field];
  if (value === undefined) return '';
  if (typeof value === 'object') {
    return value.factor === 1 ? 'off' : `${value.factor}x/${value.seconds}s`;
  }
  if (value === 0) return field.startsWith('min') ? 'off' : 'unlimited';
  return field.endsWith('ps') && /bps/i.test(field) ? formatByteSize(value) : String(value);
}

/** Without fields that say nothing: on the wire what is absent may be null. */
export function knownQos(
  spec: { [F in QosField]?: QosSpec[F] | null | undefined } | null | undefined,
): QosSpec {
  const known: QosSpec = {};
  for (const field of qosFields) {
    const value = spec?.[field];
    if (value !== undefined && value !== null) Object.assign(known, { [field]: value });
  }
  return known;
}

/**
 * What one object (a volume, a policy, a tenant) may ask for. 0 in a limit or guarantee means none,
 * whatever the policy says. Throws INVALID_ARGUMENT: a number out of range, a limit for reads or
 * writes above the one for both, or a guarantee above what the limits let through.
 */
export function checkQos(spec: QosSpec): void {
  for (const field of iopsFields) checkNumber(field, spec[field], [1, maxQosIops]);
  for (const field of bpsFields) checkNumber(field, spec[field], [minQosBps, maxQosBps]);
  const { weight, burst } = spec;
  if (weight !== undefined && !isWhole(weight, minQosWeight, maxQosWeight)) {
    throw invalid(`weight=${weight} is out of range: use ${minQosWeight} to ${maxQosWeight}`);
  }
  if (burst) checkBurst(burst);
  checkUnit(spec, { total: 'iops', read: 'readIops', write: 'writeIops', least: 'minIops' });
  checkUnit(spec, { total: 'bps', read: 'readBps', write: 'writeBps', least: 'minBps' });
}

function isWhole(value: number, least: number, most: number): boolean {
  return Number.isSafeInteger(value) && value >= least && value <= most;
}

function checkNumber(
  field: QosField,
  value: number | undefined,
  [least, most]: [number, number],
): void {
  if (value === undefined || value === 0 || isWhole(value, least, most)) return;
  const isBytes = least === minQosBps;
  const range = isBytes
    ? `${formatByteSize(least)} to ${formatByteSize(most)} per second`
    : `${least} to ${most} requests per second`;
  throw invalid(`${qosFieldNames[field]}=${value} is out of range: use whole ${range}`);
}

function checkBurst({ factor, seconds }: QosBurst): void {
  const isFactor = Number.isFinite(factor) && factor >= 1 && factor <= maxBurstFactor;
  if (isFactor && isWhole(seconds, 1, maxBurstSeconds)) return;
  throw invalid(
    `burst=${factor}x/${seconds}s is out of range: use 1x to ${maxBurstFactor}x for 1s to ${maxBurstSeconds}s`,
  );
}

interface UnitFields {
  total: QosLimitName;
  read: QosLimitName;
  write: QosLimitName;
  least: 'minIops' | 'minBps';
}

/** What the limits of one unit let through altogether; 0 (or absent) limits nothing. */
function letThrough(spec: QosSpec, { total, read, write }: UnitFields): number {
  const most = spec[total] || Infinity;
  return Math.min(most, (spec[read] || Infinity) + (spec[write] || Infinity));
}

function checkUnit(spec: QosSpec, fields: UnitFields): void {
  const { total, read, write, least } = fields;
  for (const part of [read, write]) {
    const [all = 0, some = 0] = [spec[total], spec[part]];
    if (all > 0 && some > all) {
      throw invalid(
        `${said(part, spec)} is above ${said(total, spec)}, which counts reads and writes together, so it would never be reached: lower it or raise ${qosFieldNames[total]}`,
      );
    }
  }
  const wanted = spec[least] ?? 0;
  if (wanted <= letThrough(spec, fields)) return;
  const limits = spec[total] && wanted > spec[total] ? [total] : [read, write];
  throw invalid(
    `the guarantee ${said(least, spec)} is above what ${limits.map((field) => said(field, spec)).join(' and ')} let${limits.length === 1 ? 's' : ''} through: lower it or raise the limit`,
  );
}

function said(field: QosField, spec: QosSpec): string {
  return `${qosFieldNames[field]}=${qosValueText(field, spec)}`;
}

/**
 * The wishes with some set and some taken back. Throws INVALID_ARGUMENT when the result is not
 * possible, or a field is named that there is not.
 */
export function changedQos(spec: QosSpec, set: QosSpec, clear: readonly string[]): QosSpec {
  const changed = { ...spec };
  for (const field of clear) {
    if (!isQosField(field)) {
      throw invalid(`there is no QoS field ${JSON.stringify(field.slice(0, 64))}`);
    }
    Reflect.deleteProperty(changed, field);
  }
  const result = { ...changed, ...knownQos(set) };
  checkQos(knownQos(result));
  return result;
}

/** Where a value of the effective QoS comes from. */
export type QosSource = 'volume' | 'policy';

export interface EffectiveQos {
  /** what holds; no field of it is 0 */
  qos: QosSpec;
  /** of each field that holds */
  sources: Partial<Record<QosField, QosSource>>;
}

/**
 * A volume's own wishes over those of its policy, field by field. Where the two do not fit together
 * the tighter one holds: of limits that is so by itself, and a guarantee is never more than the limits
 * let through.
 */
export function effectiveQos(own: QosSpec, policy: QosSpec | null): EffectiveQos {
  const qos: QosSpec = {};
  const sources: EffectiveQos['sources'] = {};
  for (const field of qosFields) {
    const [source, spec] =
      own[field] === undefined ? ['policy' as const, policy] : ['volume' as const, own];
    const value = spec?.[field];
    if (value === undefined || value === 0) continue;
    if (typeof value === 'object' && value.factor <= 1) continue;
    Object.assign(qos, { [field]: value });
    sources[field] = source;
  }
  clampLeast(qos, { total: 'iops', read: 'readIops', write: 'writeIops', least: 'minIops' });
  clampLeast(qos, { total: 'bps', read: 'readBps', write: 'writeBps', least: 'minBps' });
  return { qos, sources };
}

function clampLeast(qos: QosSpec, fields: UnitFields): void {
  const least = qos[fields.least];
  if (least !== undefined) qos[fields.least] = Math.min(least, letThrough(qos, fields));
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}

/** Throws INVALID_ARGUMENT: as `checkQos`, and a tenant has limits and a burst only. */
export function checkTenantQos(spec: QosSpec): void {
  checkQos(spec);
  for (const field of ['weight', 'minIops', 'minBps'] as const) {
    if (spec[field] === undefined) continue;
    throw invalid(
      `${qosFieldNames[field]} is nothing that a tenant has: its volumes share limits and a burst; give it to a volume or a policy`,
    );
  }
}

/**
 * The classes with some changed. Throws INVALID_ARGUMENT: a class that there is not, a number out of range,
 * or a limit for clients, who have theirs by volume, policy and tenant.
 */
export function changedClasses(
  classes: readonly QosClass[],
  changes: readonly QosClassChange[],
): QosClass[] {
  for (const { name } of changes) {
    if (classes.some((each) => each.name === name)) continue;
    const names = classes.map((each) => each.name).join(', ');
    throw invalid(`there is no QoS class ${JSON.stringify(name.slice(0, 64))}: use ${names}`);
  }
  return classes.map((known) => {
    const changed = { ...known };
    for (const { name, weight, iops, bps } of changes) {
      if (name !== known.name) continue;
      changed.weight = (weight === 0 ? defaultWeight(known) : weight) ?? changed.weight;
      changed.iops = iops ?? changed.iops;
      changed.bps = bps ?? changed.bps;
    }
    checkQos({ weight: changed.weight, iops: changed.iops, bps: changed.bps });
    if (changed.name === 'client' && (changed.iops > 0 || changed.bps > 0)) {
      throw invalid(
        'clients have no limit as a class: give limits to volumes, policies or tenants, and weights to classes',
      );
    }
    return changed;
  });
}

function defaultWeight({ name, weight }: QosClass): number {
  return defaultQosClasses.find((each) => each.name === name)?.weight ?? weight;
}
