import { formatByteSize } from '@stor/protocol';
import type { Disk, DiskInspection, DiskReplicaView, EvacuationPlan, Pool } from '@stor/protocol';
import { renderSheet, renderTable, type Column } from './core/table.ts';
import { formatLabels, formatTime } from './resource-views.ts';

/** Disks with the name of their node (in JSON too), which the resource knows by id only. */
export type DiskRow = Disk & { node: string };

export const diskColumns: Column<DiskRow>[] = [
  { title: 'NODE', cell: (disk) => disk.node },
  { title: 'PATH', cell: (disk) => disk.spec.device || disk.spec.path },
  { title: 'TAG', cell: (disk) => disk.spec.tag },
  { title: 'STATE', cell: diskState },
  { title: 'SIZE', cell: (disk) => formatByteSize(disk.status.capacityBytes), right: true },
  { title: 'USED', cell: (disk) => formatByteSize(disk.status.usedBytes), right: true },
  { title: 'RESERVED', cell: (disk) => formatByteSize(disk.status.reservedBytes), right: true },
  { title: 'FREE', cell: (disk) => formatByteSize(disk.status.freeBytes), right: true },
  { title: 'SPACE', cell: (disk) => spaceText(disk.status.space) },
  { title: 'REPLICAS', cell: (disk) => String(disk.status.replicas), right: true },
  {
    title: 'PROMISED',
    cell: (disk) => formatByteSize(disk.status.provisionedBytes),
    right: true,
    wide: true,
  },
  { title: 'LANE', cell: (disk) => String(disk.status.lane), right: true, wide: true },
  { title: 'ID', cell: (disk) => disk.metadata.id, wide: true },
  { title: 'DIRECTORY', cell: (disk) => disk.spec.path, wide: true },
  { title: 'LABELS', cell: (disk) => formatLabels(disk.metadata.labels), wide: true },
  { title: 'CAPACITY', cell: capacityText, wide: true },
  { title: 'MESSAGE', cell: (disk) => disk.status.message, wide: true },
];

/** `20000 requests/s, 500MiB/s may be guaranteed`; '' when there is no bound. */
export function capacityText({ spec }: Disk): string {
  const { iopsCapacity, bpsCapacity } = spec;
  const parts = [
    iopsCapacity === undefined ? '' : `${iopsCapacity} requests/s`,
    bpsCapacity === undefined ? '' : `${formatByteSize(bpsCapacity)}/s`,
  ].filter((part) => part !== '');
  return parts.length === 0 ? '' : `${parts.join(', ')} may be guaranteed`;
}

/** `1500 requests/s, 20MiB/s`; '' for nothing. */
function guaranteedText({ guaranteed }: DiskInspection): string {
  const { iops = 0, bps = 0 } = guaranteed ?? {};
  const parts = [
    iops === 0 ? '' : `${iops} requests/s`,
    bps === 0 ? '' : `${formatByteSize(bps)}/s`,
  ].filter((part) => part !== '');
  return parts.join(', ');
}

function diskState({ spec, status }: Disk): string {
  return spec.evacuate && status.state === 'online' ? 'evacuating' : status.state;
}

function spaceText(space: Disk['status']['space']): string {
  return space === 'nearly-full' ? 'nearly full' : space;
}

const replicaColumns: Column<DiskReplicaView>[] = [
  { title: 'VOLUME', cell: (replica) => replica.volume },
  { title: 'SEGMENT', cell: (replica) => String(replica.segment), right: true },
  { title: 'REPLICA', cell: (replica) => replica.id },
  { title: 'STATE', cell: ({ state, leaving }) => (leaving ? `${state}, leaving` : state) },
  { title: 'SIZE', cell: (replica) => formatByteSize(replica.sizeBytes), right: true },
  { title: 'USED', cell: (replica) => formatByteSize(replica.allocatedBytes), right: true },
  { title: 'OTHER COPIES', cell: (replica) => String(replica.otherCopies), right: true },
];

