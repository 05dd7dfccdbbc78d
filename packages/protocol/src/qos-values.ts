import { parseByteSize } from './byte-size.ts';
import { parseDurationMs } from './duration.ts';
import { StorError } from './errors.ts';
import { qosFieldNames, qosFields, type QosField } from './qos-rules.ts';
import type { QosBurst } from './qos.ts';

const fieldsByName: ReadonlyMap<string, QosField> = new Map(
  qosFields.map((field) => [qosFieldNames[field], field]),
);

/** `read-iops`; null for a name that there is not. */
export function qosFieldNamed(name: string): QosField | null {
  return fieldsByName.get(name) ?? null;
}

/**
 * What people write for one field: `5000`, `5k`, `100MiB`, `2x/30s`, `unlimited`, `off`. Throws
 * INVALID_ARGUMENT; `orElse` says what else may be written there.
 */
export function parseQosValue(field: QosField, text: string, orElse = ''): number | QosBurst {
  const name = qosFieldNames[field];
  if (field === 'burst') return parseBurst(text, orElse);
  if (field === 'weight') return parseQosCount(name, text, orElse);
  if (text === 'unlimited' || text === 'off') return 0;
  if (!field.toLowerCase().endsWith('bps')) {
    return parseQosCount(name, text.replace(/ ?iops$/i, ''), orElse);
  }
  let value: number;
  try {
    value = parseByteSize(text.replace(/\/s$/, ''));
  } catch {
    throw bytesInvalid(name, text, orElse);
  }
  if (value > 0) return value;
  throw bytesInvalid(name, text, orElse);
}

function bytesInvalid(name: string, text: string, orElse: string): StorError {
  return invalid(
    `${name}=${text} is not valid: write bytes per second, for example ${name}=100MiB, unlimited${orElse}`,
  );
}

/** `5000`, `5k`, `1.5M` */
export function parseQosCount(name: string, text: string, orElse = ''): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)([kM]?)$/.exec(text);
  const factor = match?.[2] === 'M' ? 1e6 : match?.[2] === 'k' ? 1_000 : 1;
  const count = match ? Number((Number(match[1]) * factor).toFixed(6)) : NaN;
  if (match && Number.isSafeInteger(count) && count > 0) return count;
  const example = name.endsWith('weight') ? `${name}=200` : `${name}=5000 or ${name}=5k, unlimited`;
  throw invalid(
    `${name}=${text} is not valid: write a whole number, for example ${example}${orElse}`,
  );
}

/** `2x/30s`; `off` is written down as one that saves nothing. */
function parseBurst(text: string, orElse: string): QosBurst {
  if (text === 'off') return { factor: 1, seconds: 1 };
  const match = /^([0-9]+(?:\.[0-9]+)?)x\/(.+)$/.exec(text);
  if (match) {
    try {
      return { factor: Number(match[1]), seconds: parseDurationMs(match[2] ?? '') / 1_000 };
    } catch {
      // said below
    }
  }
  throw invalid(
    `burst=${text} is not valid: write how many times the limit and for how long, for example burst=2x/30s, off${orElse}`,
  );
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
