import { StorError } from './errors.ts';

export const timeUnitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
/** Node's timers take at most 2^31-1 ms. */
const maxDurationMs = 2 ** 31 - 1;

/** Parses `30s`, `5m`, `500ms`, `1h`; a bare number is seconds. NaN when the text is no time. */
export function parseTimeMs(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?$/.exec(text);
  return match ? Math.round(Number(match[1]) * (timeUnitMs[match[2] ?? 's'] ?? NaN)) : NaN;
}

/** As above, above 0. Throws INVALID_ARGUMENT. */
export function parseDurationMs(text: string): number {
  const ms = parseTimeMs(text);
  if (!(ms > 0) || ms > maxDurationMs) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `time ${JSON.stringify(text)} is not valid: write a number above 0 and a unit, for example 500ms, 30s or 5m (at most 24 days)`,
    );
  }
  return ms;
}
