import { StorError } from '@stor/protocol';

/** Checked reading of decoded JSON: each returns the value or throws PROTOCOL naming the field. */
function bad(name: string, wanted: string): StorError {
  return new StorError('PROTOCOL', `cluster store record: ${name} is not ${wanted}`);
}

export function countField(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw bad(name, 'a whole number from 0');
  }
  return value;
}

export function textField(value: unknown, name: string): string {
  if (typeof value !== 'string') throw bad(name, 'a string');
  return value;
}

export function listField(value: unknown, name: string): unknown[] {
  if (!Array.isArray(value)) throw bad(name, 'a list');
  return value as unknown[];
}

export function objectField(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw bad(name, 'an object');
  }
  return value as Record<string, unknown>;
}
