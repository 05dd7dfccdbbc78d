import { formatByteSize, StorError } from '@stor/protocol';
import type { DiskId, VolumeId } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { keptVolumes } from '../placement/disk-use.ts';
import { placedSegments } from '../volume/segment-size.ts';
import { qosOf } from './volume-qos.ts';

/** What is guaranteed in one second; 0: nothing. */
export interface Guarantee {
  iops: number;
  bps: number;
}

export const noGuarantee: Guarantee = { iops: 0, bps: 0 };

/** What the volume is guaranteed, by itself or by its policy. */
export function guaranteeOf(volume: Pick<StoredVolume, 'spec'>, state: ClusterState): Guarantee {
  const { minIops = 0, minBps = 0 } = qosOf(volume, state).qos;
  return { iops: minIops, bps: minBps };
}

type Capacity = Pick<DiskRecord, 'iopsCapacity' | 'bpsCapacity'>;

/** Somebody has said what may be guaranteed on it. */
export function isBounded({ iopsCapacity, bpsCapacity }: Capacity): boolean {
  return iopsCapacity !== undefined || bpsCapacity !== undefined;
}

/**
 * What is guaranteed on each disk. A volume counts in full on every disk that has a replica of it, once
 * for all its segments: all its writes go to each replica, and all of them may go to one segment. Those
 * in the trash count too, for they come back with it.
 */
export class GuaranteeBook {
  readonly #onDisk = new Map<DiskId, Map<VolumeId, Guarantee>>();

  /** `instead`: a volume that is about to be written, in place of what the state says of it. */
  constructor(state: ClusterState, instead: StoredVolume | null = null) {
    for (const { value } of keptVolumes(state)) {
      if (value.metadata.id !== instead?.metadata.id) this.#add(value, state);
    }
    if (instead) this.#add(instead, state);
  }

  #add(volume: StoredVolume, state: ClusterState): void {
    const guarantee = guaranteeOf(volume, state);
    for (const { replicas } of placedSegments(volume)) {
      for (const replica of replicas) {
        if (replica.state !== 'failed') this.note(replica.diskId, volume.metadata.id, guarantee);
      }
    }
  }

  /** A replica of the volume lies there, or is about to. */
  note(diskId: DiskId, volumeId: VolumeId, guarantee: Guarantee): void {
    if (guarantee.iops === 0 && guarantee.bps === 0) return;
    const volumes = this.#onDisk.get(diskId) ?? new Map<VolumeId, Guarantee>();
    this.#onDisk.set(diskId, volumes.set(volumeId, guarantee));
  }

  /** To all volumes but one. */
  on(diskId: DiskId, except: VolumeId = ''): Guarantee {
    const sum = { ...noGuarantee };
    for (const [id, { iops, bps }] of this.#onDisk.get(diskId) ?? []) {
      if (id === except) continue;
      sum.iops += iops;
      sum.bps += bps;
    }
    return sum;
  }

  /** What the disk lacks to guarantee so much more to a volume (`has ...`); null: nothing. */
  lack(disk: DiskRecord, volumeId: VolumeId, wanted: Guarantee): string | null {
    const others = this.on(disk.id, volumeId);
    const { iopsCapacity = Infinity, bpsCapacity = Infinity } = disk;
    const { path } = disk;
    if (wanted.iops > 0 && others.iops + wanted.iops > iopsCapacity) {
      return `has no disk that can guarantee ${wanted.iops} requests/s (on ${path} ${others.iops} of ${iopsCapacity} are guaranteed to others)`;
    }
    if (wanted.bps > 0 && others.bps + wanted.bps > bpsCapacity) {
      const [want, have, most] = [wanted.bps, others.bps, bpsCapacity].map(formatByteSize);
      return `has no disk that can guarantee ${want}/s (on ${path} ${have}/s of ${most}/s are guaranteed to others)`;
    }
    return null;
  }
}

/**
 * FAILED_PRECONDITION when the volume, as it is about to be written, is guaranteed more than a disk of
 * its replicas can keep. `before`: what was guaranteed up to now; who asks for no more is not refused.
 */
export function checkGuarantee(
  record: StoredVolume,
  state: ClusterState,
  before: Guarantee = noGuarantee,
): void {
  const wanted = guaranteeOf(record, state);
  if (wanted.iops <= before.iops && wanted.bps <= before.bps) return;
  const disks = new Map<DiskId, DiskRecord>();
  for (const { replicas } of placedSegments(record)) {
    for (const { diskId, state: shown } of replicas) {
      const disk = state.disks.get(diskId)?.value;
      if (disk && shown !== 'failed' && isBounded(disk)) disks.set(diskId, disk);
    }
  }
  if (disks.size === 0) return;
  const book = new GuaranteeBook(state, record);
  const lacks = [...disks.values()].flatMap((disk) => {
    const lack = book.lack(disk, record.metadata.id, wanted);
    return lack === null ? [] : [`node ${nodeName(state, disk.nodeId)} ${lack}`];
  });
  if (lacks.length === 0) return;
  const { name } = record.metadata;
  throw new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} cannot be guaranteed that: ${lacks.join('; ')}; ask for less, move a replica ("storctl volume move ${name}"), or give the disk more ("storctl disk set")`,
  );
}
