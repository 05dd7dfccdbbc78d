import { StorError } from '@stor/protocol';

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
/** Node's timers take at most 2^31-1 ms. */
const maxDurationMs = 2 ** 31 - 1;

/** Parses `30s`, `5m`, `500ms`, `1h`; a bare number is seconds. Throws INVALID_ARGUMENT. */
export function parseDurationMs(text: string): number {
  const ms = parseTime(text);
  if (!(ms > 0) || ms > maxDurationMs) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `time ${JSON.stringify(text)} is not valid: write a number above 0 and a unit, for example 500ms, 30s or 5m (at most 24 days)`,
    );
  }
  return ms;
}

/** A time of a volume's policy: as `parseDurationMs`, and 0 is allowed. Throws INVALID_ARGUMENT. */
export function parsePolicyTimeMs(flag: string, text: string, maxMs: number): number {
  const ms = text === 'none' ? 0 : parseTime(text);
  if (!(ms >= 0) || ms > maxMs) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${flag} ${JSON.stringify(text)} is not valid: write a number and a unit, for example 30s, 10m or 2h (0 to ${formatWait(maxMs)})`,
    );
  }
  return ms;
}

/** NaN when the text is no time. */
function parseTime(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?$/.exec(text);
  return match ? Math.round(Number(match[1]) * (unitMs[match[2] ?? 's'] ?? NaN)) : NaN;
}

/** `600000` -> `10m`: exact, in the largest unit that gives a whole number. */
export function formatWait(ms: number): string {
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = unitMs[unit] ?? 1;
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return ms === 0 ? '0s' : `${ms}ms`;
}

/** `90061000` -> `1d1h`: the two largest units, as tables show ages. */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3_600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) return '0s';
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${unit}`)
    .join('');
}
