import { formatByteSize, spaceLevel } from '@stor/protocol';
import type { Disk, NodeId, Pool } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { settingsOf } from '../placement/cluster-limits.ts';
import { provisionLimitBytes, repairReserveBytes } from '../placement/disk-room.ts';
import { diskUses } from '../placement/disk-use.ts';
import { describeDisk } from './describe-disk.ts';

/** The name of the disks that were given no tag. */
export const untagged = 'any';

/** Disks by tag: what they hold, what was promised, and what fails first. */
export function describePools(state: ClusterState): Pool[] {
  const uses = diskUses(state);
  const byTag = new Map<string, Disk[]>();
  for (const disk of state.disks.values()) {
    const tag = disk.value.tag === '' ? untagged : disk.value.tag;
    byTag.set(tag, [...(byTag.get(tag) ?? []), describeDisk(disk, state, uses)]);
  }
  return [...byTag]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([tag, disks]) => describePool(state, tag, disks));
}

function describePool(state: ClusterState, tag: string, disks: Disk[]): Pool {
  const settings = settingsOf(state);
  // what does not answer, or is to be emptied, offers nothing
  const online = disks.filter(({ spec, status }) => status.state === 'online' && !spec.evacuate);
  const sum = (of: (disk: Disk) => number): number =>
    online.reduce((all, disk) => all + of(disk), 0);
  const capacityBytes = sum(({ status }) => status.capacityBytes);
  const freeBytes = sum(({ status }) => status.freeBytes);
  const reservedBytes = sum(({ status }) => status.reservedBytes);
  const pool: Pool = {
    tag,
    disks: { total: disks.length, online: online.length },
    nodes: new Set(online.map(({ spec }) => spec.nodeId)).size,
    capacityBytes,
    usedBytes: sum(({ status }) => status.usedBytes),
    freeBytes,
    reservedBytes,
    repairReserveBytes: sum(({ status }) => repairReserveBytes(status, settings)),
    provisionedBytes: sum(({ status }) => status.provisionedBytes),
    provisionLimitBytes: sum(({ status }) => provisionLimitBytes(status, settings)),
    space: spaceLevel({ capacityBytes, reservedBytes, freeBytes }),
    outlook: [],
  };
  return { ...pool, outlook: outlookOf(state, pool, online, disks) };
}

function outlookOf(state: ClusterState, pool: Pool, online: Disk[], all: Disk[]): string[] {
  const lines: string[] = [];
  for (const { metadata, status, spec } of all) {
    if (status.state !== 'online') lines.push(`disk ${metadata.name} is ${status.state}`);
    else if (spec.evacuate) lines.push(`disk ${metadata.name} is being evacuated`);
  }
  for (const { metadata, status } of online) {
    if (status.space === 'full' || status.space === 'nearly-full') {
      const level = status.space === 'full' ? 'full' : 'nearly full';
      lines.push(`disk ${metadata.name} is ${level}: ${formatByteSize(status.freeBytes)} free`);
    }
  }
  const lost = heaviestNode(online);
  if (lost) lines.push(nodeLossText(state, lost, online));
  if (pool.provisionedBytes > pool.capacityBytes) {
    const more = formatByteSize(pool.provisionedBytes - pool.capacityBytes);
    lines.push(
      `${more} more are promised to volumes than the disks have: watch what is free, at the end writes get "no space"`,
    );
  }
  return lines;
}

function heaviestNode(online: Disk[]): { nodeId: NodeId; usedBytes: number } | null {
  const used = new Map<NodeId, number>();
  for (const { spec, status } of online) {
    used.set(spec.nodeId, (used.get(spec.nodeId) ?? 0) + status.usedBytes);
  }
  const [first] = [...used].sort((a, b) => b[1] - a[1]);
  return first && first[1] > 0 ? { nodeId: first[0], usedBytes: first[1] } : null;
}

function nodeLossText(
  state: ClusterState,
  { nodeId, usedBytes }: { nodeId: NodeId; usedBytes: number },
  online: Disk[],
): string {
  const others = online.filter(({ spec }) => spec.nodeId !== nodeId);
  const free = others.reduce((sum, { status }) => sum + status.freeBytes, 0);
  const node = nodeName(state, nodeId);
  const what = `if node ${node} is lost, ${formatByteSize(usedBytes)} are to be rebuilt, and the other nodes have ${formatByteSize(free)} free`;
  return free > usedBytes ? what : `${what}: that does not fit`;
}
