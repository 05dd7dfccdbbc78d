import { checkQos, knownQos, parseQosValue, qosFieldNames, qosFields } from '@stor/protocol';
import type { QosField, QosSpec } from '@stor/protocol';
import type { Texts } from '../messages.ts';

/** Fields to set, and fields that go back to what the policy of the volume says. */
export interface QosChange {
  set: QosSpec;
  clear: QosField[];
}

/** As a value: what the policy says holds again. */
const takenBack = 'none';

const fieldsByKey: ReadonlyMap<string, QosField> = new Map(
  qosFields.map((field) => [`qos.${qosFieldNames[field]}`, field]),
);

export const qosKeys: readonly string[] = [...fieldsByKey.keys()];

/** `qos.iops: "5000"`, `qos.bps: 100MiB`, `qos.burst: 2x/30s`, `qos.weight: none`. INVALID_ARGUMENT. */
export function readQos(parameters: Texts): QosChange {
  const change: QosChange = { set: {}, clear: [] };
  for (const [key, field] of fieldsByKey) {
    const text = parameters[key]?.trim();
    if (text === undefined) continue;
    if (text === takenBack) change.clear.push(field);
    else Object.assign(change.set, { [field]: parseQosValue(field, text, ', or none') });
  }
  checkQos(knownQos(change.set));
  return change;
}
