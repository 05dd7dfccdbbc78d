import { spaceLevel } from '@stor/protocol';
import type { Disk, DiskId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { DiskRecord } from '../../resources/records.ts';
import { unused } from '../placement/disk-use.ts';
import type { DiskUse } from '../placement/disk-use.ts';

/** What `disk ls` shows: a disk is offline while its node is down. `uses`: see `diskUses`. */
export function describeDisk(
  disk: Versioned<DiskRecord>,
  state: ClusterState,
  uses: ReadonlyMap<DiskId, DiskUse>,
): Disk {
  const { value } = disk;
  const node = state.nodes.get(value.nodeId)?.value.name ?? value.nodeId;
  const { replicas, provisionedBytes } = uses.get(value.id) ?? unused;
  const shown = shownState(value, isUp(state, value.nodeId));
  const { capacityBytes, usedBytes, freeBytes, reservedBytes = 0 } = value;
  const space = { capacityBytes, reservedBytes, freeBytes };
  return {
    metadata: {
      id: value.id,
      name: `${node}:${value.path}`,
      labels: value.labels ?? {},
      createdAtMs: value.createdAtMs,
      resourceVersion: disk.modRevision,
    },
    spec: {
      nodeId: value.nodeId,
      path: value.path,
      tag: value.tag,
      device: value.device ?? '',
      evacuate: value.evacuate ?? false,
      ...(value.iopsCapacity === undefined ? {} : { iopsCapacity: value.iopsCapacity }),
      ...(value.bpsCapacity === undefined ? {} : { bpsCapacity: value.bpsCapacity }),
    },
    status: {
      state: shown,
      message: messageOf(value, shown, node, isUp(state, value.nodeId)),
      capacityBytes,
      usedBytes,
      freeBytes,
      reservedBytes,
      provisionedBytes,
      replicas,
      space: shown === 'failed' ? 'unknown' : spaceLevel(space),
      lane: value.lane ?? 0,
    },
  };
}

function shownState(disk: DiskRecord, isNodeUp: boolean): Disk['status']['state'] {
  if (disk.state === 'failed') return 'failed';
  if (disk.state !== 'online' || !isNodeUp) return 'offline';
  return disk.trouble === undefined ? 'online' : 'failing';
}

function messageOf(
  disk: DiskRecord,
  shown: Disk['status']['state'],
  node: string,
  isNodeUp: boolean,
): string {
  if (shown === 'offline' && !isNodeUp) return `node ${node} is down`;
  if (shown === 'failing') return disk.trouble ?? '';
  return disk.message;
}
