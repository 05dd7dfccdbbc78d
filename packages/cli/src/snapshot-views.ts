import { formatByteSize } from '@stor/protocol';
import type { Snapshot, TrashedVolume } from '@stor/protocol';
import { formatAge } from './core/duration.ts';
import { renderSheet, type Column } from './core/table.ts';
import { formatLabels, formatTime } from './resource-views.ts';

export function snapshotColumns(nowMs: number): Column<Snapshot>[] {
  return [
    { title: 'NAME', cell: ({ metadata }) => metadata.name },
    { title: 'SIZE', cell: ({ spec }) => formatByteSize(spec.sizeBytes), right: true },
    { title: 'OWN', cell: ownText, right: true },
    { title: 'STATE', cell: ({ status }) => status.state },
    { title: 'AGE', cell: (snapshot) => ageText(snapshot, nowMs) },
    { title: 'LABELS', cell: ({ metadata }) => formatLabels(metadata.labels) },
    { title: 'ID', cell: ({ metadata }) => metadata.id, wide: true },
    { title: 'TAKEN', cell: ({ metadata }) => formatTime(metadata.createdAtMs), wide: true },
    { title: 'PAUSED', cell: ({ status }) => formatPause(status.pausedMs), wide: true },
    { title: 'GROUP', cell: ({ spec }) => spec.groupId, wide: true },
    { title: 'MESSAGE', cell: ({ status }) => status.message, wide: true },
  ];
}

export function snapshotSheet(snapshot: Snapshot): string {
  const { metadata, spec, status } = snapshot;
  return renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['Volume', `${status.volume} (${spec.volumeId})`],
    ['State', status.message === '' ? status.state : `${status.state}: ${status.message}`],
    ['Size', formatByteSize(spec.sizeBytes)],
    ['Own', ownText(snapshot) && `${ownText(snapshot)} on each replica: what removing it frees`],
    ['Taken', formatTime(metadata.createdAtMs)],
    ['I/O paused', formatPause(status.pausedMs)],
    ['Group', spec.groupId],
    ['Labels', formatLabels(metadata.labels)],
  ]);
}

/** Nobody knows when an orphan was taken. */
function ageText({ metadata, status }: Snapshot, nowMs: number): string {
  return status.state === 'orphan' ? '-' : formatAge(nowMs - metadata.createdAtMs);
}

/** `3.5 ms` */
export function formatPause(ms: number): string {
  return `${Math.round(ms * 10) / 10} ms`;
}

function ownText({ status }: Snapshot): string {
  return status.ownBytes === null ? '' : formatByteSize(status.ownBytes);
}

/** Leaders count the time themselves, and may come to its end a little later. */
function goesIn(leftMs: number): string {
  return leftMs <= 0 ? 'soon' : formatAge(leftMs);
}

export function trashColumns(nowMs: number): Column<TrashedVolume>[] {
  return [
    { title: 'NAME', cell: ({ metadata }) => metadata.name },
    { title: 'SIZE', cell: ({ spec }) => formatByteSize(spec.sizeBytes), right: true },
    {
      title: 'USED',
      cell: ({ status }) =>
        status.allocatedBytes === null ? '' : formatByteSize(status.allocatedBytes),
      right: true,
    },
    { title: 'SNAPSHOTS', cell: ({ status }) => `${status.snapshots}`, right: true },
    { title: 'DELETED', cell: ({ status }) => `${formatAge(nowMs - status.deletedAtMs)} ago` },
    { title: 'GOES IN', cell: ({ status }) => goesIn(status.keptUntilMs - nowMs) },
    { title: 'ID', cell: ({ metadata }) => metadata.id },
    { title: 'NODES', cell: ({ status }) => status.nodes.join(','), wide: true },
    { title: 'LABELS', cell: ({ metadata }) => formatLabels(metadata.labels), wide: true },
  ];
}
