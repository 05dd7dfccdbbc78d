import { formatByteSize } from '@stor/protocol';
import type { DiskInspection } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { DiskRecord } from '../../resources/records.ts';
import { settingsOf } from '../placement/cluster-limits.ts';
import { hasRoom, provisionLimitBytes, repairReserveBytes } from '../placement/disk-room.ts';
import { diskUses } from '../placement/disk-use.ts';
import { GuaranteeBook } from '../qos/guarantees.ts';
import { describeDisk } from './describe-disk.ts';
import { leftoversOn, replicasOn, viewReplica } from './disk-replicas.ts';
import { planEvacuation } from './plan-evacuation.ts';

/** What is on a disk, what becomes of it, and what a person can do. */
export function inspectDisk(state: ClusterState, disk: Versioned<DiskRecord>): DiskInspection {
  const { value } = disk;
  const shown = describeDisk(disk, state, diskUses(state));
  const replicas = replicasOn(state, value.id).map((placed) => viewReplica(state, placed));
  const guaranteed = new GuaranteeBook(state).on(value.id);
  const inspection: DiskInspection = { disk: shown, replicas, guaranteed, next: [], advice: [] };
  switch (shown.status.state) {
    case 'failed':
      failedText(inspection);
      break;
    case 'offline':
      offlineText(inspection);
      break;
    case 'failing':
      drainingText(inspection, state, value, 'it had errors');
      break;
    case 'online':
      if (value.evacuate === true) drainingText(inspection, state, value, 'it is being evacuated');
      else spaceText(inspection, state, value);
  }
  return inspection;
}

function failedText({ disk, replicas, next, advice }: DiskInspection): void {
  const { id } = disk.metadata;
  if (replicas.length === 0) {
    next.push('nothing lies on it any more');
    advice.push(`run "storctl disk rm ${id} --lost", replace the disk, and add the new one`);
    return;
  }
  const last = replicas.filter(({ otherCopies }) => otherCopies === 0);
  const others = replicas.length - last.length;
  if (others > 0) {
    next.push(
      `${count(others)} replaced on other disks at once, as far as they have room ("storctl volume explain" says how far each is)`,
    );
  }
  for (const { volume } of last) {
    next.push(
      `volume ${volume}: no other replica is in sync and reachable, so it cannot be rebuilt`,
    );
  }
  if (last.length > 0) {
    advice.push('start the nodes that have the other replicas, or restore those volumes');
  }
  advice.push(`when no replica is left, run "storctl disk rm ${id} --lost"`);
}

function offlineText({ disk, replicas, next, advice }: DiskInspection): void {
  if (replicas.length > 0) {
    next.push(
      `its replicas come back with it; each is replaced elsewhere after its volume's replacement wait`,
    );
  }
  advice.push(
    disk.status.message.startsWith('node ')
      ? 'start the agent of its node'
      : 'mount or mend the disk and start the agent of its node again',
  );
}

function drainingText(
  { disk, replicas, next, advice }: DiskInspection,
  state: ClusterState,
  record: DiskRecord,
  why: string,
): void {
  const { id } = disk.metadata;
  const left = leftoversOn(state, id).length;
  if (replicas.length === 0) {
    next.push(left === 0 ? `it is empty (${why})` : `${count(left)} still being deleted`);
    if (left === 0) advice.push(`run "storctl disk rm ${id}"`);
    return;
  }
  next.push(
    `because ${why}, it takes no replica, and those that it has move elsewhere: ${count(replicas.length)} left`,
  );
  const { blocked } = planEvacuation(state, record.id);
  for (const { volume, reason } of blocked) {
    next.push(`the replica of volume ${volume} can go nowhere: ${reason}`);
  }
  if (blocked.length > 0) advice.push('add a node or a disk ("storctl disk add"), or make room');
  advice.push('"storctl rebuild ls" shows how far it is');
}

function spaceText(
  { disk, next, advice }: DiskInspection,
  state: ClusterState,
  record: DiskRecord,
): void {
  const settings = settingsOf(state);
  const { space, freeBytes, provisionedBytes } = disk.status;
  const reserve = repairReserveBytes(record, settings);
  const limit = provisionLimitBytes(record, settings);
  if (!hasRoom(record)) next.push('it takes no more replicas: too little is free');
  else if (freeBytes <= reserve) {
    next.push(
      `new volumes are placed elsewhere: the last ${formatByteSize(reserve)} are kept for rebuilds`,
    );
  }
  if (provisionedBytes >= limit) {
    next.push(
      `new volumes are placed elsewhere: ${formatByteSize(provisionedBytes)} are promised, ${formatByteSize(limit)} may be`,
    );
  }
  if (space === 'full' || space === 'nearly-full') {
    next.push('when nothing is free, writes that need new space get "no space" (ENOSPC)');
    advice.push(
      'delete or trim volumes, add a disk, or move replicas away ("storctl volume move")',
    );
  }
}

function count(replicas: number): string {
  return replicas === 1 ? '1 replica is' : `${replicas} replicas are`;
}
