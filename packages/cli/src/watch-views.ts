import type { Disk, Node, Snapshot, Volume } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import type { Column } from './core/table.ts';
import { diskColumns } from './disk-views.ts';
import type { DiskRow } from './disk-views.ts';
import { nodeColumns, volumeColumns, volumeSheet } from './resource-views.ts';
import { snapshotColumns } from './snapshot-views.ts';
import type { WatchView } from './watch-objects.ts';

/** Columns of what no record says. */
const unrecorded = new Set(['USED', 'SERVING', 'OWN']);

export function drawn<Row extends { metadata: { id: string; name: string } }>(
  { print }: CommandContext,
  rows: Row[],
  columns: Column<Row>[],
): string {
  const text: string[] = [];
  print.into({ write: (part) => text.push(part) }).list(rows, columns);
  return text.join('');
}

export function volumesView(context: CommandContext): WatchView<'volume'> {
  const columns = volumeColumns(context.nowMs).filter(({ title }) => !unrecorded.has(title));
  return { kind: 'volume', line: volumeLine, draw: (rows) => drawn(context, rows, columns) };
}

export function volumeView({ metadata }: Volume): WatchView<'volume'> {
  const draw = (volumes: Volume[]): string =>
    volumes[0] ? volumeSheet(volumes[0]) : `volume ${metadata.name} was deleted\n`;
  return { kind: 'volume', name: metadata.id, line: volumeLine, draw };
}

function volumeLine({ spec, status }: Volume): string {
  const inSync = status.replicas.filter(({ state }) => state === 'in-sync').length;
  const where = status.primary === null ? 'attached nowhere' : `primary ${status.primary.node}`;
  const why = status.message === '' ? '' : `; ${status.message}`;
  const segments = new Set(status.replicas.map(({ segment }) => segment)).size;
  return `${status.health}, ${inSync} of ${spec.replicas * segments} replicas in sync, ${where}${why}`;
}

export function nodesView(context: CommandContext): WatchView<'node'> {
  const columns = nodeColumns(context.nowMs);
  return {
    kind: 'node',
    line: ({ status }: Node) => `${status.state}, ${status.raftRole}, version ${status.version}`,
    draw: (rows) => drawn(context, rows, columns),
  };
}

/** `names`: of nodes by id, as they are known; `nodeId` absent: the disks of all. */
export function disksView(
  context: CommandContext,
  names: ReadonlyMap<string, string>,
  nodeId: string | undefined,
): WatchView<'disk'> {
  const nodeOf = ({ metadata, spec }: Disk): string =>
    names.get(spec.nodeId) ?? (/^([^:]+):/.exec(metadata.name)?.[1] || spec.nodeId);
  return {
    kind: 'disk',
    ...(nodeId === undefined ? {} : { wanted: ({ spec }: Disk) => spec.nodeId === nodeId }),
    line: ({ status }) => {
      const why = status.message === '' ? '' : `: ${status.message}`;
      return `${status.state}, ${status.replicas} replicas, space ${status.space}${why}`;
    },
    draw: (disks) => {
      const rows = disks.map((disk): DiskRow => ({ ...disk, node: nodeOf(disk) }));
      return drawn(context, rows, diskColumns);
    },
  };
}

/** `volumeId` absent: those of all volumes. */
export function snapshotsView(
  context: CommandContext,
  volumeId: string | undefined,
): WatchView<'snapshot'> {
  const columns = snapshotColumns(context.nowMs).filter(({ title }) => !unrecorded.has(title));
  return {
    kind: 'snapshot',
    ...(volumeId === undefined
      ? {}
      : { wanted: ({ spec }: Snapshot) => spec.volumeId === volumeId }),
    line: ({ status }) => status.state,
    draw: (rows) => drawn(context, rows, columns),
  };
}
