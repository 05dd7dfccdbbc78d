import type { ClusterSettings, Disk, Node } from '@stor/protocol';

/**
 * How large a new volume may be (bytes): each of its segments needs `replicas` different nodes, and no node
 * takes more than its disks may still be promised. An estimate: what else is created meanwhile, and rules of
 * placement, may leave less.
 */
export function availableBytes(
  nodes: readonly Node[],
  disks: readonly Disk[],
  need: { replicas: number; diskTag: string },
  settings: ClusterSettings,
): number {
  const usable = new Set(nodes.filter(isUsable).map(({ metadata }) => metadata.id));
  const rooms = new Map<string, number>();
  for (const disk of disks) {
    const { nodeId, tag } = disk.spec;
    if (!usable.has(nodeId) || (need.diskTag !== '' && tag !== need.diskTag)) continue;
    rooms.set(nodeId, (rooms.get(nodeId) ?? 0) + roomOf(disk, settings));
  }
  return largest([...rooms.values()], Math.max(1, need.replicas));
}

function isUsable({ spec, status }: Node): boolean {
  return (
    status.state === 'up' && !spec.cordoned && !spec.drain && !spec.evacuate && !spec.decommission
  );
}

/** What may still be promised on a disk, and nothing when it is too full to take a replica. */
function roomOf({ spec, status }: Disk, settings: ClusterSettings): number {
  if (status.state !== 'online' || spec.evacuate) return 0;
  const reserve = (status.capacityBytes * settings.repairReservePercent) / 100;
  if (status.freeBytes <= reserve) return 0;
  const limit = (status.capacityBytes / 100) * settings.overprovisionPercent;
  return Math.max(0, Math.floor(limit) - status.provisionedBytes);
}

/** The largest size of which every byte finds `copies` different nodes: sum(min(room, size)) >= copies * size. */
function largest(rooms: readonly number[], copies: number): number {
  let low = 0;
  let high = Math.floor(rooms.reduce((sum, room) => sum + room, 0) / copies);
  while (low < high) {
    const size = Math.ceil((low + high) / 2);
    const fits = rooms.reduce((sum, room) => sum + Math.min(room, size), 0) >= copies * size;
    if (fits) low = size;
    else high = size - 1;
  }
  return low;
}