export function diskSheet(inspection: DiskInspection): string {
  const { disk, replicas, next, advice } = inspection;
  const { metadata, spec, status } = disk;
  const { message } = status;
  const sheet = renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['State', message === '' ? diskState(disk) : `${diskState(disk)}: ${message}`],
    ['Device', spec.device],
    ['Tag', spec.tag],
    ['Labels', formatLabels(metadata.labels)],
    ['Size', formatByteSize(status.capacityBytes)],
    ['Used', `${formatByteSize(status.usedBytes)} by ${countText(status.replicas)}`],
    ['Reserved', formatByteSize(status.reservedBytes)],
    ['Free', `${formatByteSize(status.freeBytes)} (${spaceText(status.space)})`],
    ['Promised', formatByteSize(status.provisionedBytes)],
    ['Guaranteed', guaranteedText(inspection)],
    ['Capacity', capacityText(disk)],
    ['Added', formatTime(metadata.createdAtMs)],
  ]);
  const table =
    replicas.length === 0
      ? ''
      : `\n${renderTable(replicas, replicaColumns, { wide: false, headers: true })}`;
  return `${sheet}${table}${listText('next', next)}${listText('what to do', advice)}`;
}

function listText(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : `\n${title}:\n${lines.map((line) => `  ${line}\n`).join('')}`;
}

type Move = EvacuationPlan['moves'][number];

const moveColumns: Column<Move>[] = [
  { title: 'VOLUME', cell: (move) => move.volume },
  { title: 'SEGMENT', cell: (move) => String(move.segment), right: true },
  { title: 'REPLICA', cell: (move) => move.replicaId },
  { title: 'TO', cell: (move) => `${move.toNode}:${move.toDisk}` },
  { title: 'BYTES', cell: (move) => formatByteSize(move.bytes), right: true },
];

/** What an evacuation would do, for people. */
export function evacuationText({ disk, moves, blocked, bytes }: EvacuationPlan): string {
  const { name } = disk.metadata;
  if (moves.length + blocked.length === 0) return `disk ${name}: no replica has to move\n`;
  const table =
    moves.length === 0 ? '' : renderTable(moves, moveColumns, { wide: false, headers: true });
  const stays = blocked.map(
    ({ volume, replicaId, reason }) =>
      `cannot move: replica ${replicaId} of volume ${volume}: ${reason}\n`,
  );
  const sum = `${moves.length} of ${countText(moves.length + blocked.length)} can move, about ${formatByteSize(bytes)} are copied\n`;
  return `${table}${stays.join('')}${sum}`;
}

export const poolColumns: Column<Pool>[] = [
  { title: 'TAG', cell: (pool) => pool.tag },
  { title: 'DISKS', cell: ({ disks }) => `${disks.online}/${disks.total}` },
  { title: 'NODES', cell: (pool) => String(pool.nodes), right: true },
  { title: 'SIZE', cell: (pool) => formatByteSize(pool.capacityBytes), right: true },
  { title: 'USED', cell: (pool) => formatByteSize(pool.usedBytes), right: true },
  { title: 'FREE', cell: (pool) => formatByteSize(pool.freeBytes), right: true },
  { title: 'SPACE', cell: (pool) => spaceText(pool.space) },
  { title: 'PROMISED', cell: (pool) => formatByteSize(pool.provisionedBytes), right: true },
  { title: 'RATIO', cell: (pool) => ratioText(pool), right: true },
];

/** What was promised, as a share of what there is. */
function ratioText({ provisionedBytes, capacityBytes }: Pool): string {
  return capacityBytes === 0 ? '' : `${Math.round((provisionedBytes / capacityBytes) * 100)}%`;
}

export function poolSheet(
  pool: Pool,
  settings: { overprovisionPercent: number; repairReservePercent: number },
): string {
  const limit = `${formatByteSize(pool.provisionLimitBytes)} (${settings.overprovisionPercent}%)`;
  const sheet = renderSheet([
    ['Tag', pool.tag],
    ['Disks', `${pool.disks.online} of ${pool.disks.total} take replicas, on ${pool.nodes} nodes`],
    ['Size', formatByteSize(pool.capacityBytes)],
    ['Used', formatByteSize(pool.usedBytes)],
    ['Free', `${formatByteSize(pool.freeBytes)} (${spaceText(pool.space)})`],
    ['Reserved', formatByteSize(pool.reservedBytes)],
    [
      'Repair reserve',
      `${formatByteSize(pool.repairReserveBytes)} of the free space (${settings.repairReservePercent}%)`,
    ],
    ['Promised', `${formatByteSize(pool.provisionedBytes)}, ${ratioText(pool)} of the size`],
    ['May be promised', limit],
  ]);
  return `${sheet}${listText('outlook', pool.outlook)}`;
}

export function countText(replicas: number): string {
  return replicas === 1 ? '1 replica' : `${replicas} replicas`;
}
