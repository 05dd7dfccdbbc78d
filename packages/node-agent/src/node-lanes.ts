import type {
  AgentDisk,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
  VolumePlaces,
} from '@stor/control-plane';
import {
  StorError,
  type AttachmentGrant,
  type DiskId,
  type NodeId,
  type PeerLanes,
  type QosClass,
  type ReplicaId,
  type ScrubOrder,
  type ScrubProgress,
  type SnapshotId,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import type { Clock, SocketTarget } from '@stor/runtime';
import { DiskLanes } from './core/lanes/disk-lanes.ts';
import { mergedCounters } from './core/lanes/merged-counters.ts';
import { TenantLanes, type TenantSpread } from './core/lanes/tenant-lanes.ts';
import { VolumeHomes } from './core/lanes/volume-homes.ts';
import type { LaneCounters, LaneDisk, LaneMethods, LaneTarget } from './lane/lane-protocol.ts';

export interface NodeLane {
  methods: LaneMethods;
  /** where it serves NBD for the other lanes of this node; known once it listens */
  address: SocketTarget;
}

/**
 * The lanes of a node as one: what the agent asks goes to the lane that has the disk, to the one that
 * is primary of the volume, or to all. Says which lane that is, and remembers it.
 */
export class NodeLanes {
  readonly #lanes: readonly NodeLane[];
  readonly #clock: Clock;
  readonly #disks: DiskLanes;
  readonly #homes: VolumeHomes;
  readonly #tenants = new TenantLanes();

  constructor(options: { nodeId: NodeId; lanes: readonly NodeLane[]; clock: Clock }) {
    const { nodeId, lanes, clock } = options;
    this.#lanes = lanes;
    this.#clock = clock;
    this.#disks = new DiskLanes(lanes.length);
    this.#homes = new VolumeHomes({
      nodeId,
      lanes: lanes.length,
      laneOf: (diskId) => this.#disks.of(diskId),
    });
  }

  // which lane a volume is on

  /** The volume's lane; `places` asks the control plane, when no lane has it. NOT_FOUND, UNAVAILABLE. */
  async route(name: string, places: () => Promise<VolumePlaces>): Promise<LaneTarget> {
    const lane =
      this.#homes.named(name) ?? this.#homes.choose(await places(), this.#clock.monotonicMs());
    return { lane, address: this.#at(lane).address };
  }

  /**
   * A lane was granted a volume: it is to be primary under it. UNAVAILABLE when the volume is another
   * lane's, which is told instead; STALE_EPOCH when the epoch was given back.
   */
  async granted(lane: number, grant: AttachmentGrant): Promise<AttachmentGrant> {
    const home = this.#homes.attach(grant, this.#clock.monotonicMs());
    if (home === lane) {
      await this.#noteTenant(home, grant);
      return grant;
    }
    // whether that lane can is told to whoever asks there
    void this.#attachOn(home, grant).catch(() => {});
    throw new StorError('UNAVAILABLE', `volume ${grant.name} is served by lane ${home} now`);
  }

  /** A lane gives an epoch back. Call it before anybody else is told. */
  released(volumeId: VolumeId, epoch: number): void {
    this.#homes.released(volumeId, epoch, this.#clock.monotonicMs());
    this.#noteDetached(volumeId);
  }

  attach(grant: AttachmentGrant): Promise<void> {
    let home: number;
    try {
      home = this.#homes.attach(grant, this.#clock.monotonicMs());
    } catch (error) {
      return Promise.reject(StorError.from(error));
    }
    return this.#attachOn(home, grant);
  }

  async #attachOn(lane: number, grant: AttachmentGrant): Promise<void> {
    try {
      await this.#noteTenant(lane, grant);
      await this.#at(lane).methods.attach(grant);
    } catch (error) {
      this.#homes.notAttached(grant.volumeId, grant.epoch, this.#clock.monotonicMs());
      this.#noteDetached(grant.volumeId);
      throw error;
    }
  }

  // what lanes divide among them

  /** Lanes that have to give something away know it before this resolves. */
  async #noteTenant(lane: number, settings: VolumeSettings): Promise<void> {
    const { volumeId, resourceVersion, qos } = settings;
    const tenant = qos?.tenant?.name ?? null;
    await this.#tellSpread(this.#tenants.attached(volumeId, { lane, tenant, resourceVersion }));
  }

  #noteDetached(volumeId: VolumeId): void {
    if (this.#homes.attachedOn(volumeId) !== null) return;
    // those that are left get more; a lane that has ended takes the agent down
    this.#tellSpread(this.#tenants.detached(volumeId)).catch(() => {});
  }

  async #tellSpread(spread: readonly TenantSpread[]): Promise<void> {
    for (const { tenant, lanes } of spread) {
      const told = lanes.map((lane) => this.#at(lane).methods.spreadTenant(tenant, lanes.length));
      await Promise.all(told);
    }
  }

  // of one volume

  detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    return this.#of(volumeId).detach(volumeId, epoch, ifIdle);
  }

  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    return this.#of(volumeId).handOver(volumeId, epoch);
  }

  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    return this.#of(volumeId).orderPrimary(volumeId, epoch, order);
  }

  async updateVolume(settings: VolumeSettings): Promise<void> {
    const lane = this.#homes.attachedOn(settings.volumeId);
    if (lane !== null) await this.#noteTenant(lane, settings);
    await this.#of(settings.volumeId).updateVolume(settings);
  }

  scrub(order: ScrubOrder): Promise<ScrubProgress | null> {
    return this.#of(order.volumeId).scrub(order);
  }

  // of one disk

  async openDisk(entry: LaneDisk): Promise<AgentDisk> {
    const lane = this.#disks.assign(entry.diskId);
    try {
      const disk = await this.#at(lane).methods.openDisk(entry);
      // a directory that was a disk already has a name of its own
      this.#disks.rename(entry.diskId, disk.diskId);
      return { ...disk, lane };
    } catch (error) {
      this.#disks.forget(entry.diskId);
      throw error;
    }
  }

  async closeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    await this.#with(diskId).closeDisk(diskId, lost);
    this.#disks.forget(diskId);
  }

  createReplica(diskId: DiskId, replica: NewReplica): Promise<void> {
    return this.#with(diskId).createReplica(diskId, replica);
  }

  async deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<void> {
    const own = this.#with(diskId);
    const volumeId = await own.deleteReplica(diskId, replicaId);
    if (volumeId === null) return;
    const others = this.#lanes.filter(({ methods }) => methods !== own);
    await Promise.all(others.map(({ methods }) => methods.forgetVolume(volumeId)));
  }

  dropSnapshots(
    diskId: DiskId,
    replicaId: ReplicaId,
    drops: SnapshotDrop[],
  ): Promise<SnapshotId[]> {
    return this.#with(diskId).dropSnapshots(diskId, replicaId, drops);
  }

  // of all lanes

  async disks(): Promise<AgentDisk[]> {
    const all = await this.#all((methods) => methods.disks());
    return all.flatMap((disks, lane) => disks.map((disk) => ({ ...disk, lane })));
  }

  async replicas(): Promise<LocalReplica[]> {
    return (await this.#all((methods) => methods.replicas())).flat();
  }

  async replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]> {
    return (await this.#all((methods) => methods.replicaSpace(volumeIds))).flat();
  }

  /** @default all of this node's */
  async liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]> {
    const all = await this.#all((methods) => methods.liveVolumes(volumeIds));
    const live = all.flatMap((volumes, lane) => volumes.map((volume) => ({ ...volume, lane })));
    if (this.#lanes.length === 1 || live.length === 0) return live;
    // a lane knows what its own disks hold
    const ids = live.map(({ volumeId }) => volumeId);
    const bytes = await this.#all((methods) => methods.allocatedBytes(ids));
    return live.map((volume) => ({
      ...volume,
      allocatedBytes: bytes.reduce((sum, each) => sum + (each[volume.volumeId] ?? 0), 0),
    }));
  }

  async counters(): Promise<LaneCounters> {
    return mergedCounters(await this.#all((methods) => methods.counters()));
  }

  async peersChanged(peers: PeerLanes[]): Promise<void> {
    await this.#all((methods) => methods.peersChanged(peers));
  }

  async updateQosClasses(classes: QosClass[]): Promise<void> {
    await this.#all((methods) => methods.updateQosClasses(classes));
  }

  async giveUp(): Promise<void> {
    await this.#all((methods) => methods.giveUp());
  }

  #all<T>(ask: (methods: LaneMethods) => Promise<T>): Promise<T[]> {
    return Promise.all(this.#lanes.map(({ methods }) => ask(methods)));
  }

  #of(volumeId: VolumeId): LaneMethods {
    return this.#at(this.#homes.of(volumeId)).methods;
  }

  #with(diskId: DiskId): LaneMethods {
    return this.#at(this.#disks.of(diskId)).methods;
  }

  #at(lane: number): NodeLane {
    const found = this.#lanes[lane];
    if (!found) throw new StorError('INTERNAL', `there is no lane ${lane}`);
    return found;
  }
}
