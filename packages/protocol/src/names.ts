import { StorError } from './errors.ts';

export const volumeNamePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const labelPattern = /^[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?$/;
const labelValuePattern = /^[A-Za-z0-9_.:/-]{0,128}$/;

/** Throws INVALID_ARGUMENT unless `name` may be a volume's name (and NBD export name). */
export function checkVolumeName(name: string): void {
  if (volumeNamePattern.test(name)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `volume name ${JSON.stringify(name)} is not valid: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit`,
  );
}

/** Throws INVALID_ARGUMENT unless the labels may be kept on a resource. */
export function checkLabels(labels: Readonly<Record<string, string>>): void {
  for (const [key, value] of Object.entries(labels)) {
    if (!labelPattern.test(key)) {
      throw new StorError('INVALID_ARGUMENT', `label key ${JSON.stringify(key)} is not valid`);
    }
    if (!labelValuePattern.test(value)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `value ${JSON.stringify(value)} of label ${key} is not valid: up to 128 letters, digits, '.', '_', ':', '/' or '-'`,
      );
    }
  }
}
