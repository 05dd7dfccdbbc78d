import type {
  AgentDisk,
  AgentPort,
  DiskOrder,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
} from '@stor/control-plane';
import type {
  AttachmentGrant,
  DiskId,
  NodeId,
  ReplicaId,
  ScrubOrder,
  ScrubProgress,
  SnapshotId,
  VolumeId,
  VolumeSettings,
} from '@stor/protocol';
import type { LaneMethods } from './lane/lane-protocol.ts';
import type { NodeDisks } from './node-disks.ts';

/** What the control plane asks of this node, carried to its lane. */
export class NodePort implements AgentPort {
  readonly #lane: LaneMethods;
  readonly #disks: NodeDisks;
  #leaseUntilMs = 0;

  constructor(lane: LaneMethods, disks: NodeDisks) {
    this.#lane = lane;
    this.#disks = disks;
  }

  /** until when the node's lease holds, on the monotonic clock (ms) */
  get leaseUntilMs(): number {
    return this.#leaseUntilMs;
  }

  disks(): Promise<AgentDisk[]> {
    return this.#lane.disks();
  }

  addDisk(order: DiskOrder): Promise<AgentDisk> {
    return this.#disks.add(order);
  }

  removeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    return this.#disks.remove(diskId, lost);
  }

  createReplica(diskId: DiskId, replica: NewReplica): Promise<void> {
    return this.#lane.createReplica(diskId, replica);
  }

  dropSnapshots(
    diskId: DiskId,
    replicaId: ReplicaId,
    drops: SnapshotDrop[],
  ): Promise<SnapshotId[]> {
    return this.#lane.dropSnapshots(diskId, replicaId, drops);
  }

  replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]> {
    return this.#lane.replicaSpace(volumeIds);
  }

  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    return this.#lane.orderPrimary(volumeId, epoch, order);
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

  liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]> {
    return this.#lane.liveVolumes(volumeIds);
  }

  updateVolume(settings: VolumeSettings): Promise<void> {
    return this.#lane.updateVolume(settings);
  }

  scrub(order: ScrubOrder): Promise<ScrubProgress | null> {
    return this.#lane.scrub(order);
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
