import { checkQos, knownQos, parseByteSize, qosFieldNames, qosFields } from '@stor/protocol';
import type { QosBurst, QosField, QosSpec } from '@stor/protocol';
import type { Texts } from '../messages.ts';
import { invalid } from './check-fields.ts';

/** Fields to set, and fields that go back to what the policy of the volume says. */
export interface QosChange {
  set: QosSpec;
  clear: QosField[];
}

const prefix = 'qos.';
/** As a value: what the policy says holds again. */
const takenBack = 'none';

const fieldsByKey: ReadonlyMap<string, QosField> = new Map(
  qosFields.map((field) => [`${prefix}${qosFieldNames[field]}`, field]),
);

export const qosKeys: readonly string[] = [...fieldsByKey.keys()];

/** `qos.iops: "5000"`, `qos.bps: 100MiB`, `qos.burst: 2x/30s`, `qos.weight: none`. INVALID_ARGUMENT. */
export function readQos(parameters: Texts): QosChange {
  const change: QosChange = { set: {}, clear: [] };
  for (const [key, field] of fieldsByKey) {
    const text = parameters[key]?.trim();
    if (text === undefined) continue;
    if (text === takenBack) change.clear.push(field);
    else Object.assign(change.set, { [field]: readValue(key, field, text) });
  }
  checkQos(knownQos(change.set));
  return change;
}

function readValue(key: string, field: QosField, text: string): number | QosBurst {
  if (field === 'burst') return readBurst(key, text);
  if (field === 'weight') return readCount(key, text);
  if (text === 'unlimited' || text === 'off') return 0;
  if (!/bps$/i.test(field)) return readCount(key, text);
  const bytes = readBytes(text);
  if (bytes > 0) return bytes;
  throw invalid(
    `${key}: ${JSON.stringify(text)} is not valid: write bytes per second, for example 100MiB, unlimited, or none`,
  );
}

function readBytes(text: string): number {
  try {
    return parseByteSize(text.replace(/\/s$/, ''));
  } catch {
    return 0;
  }
}

function readCount(key: string, text: string): number {
  const match = /^([0-9]{1,12})([kM]?)$/.exec(text);
  const factor = match?.[2] === 'M' ? 1e6 : match?.[2] === 'k' ? 1e3 : 1;
  const count = match ? Number(match[1]) * factor : 0;
  if (count > 0) return count;
  throw invalid(
    `${key}: ${JSON.stringify(text)} is not valid: write a whole number, for example 5000 or 5k, or none`,
  );
}

function readBurst(key: string, text: string): QosBurst {
  // a burst that saves nothing is none, whatever the policy says
  if (text === 'off') return { factor: 1, seconds: 1 };
  const match = /^([0-9]+(?:\.[0-9]+)?)x\/([0-9]+)s$/.exec(text);
  if (match) return { factor: Number(match[1]), seconds: Number(match[2]) };
  throw invalid(
    `${key}: ${JSON.stringify(text)} is not valid: write how many times the limit and for how long, for example 2x/30s, off, or none`,
  );
}
