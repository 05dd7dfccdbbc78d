import { StorError } from './errors.ts';

export const volumeNamePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
/** A snapshot's name, within its volume; written with it as `db@monday`. */
export const snapshotNamePattern = volumeNamePattern;
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

/** Throws INVALID_ARGUMENT unless `name` may be a snapshot's name. */
export function checkSnapshotName(name: string): void {
  if (snapshotNamePattern.test(name)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `snapshot name ${JSON.stringify(name)} is not valid: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit`,
  );
}

/** Throws INVALID_ARGUMENT unless `name` may be a policy's name. */
export function checkPolicyName(name: string): void {
  if (volumeNamePattern.test(name)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `policy name ${JSON.stringify(name.slice(0, 128))} is not valid: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit`,
  );
}

/** Throws INVALID_ARGUMENT unless `name` may be the value of a volume's label `tenant`. */
export function checkTenantName(name: string): void {
  if (name !== '' && labelValuePattern.test(name)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `tenant ${JSON.stringify(name.slice(0, 128))} is not valid: it is the value of a label, 1 to 128 letters, digits, '.', '_', ':', '/' or '-'`,
  );
}

/** A volume, and one of its snapshots: both names, or ids. */
export interface SnapshotName {
  volume: string;
  snapshot: string;
}

/** Splits `db@monday`. Null when there is no `@`: no volume has one in its name. */
export function splitSnapshotName(text: string): SnapshotName | null {
  const at = text.indexOf('@');
  if (at < 0) return null;
  return { volume: text.slice(0, at), snapshot: text.slice(at + 1) };
}

/** As splitSnapshotName; throws INVALID_ARGUMENT unless it is `VOLUME@SNAPSHOT`, both valid names. */
export function parseSnapshotName(text: string): SnapshotName {
  const name = splitSnapshotName(text);
  if (!name) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(text)} names no snapshot: write VOLUME@SNAPSHOT, for example db@monday`,
    );
  }
  checkVolumeName(name.volume);
  checkSnapshotName(name.snapshot);
  return name;
}

export function joinSnapshotName(volume: string, snapshot: string): string {
  return `${volume}@${snapshot}`;
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
