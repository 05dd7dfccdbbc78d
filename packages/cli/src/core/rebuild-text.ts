import { formatByteSize } from '@stor/protocol';
import type { Rebuild } from '@stor/protocol';
import { formatAge } from './duration.ts';

/** Width of the bar between its brackets, in characters. */
const barWidth = 20;

/** From 0 to 1; null while the bytes to compare are not known. */
export function rebuildFraction({ bytesTotal, bytesRemaining }: Rebuild): number | null {
  if (!(bytesTotal > 0)) return null;
  return Math.min(1, Math.max(0, 1 - bytesRemaining / bytesTotal));
}

/** `[=======>            ]  37%`, or empty when nothing is known. Says 100% only at the end. */
export function progressBar(fraction: number | null): string {
  if (fraction === null) return '';
  const filled = Math.floor(fraction * barWidth);
  const head = filled < barWidth && filled > 0 ? '>' : '';
  const bar = `${'='.repeat(filled - head.length)}${head}`.padEnd(barWidth);
  return `[${bar}] ${String(Math.floor(fraction * 100)).padStart(3)}%`;
}

export function formatRate(bytesPerSecond: number): string {
  return bytesPerSecond > 0 ? `${formatByteSize(bytesPerSecond)}/s` : '';
}

export function formatEta(etaMs: number | null): string {
  return etaMs === null ? '' : formatAge(Math.ceil(etaMs / 1000) * 1000);
}

/** One line about one rebuild, for logs. */
export function rebuildLine(rebuild: Rebuild): string {
  const { state, message, reason, node, source } = rebuild;
  const from = source === '' ? '' : ` from ${source}`;
  const why = message === '' ? '' : `: ${message}`;
  const facts = rebuildFacts(rebuild);
  return `${node} (${reason}) ${state}${from}${facts === '' ? '' : `, ${facts}`}${why}`;
}

/** What somebody waits for, after "waiting for". */
export function awaitedText(rebuild: Rebuild): string {
  const { state, message, reason, node } = rebuild;
  const facts = state === 'running' ? rebuildFacts(rebuild) : message;
  return `${node} (${reason})${facts === '' ? '' : `: ${facts}`}`;
}

function rebuildFacts(rebuild: Rebuild): string {
  const { state, bytesRemaining, bytesPerSecond, etaMs } = rebuild;
  const fraction = rebuildFraction(rebuild);
  const isRunning = state === 'running';
  return [
    fraction === null ? '' : `${Math.floor(fraction * 100)}%`,
    bytesRemaining > 0 ? `${formatByteSize(bytesRemaining)} left` : '',
    isRunning ? formatRate(bytesPerSecond) : '',
    isRunning && etaMs !== null ? `ready in ${formatEta(etaMs)}` : '',
  ]
    .filter((fact) => fact !== '')
    .join(', ');
}
