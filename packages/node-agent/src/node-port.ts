import type {
  AgentDisk,
  AgentPort,
  DiskOrder,
  HostAnswer,
  HostOrder,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
} from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import type {
  AttachmentGrant,
  DiskId,
  PeerLanes,
  QosClass,
  ReplicaId,
  ScrubOrder,
  ScrubProgress,
  SnapshotId,
  VolumeId,
  VolumeSettings,
} from '@stor/protocol';
import type { AgentHost } from './host/agent-host.ts';
import type { NodeDisks } from './node-disks.ts';
import type { NodeLanes } from './node-lanes.ts';

/** What the control plane asks of this node, carried to its lanes. */
export class NodePort implements AgentPort {
  readonly #lanes: NodeLanes;
  readonly #disks: NodeDisks;
  #leaseUntilMs = 0;
  #host: Pick<AgentHost, 'order'> | null = null;

  constructor(lanes: NodeLanes, disks: NodeDisks) {
    this.#lanes = lanes;
    this.#disks = disks;
  }

  /** until when the node's lease holds, on the monotonic clock (ms) */
  get leaseUntilMs(): number {
    return this.#leaseUntilMs;
  }

  /** From now on orders about devices of this host are carried out. */
  setHost(host: Pick<AgentHost, 'order'>): void {
    this.#host = host;
  }

  async orderHost(order: HostOrder, signal: AbortSignal): Promise<HostAnswer> {
    if (this.#host) return this.#host.order(order, signal);
    throw new StorError('FAILED_PRECONDITION', 'this agent makes no devices, or not yet');
  }

  disks(): Promise<AgentDisk[]> {
    return this.#lanes.disks();
  }

  addDisk(order: DiskOrder): Promise<AgentDisk> {
    return this.#disks.add(order);
  }

  removeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    return this.#disks.remove(diskId, lost);
  }

  createReplica(diskId: DiskId, replica: NewReplica): Promise<void> {
    return this.#lanes.createReplica(diskId, replica);
  }

  dropSnapshots(
    diskId: DiskId,
    replicaId: ReplicaId,
    drops: SnapshotDrop[],
  ): Promise<SnapshotId[]> {
    return this.#lanes.dropSnapshots(diskId, replicaId, drops);
  }

  replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]> {
    return this.#lanes.replicaSpace(volumeIds);
  }

  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    return this.#lanes.orderPrimary(volumeId, epoch, order);
  }

  deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<void> {
    return this.#lanes.deleteReplica(diskId, replicaId);
  }

  replicas(): Promise<LocalReplica[]> {
    return this.#lanes.replicas();
  }

  attach(grant: AttachmentGrant): Promise<void> {
    return this.#lanes.attach(grant);
  }

  detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    return this.#lanes.detach(volumeId, epoch, ifIdle);
  }

  liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]> {
    return this.#lanes.liveVolumes(volumeIds);
  }

  updateVolume(settings: VolumeSettings): Promise<void> {
    return this.#lanes.updateVolume(settings);
  }

  updateQosClasses(classes: QosClass[]): Promise<void> {
    return this.#lanes.updateQosClasses(classes);
  }

  scrub(order: ScrubOrder): Promise<ScrubProgress | null> {
    return this.#lanes.scrub(order);
  }

  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    return this.#lanes.handOver(volumeId, epoch);
  }

  peersChanged(peers: PeerLanes[]): void {
    // A lane that has ended takes the agent down; there is nobody to tell then.
    this.#lanes.peersChanged(peers).catch(() => {});
  }

  nodeLeaseUntil(deadlineMonotonicMs: number): void {
    this.#leaseUntilMs = deadlineMonotonicMs;
  }
}
