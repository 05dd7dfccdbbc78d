import { StorError } from './errors.ts';

/** Versions of a protocol that one side speaks, each from `min` to `max`. */
export interface VersionRange {
  min: number;
  max: number;
}

/** What two sides of one protocol are called when they cannot talk. */
export interface VersionParties {
  /** such as `the peer protocol` */
  protocol: string;
  own: string;
  other: string;
}

/**
 * The highest version that both speak: both sides come to the same without asking. PROTOCOL when there
 * is none, which says what is to be upgraded (details: `own`, `other`).
 */
export function commonVersion(
  own: VersionRange,
  other: VersionRange,
  parties: VersionParties,
): number {
  const version = Math.min(own.max, other.max);
  if (version >= Math.max(own.min, other.min)) return version;
  const older = own.max < other.min ? parties.own : parties.other;
  const newer = older === parties.own ? parties.other : parties.own;
  const { min } = own.max < other.min ? other : own;
  throw new StorError(
    'PROTOCOL',
    `${parties.other} speaks ${rangeText(other)} of ${parties.protocol}, ${parties.own} ${rangeText(own)}: ` +
      `upgrade ${older} to a Stor that speaks version ${min}, or let ${newer} go back to one that speaks an older one`,
    { details: { own: formatVersions(own), other: formatVersions(other) } },
  );
}

/** `3-4`, as it is sent */
export function formatVersions({ min, max }: VersionRange): string {
  return `${min}-${max}`;
}

/** PROTOCOL when the text is no range. */
export function parseVersions(text: string): VersionRange {
  const match = /^([1-9][0-9]{0,5})-([1-9][0-9]{0,5})$/.exec(text);
  const range = { min: Number(match?.[1]), max: Number(match?.[2]) };
  if (match && range.min <= range.max) return range;
  throw new StorError('PROTOCOL', `${JSON.stringify(text.slice(0, 32))} is no range of versions`);
}

function rangeText({ min, max }: VersionRange): string {
  return min === max ? `version ${min}` : `versions ${min} to ${max}`;
}
