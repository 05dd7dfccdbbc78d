import { isAbsolute } from 'node:path';
import type { AgentDisk, AgentPort, LiveVolume, LocalReplica } from '@stor/control-plane';
import {
  StorError,
  makeId,
  type AttachmentGrant,
  type DiskId,
  type NodeId,
  type ReplicaId,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import type { Random } from '@stor/runtime';
import type { DataFolder } from './data-folder.ts';
import type { LaneMethods } from './lane/lane-protocol.ts';

/** What the control plane asks of this node, carried to its lane. */
export class NodePort implements AgentPort {
  readonly #lane: LaneMethods;
  readonly #folder: DataFolder;
  readonly #random: Random;
  #leaseUntilMs = 0;

  constructor(lane: LaneMethods, folder: DataFolder, random: Random) {
    this.#lane = lane;
    this.#folder = folder;
    this.#random = random;
  }

  /** until when the node's lease holds, on the monotonic clock (ms) */
  get leaseUntilMs(): number {
    return this.#leaseUntilMs;
  }

  disks(): Promise<AgentDisk[]> {
    return this.#lane.disks();
  }

  /** The disk is made first and noted after: a crash between leaves an empty disk, which a retry takes. */
  async addDisk(path: string, tag: string): Promise<AgentDisk> {
    if (!isAbsolute(path)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `disk path ${JSON.stringify(path)} is not absolute: give the full path of a directory on the node`,
      );
    }
    if (this.#folder.disks().some((disk) => disk.path === path)) {
      throw new StorError('ALREADY_EXISTS', `the node already has a disk at ${path}`);
    }
    const diskId = makeId('d', this.#random.bytes(8));
    const disk = await this.#lane.openDisk({ diskId, path, tag, create: true });
    this.#folder.addDisk({ diskId: disk.diskId, path, tag });
    return disk;
  }

  createReplica(
    diskId: DiskId,
    replica: { replicaId: ReplicaId; volumeId: VolumeId; segment: number; sizeBytes: number },
  ): Promise<void> {
    return this.#lane.createReplica(diskId, replica);
  }

  deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<void> {
    return this.#lane.deleteReplica(diskId, replicaId);
  }

  replicas(): Promise<LocalReplica[]> {
    return this.#lane.replicas();
  }

  attach(grant: AttachmentGrant): Promise<void> {
    return this.#lane.attach(grant);
  }

  detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    return this.#lane.detach(volumeId, epoch, ifIdle);
  }

  liveVolumes(): Promise<LiveVolume[]> {
    return this.#lane.liveVolumes();
  }

  updateVolume(settings: VolumeSettings): Promise<void> {
    return this.#lane.updateVolume(settings);
  }

  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    return this.#lane.handOver(volumeId, epoch);
  }

  peersChanged(peers: { nodeId: NodeId; host: string; port: number }[]): void {
    // A lane that has ended takes the agent down; there is nobody to tell then.
    this.#lane.peersChanged(peers).catch(() => {});
  }

  nodeLeaseUntil(deadlineMonotonicMs: number): void {
    this.#leaseUntilMs = deadlineMonotonicMs;
  }
}
