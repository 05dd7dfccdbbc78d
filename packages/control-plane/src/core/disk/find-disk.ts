import { StorError } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { DiskRecord } from '../../resources/records.ts';

/**
 * A disk by its id, by NODE:PATH or NODE/PATH (the node by name or id), or by a path that only one
 * node has. NOT_FOUND; INVALID_ARGUMENT when several have it.
 */
export function findDisk(state: ClusterState, name: string): Versioned<DiskRecord> {
  const byId = state.disks.get(name);
  if (byId) return byId;
  const disks = [...state.disks.values()];
  const found = disks.filter(({ value }) => namesOf(value, state).includes(name));
  const [first, ...others] = found;
  if (first && others.length === 0) return first;
  if (first) {
    const names = found.map(({ value }) => fullName(value, state)).join(', ');
    throw new StorError(
      'INVALID_ARGUMENT',
      `several disks have the path ${name}: name one of ${names}`,
    );
  }
  throw new StorError(
    'NOT_FOUND',
    `there is no disk ${JSON.stringify(name.slice(0, 256))}: give its id, NODE:PATH or its path; "storctl disk ls -o wide" shows them`,
  );
}

/** `n1:/mnt/nvme0` */
export function fullName(disk: DiskRecord, state: ClusterState): string {
  return `${nodeName(state, disk.nodeId)}:${disk.path}`;
}

function namesOf(disk: DiskRecord, state: ClusterState): string[] {
  const { nodeId, path, device } = disk;
  const nodes = [nodeId, nodeName(state, nodeId)];
  return [path, ...(device === undefined ? [] : [device])].flatMap((place) => [
    place,
    ...nodes.flatMap((node) => [`${node}:${place}`, `${node}/${place}`]),
  ]);
}
