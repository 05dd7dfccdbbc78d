import { parseTimeMs, StorError, timeUnitMs } from '@stor/protocol';

export { parseDurationMs } from '@stor/protocol';

/** A time of a volume's policy: as `parseDurationMs`, and 0 is allowed. Throws INVALID_ARGUMENT. */
export function parsePolicyTimeMs(flag: string, text: string, maxMs: number): number {
  const ms = text === 'none' ? 0 : parseTimeMs(text);
  if (!(ms >= 0) || ms > maxMs) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${flag} ${JSON.stringify(text)} is not valid: write a number and a unit, for example 30s, 10m or 2h (0 to ${formatWait(maxMs)})`,
    );
  }
  return ms;
}

/** `600000` -> `10m`: exact, in the largest unit that gives a whole number. */
export function formatWait(ms: number): string {
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = timeUnitMs[unit] ?? 1;
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
