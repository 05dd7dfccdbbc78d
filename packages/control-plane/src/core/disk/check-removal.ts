import { StorError } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord } from '../../resources/records.ts';
import { leftoversOn, replicasOn, trashText } from './disk-replicas.ts';
import { fullName } from './find-disk.ts';

/** What lies on a disk is named up to this number. */
const namedReplicas = 5;

/**
 * FAILED_PRECONDITION unless the disk may go: no volume has a replica on it. `lost`: it cannot be
 * asked any more, so what was to be deleted there is given up.
 */
export function checkRemoval(state: ClusterState, disk: DiskRecord, lost: boolean): void {
  const name = fullName(disk, state);
  const all = replicasOn(state, disk.id);
  const held = all.filter(({ volume }) => !state.trash.has(volume.metadata.id));
  const trashed = all.find(({ volume }) => state.trash.has(volume.metadata.id));
  if (held.length === 0 && trashed) {
    throw precondition(`disk ${name} has a replica of ${trashText(state, trashed.volume)}`);
  }
  if (held.length > 0) {
    const volumes = [...new Set(held.map(({ volume }) => volume.metadata.name))];
    const shown = volumes.slice(0, namedReplicas).join(', ');
    const more = volumes.length > namedReplicas ? `, ... (${volumes.length} volumes)` : '';
    const works = disk.state === 'online';
    const advice = works
      ? `run "storctl disk evacuate ${disk.id}" first`
      : `they are replaced elsewhere when a disk has room and another replica is in sync: see "storctl disk inspect ${disk.id}"`;
    throw precondition(`disk ${name} has replicas of ${shown}${more}: ${advice}`);
  }
  if (lost) {
    if (disk.state === 'online' && isUp(state, disk.nodeId)) {
      throw precondition(
        `disk ${name} is online, so it is not lost: run "storctl disk rm ${disk.id}" without --lost`,
      );
    }
    return;
  }
  if (!isUp(state, disk.nodeId)) {
    throw precondition(
      `node ${nodeName(state, disk.nodeId)} of disk ${name} is down: start its agent, or give --lost when the disk never comes back`,
    );
  }
  if (disk.state !== 'online') {
    throw precondition(
      `disk ${name} is ${disk.state}: give --lost when it never comes back (its replicas are replaced already)`,
    );
  }
  const left = leftoversOn(state, disk.id).length;
  if (left > 0) {
    throw precondition(
      `disk ${name} still deletes ${left} ${left === 1 ? 'replica' : 'replicas'}: try again in a moment`,
    );
  }
}

function precondition(message: string): StorError {
  return new StorError('FAILED_PRECONDITION', message);
}
