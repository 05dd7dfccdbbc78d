import { StorError } from './errors.ts';

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 1024,
  kib: 1024,
  kb: 1000,
  m: 1024 ** 2,
  mib: 1024 ** 2,
  mb: 1000 ** 2,
  g: 1024 ** 3,
  gib: 1024 ** 3,
  gb: 1000 ** 3,
  t: 1024 ** 4,
  tib: 1024 ** 4,
  tb: 1000 ** 4,
};

/** Parses `20GiB`, `512M`, `1.5TiB`, `4096`. Throws INVALID_ARGUMENT with the units that exist. */
export function parseByteSize(text: string): number {
  const match = /^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$/.exec(text);
  const factor = match ? unitBytes[(match[2] ?? '').toLowerCase()] : undefined;
  if (!match || factor === undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `size ${JSON.stringify(text)} is not valid: write a number and a unit, for example 512MiB, 20GiB or 1.5TiB (KiB, MiB, GiB, TiB count in 1024; KB, MB, GB, TB in 1000)`,
    );
  }
  const bytes = Math.round(Number(match[1]) * factor);
  if (!Number.isSafeInteger(bytes)) {
    throw new StorError('INVALID_ARGUMENT', `size ${JSON.stringify(text)} is too large`);
  }
  return bytes;
}

/** `2147483648` -> `2GiB`, with at most one decimal. */
export function formatByteSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const rounded = Math.round(value * 10) / 10;
  return `${Number.isInteger(rounded) ? rounded.toFixed(0) : rounded.toFixed(1)}${units[unit] ?? 'B'}`;
}
