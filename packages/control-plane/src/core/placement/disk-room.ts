import { formatByteSize } from '@stor/protocol';
import type { ClusterSettings } from '@stor/protocol';
import type { DiskRecord } from '../../resources/records.ts';
import type { DiskUse } from './disk-use.ts';
import type { PlacementSubject } from './placement-board.ts';

/** A disk with less free space than this takes no new replica (bytes; smaller on small disks). */
const minFreeBytes = 64 * 1024 * 1024;
const minFreeShare = 0.05;

/** What a replica is placed for, and what it asks of a disk. */
export interface DiskNeed {
  /**
   * `new`: for a volume that is created or gets more replicas, which must leave the repair reserve
   * and keep within the over-provisioning limit; `repair`: in place of one that is or was promised
   */
  kind: 'new' | 'repair';
  /** what its clients may write into it at most */
  sizeBytes: number;
  /** what is copied into it soon */
  fillBytes: number;
  /** '': any */
  tag: string;
  /** the volume that it is for, whose rules hold; absent: only the disks count */
  subject?: PlacementSubject;
}

/** Why a disk or node takes no replica. */
export interface Refusal {
  /** follows the name of the node: `has ...`, `is ...` */
  reason: string;
  /** nothing but room is lacking */
  noSpace: boolean;
  /** for programs */
  code: string;
}

/** A replica of which only the place counts. */
export const anyNeed: DiskNeed = { kind: 'repair', sizeBytes: 0, fillBytes: 0, tag: '' };

type DiskSpace = Pick<DiskRecord, 'capacityBytes' | 'freeBytes'>;

/** Whether a disk takes new replicas, as far as its space goes. */
export function hasRoom(disk: DiskSpace): boolean {
  return disk.freeBytes > leastFreeBytes(disk);
}

function leastFreeBytes({ capacityBytes }: DiskSpace): number {
  return Math.min(minFreeBytes, capacityBytes * minFreeShare);
}

/** What placing new volumes leaves free on a disk (bytes). */
export function repairReserveBytes(disk: DiskSpace, settings: ClusterSettings): number {
  return Math.floor((disk.capacityBytes * settings.repairReservePercent) / 100);
}

/** What may be promised on a disk (bytes). */
export function provisionLimitBytes(disk: DiskSpace, settings: ClusterSettings): number {
  return Math.floor((disk.capacityBytes / 100) * settings.overprovisionPercent);
}

/** It takes no replica, and those that it has move elsewhere. */
export function isDraining(disk: DiskRecord | undefined): boolean {
  return disk !== undefined && (disk.evacuate === true || disk.trouble !== undefined);
}

/** Why the disk takes no replica of this need (`has ...`, `is ...`), or null when it does. */
export function refusalOf(
  disk: DiskRecord,
  use: DiskUse,
  need: DiskNeed,
  settings: ClusterSettings,
): Refusal | null {
  if (need.tag !== '' && disk.tag !== need.tag) {
    return { reason: `has no disk with tag ${need.tag}`, noSpace: false, code: 'tag' };
  }
  if (disk.trouble !== undefined) {
    const reason = `has only disk ${disk.path}, which had errors`;
    return { reason, noSpace: false, code: 'disk-trouble' };
  }
  if (disk.evacuate === true) {
    const reason = `has only disk ${disk.path}, which is being evacuated`;
    return { reason, noSpace: false, code: 'evacuating' };
  }
  const freeBytes = Math.max(0, disk.freeBytes - use.comingBytes);
  const left = freeBytes - need.fillBytes;
  if (left <= leastFreeBytes(disk)) return tight(noRoom(disk, use, need));
  if (need.kind === 'repair') return null;
  const reserve = repairReserveBytes(disk, settings);
  if (left <= reserve) {
    const kept = `${formatByteSize(reserve)} of them (${settings.repairReservePercent}%) are kept to rebuild lost replicas`;
    return tight(`${noRoom(disk, use, need)}, and ${kept}`);
  }
  const limit = provisionLimitBytes(disk, settings);
  const promised = use.provisionedBytes + need.sizeBytes;
  if (promised <= limit) return null;
  const sums = `${formatByteSize(promised)} would be promised on ${disk.path}, and ${formatByteSize(limit)} may be (${settings.overprovisionPercent}% of its ${formatByteSize(disk.capacityBytes)})`;
  return tight(`has no disk with room: ${sums}`);
}

function tight(reason: string): Refusal {
  return { reason, noSpace: true, code: 'no-space' };
}

function noRoom(disk: DiskRecord, use: DiskUse, need: DiskNeed): string {
  const coming =
    use.comingBytes > 0
      ? `, ${formatByteSize(use.comingBytes)} of them for what is on its way`
      : '';
  const wanted =
    need.fillBytes > 0 ? `, and ${formatByteSize(need.fillBytes)} are to be copied` : '';
  return `has no disk with room (${formatByteSize(disk.freeBytes)} free${coming}${wanted})`;
}
