import { formatByteSize } from '@stor/protocol';
import type { Rebuild } from '@stor/protocol';
import { formatEta, formatRate, progressBar, rebuildFraction } from './core/rebuild-text.ts';
import type { Column } from './core/table.ts';

export const rebuildColumns: Column<Rebuild>[] = [
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'TARGET', cell: ({ node }) => node },
  { title: 'SOURCE', cell: ({ source }) => source },
  { title: 'REASON', cell: ({ reason }) => reason },
  { title: 'STATE', cell: ({ state }) => state },
  { title: 'PROGRESS', cell: (rebuild) => progressBar(rebuildFraction(rebuild)) },
  {
    title: 'LEFT',
    cell: ({ bytesRemaining }) => (bytesRemaining > 0 ? formatByteSize(bytesRemaining) : ''),
    right: true,
  },
  {
    title: 'RATE',
    cell: ({ state, bytesPerSecond }) => (state === 'running' ? formatRate(bytesPerSecond) : ''),
    right: true,
  },
  {
    title: 'ETA',
    cell: ({ state, etaMs }) => (state === 'running' ? formatEta(etaMs) : ''),
    right: true,
  },
  {
    title: 'COPIED',
    cell: ({ bytesCopied }) => formatByteSize(bytesCopied),
    right: true,
    wide: true,
  },
  { title: 'REPLICA', cell: ({ replicaId }) => replicaId, wide: true },
  { title: 'MESSAGE', cell: ({ message }) => message },
];

/** `volume/replica`: what `-q` and `-o name` print of a rebuild, which has no id of its own. */
export function rebuildId({ volume, replicaId }: Rebuild): string {
  return `${volume}/${replicaId}`;
}

/** In one order, so that a watch does not jump: by volume, then by replica. */
export function sortRebuilds(rebuilds: readonly Rebuild[]): Rebuild[] {
  return [...rebuilds].sort((a, b) => (rebuildId(a) < rebuildId(b) ? -1 : 1));
}
