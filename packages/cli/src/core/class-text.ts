import { parseByteSize, parseQosCount, qosClassNames, StorError } from '@stor/protocol';
import type { QosClassChange } from '@stor/protocol';
import { orNone } from './qos-text.ts';

const fields = ['weight', 'iops', 'bps'] as const;
type Field = (typeof fields)[number];

/** `rebuild.weight=20,rebuild.bps=100MiB,scrub.bps=none`. Throws INVALID_ARGUMENT. */
export function parseClasses(texts: readonly string[]): QosClassChange[] {
  const changes = new Map<string, QosClassChange>();
  const words = texts.flatMap((text) => text.split(',')).map((word) => word.trim());
  for (const word of words) {
    const match = /^([a-z]+)\.([a-z]+)=(.*)$/.exec(word);
    const [, name = '', field = '', text = ''] = match ?? [];
    if (!isClass(name) || !isField(field)) throw notKnown(word);
    const change = changes.get(name) ?? { name };
    if (change[field] !== undefined) {
      throw invalid(`--qos-class names ${name}.${field} twice: say it once`);
    }
    change[field] = parseValue(`${name}.${field}`, field, text.trim());
    changes.set(name, change);
  }
  return [...changes.values()];
}

function isClass(name: string): boolean {
  return qosClassNames.some((each) => each === name);
}

function isField(field: string): field is Field {
  return fields.some((each) => each === field);
}

/** 0 takes it back: the default weight, no limit. */
function parseValue(name: string, field: Field, text: string): number {
  if (text === 'none' || text === '-') return 0;
  if (field !== 'bps') return parseQosCount(name, text, orNone);
  try {
    return parseByteSize(text.replace(/\/s$/, ''));
  } catch {
    throw invalid(
      `${name}=${text} is not valid: write bytes per second, for example ${name}=100MiB, or none to take it back`,
    );
  }
}

function notKnown(word: string): StorError {
  return invalid(
    `--qos-class ${JSON.stringify(word)} is not valid: write CLASS.NAME=VALUE,... with ${qosClassNames.join(', ')} and ${fields.join(', ')}, for example rebuild.bps=100MiB`,
  );
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
