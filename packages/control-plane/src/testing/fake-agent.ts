import { chunkBytes, segmentSizeBytes, StorError } from '@stor/protocol';
import type {
  AttachmentGrant,
  DiskId,
  NodeId,
  PeerLanes,
  QosClass,
  ReplicaId,
  ScrubOrder,
  ScrubProgress,
  SnapshotId,
  VolumeId,
  VolumeSettings,
} from '@stor/protocol';
import type {
  AgentDisk,
  AgentPort,
  ChangedExtent,
  ControlPlanePort,
  DiskOrder,
  LiveThrottle,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
} from '../agent-port.ts';
import type { HostAnswer, HostOrder } from '../host-order.ts';

interface FakeReplica {
  replicaId: ReplicaId;
  volumeId: VolumeId;
  diskId: DiskId;
  segment: number;
  sizeBytes: number;
  /** stands for its bytes */
  image: string;
  snapshots: Map<SnapshotId, { state: 'prepared' | 'ready'; image: string }>;
  failure?: string;
}

/**
 * A node agent without disks or sockets: keeps replicas and attachments in memory, and does at once
 * what it is asked. Like the real one it releases through the control plane when it detaches.
 */
export class FakeAgent implements AgentPort {
  readonly diskList: AgentDisk[] = [];
  readonly replicaList = new Map<ReplicaId, FakeReplica>();
  readonly attached = new Map<VolumeId, { grant: AttachmentGrant; connections: number }>();
  peers: PeerLanes[] = [];
  leaseUntilMs = 0;
  qosClasses: QosClass[] = [];
  /** what the clients of its volumes wait for, by volume */
  readonly throttles = new Map<VolumeId, LiveThrottle>();
  /** the control plane that releases go to */
  control: Pick<ControlPlanePort, 'release' | 'proposeSet'> | null = null;
  /**
   * When set, it brings replicas in sync and takes leaving ones out, at once, as a primary does;
   * it says which nodes can be reached.
   */
  reaches: ((nodeId: NodeId) => boolean) | null = null;
  /** when set, creating a replica fails with it */
  createError: StorError | null = null;
  /** when set, attaching fails with it */
  attachError: StorError | null = null;
  /** the agents whose replicas its primaries reach */
  everybody: () => FakeAgent[] = () => [this];
  /** orders to its primaries, as `type volume` */
  readonly orders: string[] = [];
  /** runs before each of them; what it throws is their answer */
  onOrder: (order: PrimaryOrder, volumeId: VolumeId) => Promise<void> | void = () => {};
  /** volumes that are held, and by which token */
  readonly holds = new Map<VolumeId, string>();
  /** how long a hold lasts, as its release says (ms) */
  heldMs = 1;
  /** what its host was asked about devices, and what it answers; null: it makes none */
  readonly hostOrders: HostOrder[] = [];
  onHostOrder: ((order: HostOrder) => HostAnswer) | null = null;
  /** while set, creating a replica waits for it */
  createGate: Promise<void> | null = null;

  static withDisk(diskId: DiskId, freeBytes = 100 * 2 ** 30): FakeAgent {
    const agent = new FakeAgent();
    agent.diskList.push(fakeDisk(diskId, `/disks/${diskId}`, '', freeBytes));
    return agent;
  }

  async orderHost(order: HostOrder): Promise<HostAnswer> {
    this.hostOrders.push(order);
    if (this.onHostOrder) return this.onHostOrder(order);
    throw new StorError('FAILED_PRECONDITION', 'this agent makes no devices');
  }

  async disks(): Promise<AgentDisk[]> {
    return this.diskList.map((disk) => ({ ...disk }));
  }

  async addDisk({ path, tag, labels }: DiskOrder): Promise<AgentDisk> {
    if (this.diskList.some((disk) => disk.path === path)) {
      throw new StorError('ALREADY_EXISTS', `the node already has a disk at ${path}`);
    }
    const id = `d-${String(this.diskList.length).padStart(16, 'f')}`;
    const disk = { ...fakeDisk(id, path, tag), labels };
    this.diskList.push(disk);
    return disk;
  }

  async removeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    const found = [...this.replicaList.values()].filter((each) => each.diskId === diskId);
    if (found.length > 0 && !lost) {
      throw new StorError('FAILED_PRECONDITION', `disk ${diskId} holds replicas`);
    }
    const at = this.diskList.findIndex((disk) => disk.diskId === diskId);
    if (at >= 0) this.diskList.splice(at, 1);
    for (const { replicaId } of found) this.replicaList.delete(replicaId);
  }

  async createReplica(diskId: DiskId, replica: NewReplica): Promise<void> {
    if (this.createGate) await this.createGate;
    if (this.createError) throw this.createError;
    const { replicaId, volumeId, segment, sizeBytes, cloneOf } = replica;
    const source = cloneOf && this.replicaList.get(cloneOf.replicaId);
    const origin = cloneOf && source?.snapshots.get(cloneOf.snapshotId);
    if (cloneOf && origin?.state === 'prepared')
      throw new StorError(
        'FAILED_PRECONDITION',
        'the snapshot is prepared: wait until it is ready',
      );
    if (cloneOf && (!origin || source?.diskId !== diskId)) {
      throw new StorError('NOT_FOUND', `no snapshot ${cloneOf.snapshotId} on disk ${diskId}`);
    }
    const image = origin?.image ?? '';
    const made = { replicaId, volumeId, diskId, segment, sizeBytes, image, snapshots: new Map() };
    this.replicaList.set(replicaId, made);
  }

  async dropSnapshots(
    _diskId: DiskId,
    replicaId: ReplicaId,
    drops: SnapshotDrop[],
  ): Promise<SnapshotId[]> {
    const snapshots = this.replicaList.get(replicaId)?.snapshots;
    const isKept = ({ id, neverReady }: SnapshotDrop): boolean =>
      neverReady && snapshots?.get(id)?.state === 'ready';
    const kept = drops.filter(isKept).map(({ id }) => id);
    for (const { id } of drops) if (!kept.includes(id)) snapshots?.delete(id);
    return kept;
  }

  async replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]> {
    return [...this.replicaList.values()]
      .filter(({ volumeId }) => volumeIds.includes(volumeId))
      .map(({ replicaId, volumeId, snapshots, sizeBytes }) => ({
        replicaId,
        volumeId,
        allocatedBytes: 4096,
        snapshotBytes: 1024 * snapshots.size,
        reclaimableBytes: 512,
        snapshots: [...snapshots].map(([id, { state }]) => ({
          id,
          ownBytes: 1024,
          state,
          sizeBytes,
        })),
      }));
  }

  async orderPrimary(
    volumeId: VolumeId,
    epoch: number,
    order: PrimaryOrder,
  ): Promise<PrimaryAnswer> {
    this.orders.push(`${order.type} ${volumeId}`);
    await this.onOrder(order, volumeId);
    const held = this.attached.get(volumeId);
    if (held?.grant.epoch !== epoch) {
      throw new StorError('STALE_EPOCH', `not primary of ${volumeId} at epoch ${epoch}`);
    }
    const answer = { pausedMs: 0, intact: true, extents: [] };
    switch (order.type) {
      case 'resize': {
        const { segmentBytes = order.sizeBytes } = held.grant;
        for (const replica of this.membersOf(volumeId)) {
          const wanted = segmentSizeBytes(order.sizeBytes, segmentBytes, replica.segment);
          replica.sizeBytes = Math.max(replica.sizeBytes, wanted);
        }
        return answer;
      }
      case 'flush':
      case 'seal':
        return answer;
      case 'take':
        this.#prepare(volumeId, order.snapshotId);
        return { ...answer, pausedMs: this.heldMs };
      case 'hold':
        this.holds.set(volumeId, order.token);
        return answer;
      case 'prepare':
        if (this.holds.get(volumeId) !== order.token)
          throw new StorError('FAILED_PRECONDITION', 'the hold is over');
        this.#prepare(volumeId, order.snapshotId);
        return answer;
      case 'release': {
        const intact = this.holds.get(volumeId) === order.token;
        this.holds.delete(volumeId);
        return { ...answer, intact, pausedMs: this.heldMs };
      }
      case 'confirm':
        for (const { snapshots } of this.membersOf(volumeId)) {
          const known = snapshots.get(order.snapshotId);
          if (known) known.state = 'ready';
        }
        return answer;
      case 'drop':
        for (const { snapshots } of this.membersOf(volumeId)) snapshots.delete(order.snapshotId);
        return answer;
      case 'rollback':
        this.#rollBack(held, order);
        return answer;
      case 'changes':
        return { ...answer, extents: this.#changes(volumeId, order) };
    }
  }

  /** As the real one: clients wait until the record does not name it any more. */
  #rollBack(
    held: { grant: AttachmentGrant; connections: number },
    { id, snapshotId, force }: PrimaryOrder & { type: 'rollback' },
  ): void {
    const { volumeId } = held.grant;
    const isTouched = this.#touched.has(volumeId);
    const refusal = (code: 'FAILED_PRECONDITION' | 'NOT_FOUND', message: string): StorError =>
      new StorError(code, message, isTouched ? {} : { details: { untouched: 'true' } });
    if (held.connections > 0 && !force && !isTouched)
      throw refusal('FAILED_PRECONDITION', 'clients are connected');
    const members = this.membersOf(volumeId);
    const [lacking] = members.filter(({ snapshots }) => !snapshots.has(snapshotId));
    if (lacking) throw refusal('NOT_FOUND', `no snapshot ${snapshotId}`);
    held.grant = { ...held.grant, rollback: { id } };
    this.#touched.add(volumeId);
    for (const [at, member] of members.entries()) {
      member.image = member.snapshots.get(snapshotId)?.image ?? '';
      this.onRolledBack(at, member);
    }
  }

  /** runs after each replica that a rollback has changed; what it throws ends the rollback there */
  onRolledBack: (at: number, replica: FakeReplica) => void = () => {};
  /** volumes of which some replicas may have been rolled back, and others not */
  readonly #touched = new Set<VolumeId>();

  /** A client's read through this primary: what each replica would answer; null while it is held. */
  read(volumeId: VolumeId): string[] | null {
    if (this.attached.get(volumeId)?.grant.rollback !== undefined) return null;
    return this.membersOf(volumeId).map(({ image }) => image);
  }

  /** A client's write through this primary; waits for nobody, so it is refused while it is held. */
  write(volumeId: VolumeId, image: string): boolean {
    if (this.holds.has(volumeId) || !this.attached.has(volumeId)) return false;
    if (this.attached.get(volumeId)?.grant.rollback !== undefined) return false;
    for (const member of this.membersOf(volumeId)) member.image = image;
    return true;
  }

  /** The in-sync replicas of a volume that this node is primary of. */
  membersOf(volumeId: VolumeId): FakeReplica[] {
    const inSync = this.attached.get(volumeId)?.grant.segments.flatMap((each) => each.inSync) ?? [];
    const all = this.everybody().flatMap((agent) => [...agent.replicaList.values()]);
    return all.filter(({ replicaId }) => inSync.includes(replicaId));
  }

  #prepare(volumeId: VolumeId, id: SnapshotId): void {
    for (const { snapshots, image } of this.membersOf(volumeId))
      snapshots.set(id, { state: 'prepared', image });
  }

  #changes(volumeId: VolumeId, order: PrimaryOrder & { type: 'changes' }): ChangedExtent[] {
    const [member] = this.membersOf(volumeId);
    if (!member) return [];
    const imageOf = (id: string, otherwise: string): string => {
      if (id === '') return otherwise;
      const known = member.snapshots.get(id);
      if (!known) throw new StorError('NOT_FOUND', `no snapshot ${id}`);
      return known.image;
    };
    const [from, to] = [imageOf(order.from, ''), imageOf(order.to, member.image)];
    const extents: ChangedExtent[] = [];
    for (let i = 0; i < Math.max(from.length, to.length); i++)
      if (from[i] !== to[i]) extents.push({ offset: i * chunkBytes, length: chunkBytes });
    return extents.filter(({ offset }) => offset >= order.offset).slice(0, order.limit);
  }

  /** As the real one: what the records call ready is confirmed, what is unknown or going is dropped. */
  #settleSnapshots(volumeId: VolumeId, settings: VolumeSettings, isComplete: boolean): void {
    const states = new Map(settings.snapshots?.map(({ id, state }) => [id, state]));
    for (const { snapshots } of this.membersOf(volumeId)) {
      for (const [id, snapshot] of snapshots) {
        const state = states.get(id);
        if (state === 'ready') snapshot.state = 'ready';
        else if (state === 'deleting') snapshots.delete(id);
        else if (isComplete && snapshot.state !== 'ready') snapshots.delete(id);
      }
    }
  }

  async deleteReplica(_diskId: DiskId, replicaId: ReplicaId): Promise<void> {
    this.replicaList.delete(replicaId);
  }

  async replicas(): Promise<LocalReplica[]> {
    return [...this.replicaList.values()].map(({ snapshots: _, image: __, ...replica }) => replica);
  }

  async attach(grant: AttachmentGrant): Promise<void> {
    if (this.attachError) throw this.attachError;
    const held = this.attached.get(grant.volumeId);
    // like the real one, which serves under the grant it has and takes only the mode of a second
    const begun = held?.grant.epoch === grant.epoch ? { ...held.grant, mode: grant.mode } : grant;
    this.attached.set(grant.volumeId, { grant: begun, connections: held?.connections ?? 0 });
    if (begun === grant && grant.rollback) this.#touched.add(grant.volumeId);
    if (begun === grant) this.#settleSnapshots(grant.volumeId, grant, true);
    await this.#keepInSync(grant.volumeId);
  }

  async detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    const held = this.attached.get(volumeId);
    if (held?.grant.epoch !== epoch) return 'gone';
    if (ifIdle && (held.connections > 0 || held.grant.mode === 'manual')) return 'busy';
    this.attached.delete(volumeId);
    await this.control?.release(volumeId, epoch, { clean: true });
    return 'released';
  }

  async liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]> {
    const all = [...this.attached.values()];
    const asked = all.filter(({ grant }) => volumeIds?.includes(grant.volumeId) ?? true);
    return asked.map(({ grant, connections }) => ({
      volumeId: grant.volumeId,
      epoch: grant.epoch,
      state: 'serving',
      reason: '',
      stateAgeMs: 0,
      connections,
      sizeBytes: grant.sizeBytes,
      allocatedBytes: 4096,
      ...this.#throttleOf(grant.volumeId),
      settleBytesRemaining: 0,
      replicas: [],
    }));
  }

  #throttleOf(volumeId: VolumeId): { throttle?: LiveThrottle } {
    const throttle = this.throttles.get(volumeId);
    return throttle ? { throttle } : {};
  }

  async updateQosClasses(classes: QosClass[]): Promise<void> {
    this.qosClasses = classes;
  }

  async updateVolume(settings: VolumeSettings): Promise<void> {
    const held = this.attached.get(settings.volumeId);
    if (held?.grant.epoch !== settings.epoch) return;
    if (settings.resourceVersion < held.grant.resourceVersion) return;
    // what it serves under changes only by its own proposals (I4)
    const known = held.grant.segments;
    const segments = settings.segments.map((segment) => {
      const own = known.find((each) => each.index === segment.index);
      return own ? { ...segment, inSync: own.inSync, setRevision: own.setRevision } : segment;
    });
    const { rollback: _over, qos: _old, publications: _before, ...kept } = held.grant;
    held.grant = { ...kept, ...settings, segments };
    if (!settings.rollback) this.#touched.delete(settings.volumeId);
    this.#settleSnapshots(settings.volumeId, settings, false);
    await this.#keepInSync(settings.volumeId);
  }

  async #keepInSync(volumeId: VolumeId): Promise<void> {
    const { reaches, control } = this;
    const held = this.attached.get(volumeId);
    if (!reaches || !control || !held) return;
    const { epoch, replicas: wanted } = held.grant;
    for (const segment of held.grant.segments) {
      const able = segment.replicas.filter((r) => !r.failed && reaches(r.nodeId));
      const stay = able.filter((replica) => !replica.leaving);
      const enough = stay.length >= Math.min(wanted, stay.length) && stay.length > 0;
      const leaving = able.filter((r) => r.leaving && segment.inSync.includes(r.id));
      const inSync = [...stay, ...(enough ? [] : leaving)].map(({ id }) => id);
      const isSame = inSync.length === segment.inSync.length;
      if (isSame && inSync.every((id) => segment.inSync.includes(id))) continue;
      if (inSync.length === 0) continue;
      const { index, setRevision } = segment;
      const proposal = { volumeId, segment: index, epoch, setRevision, inSync };
      const answer = await control.proposeSet(proposal);
      if (answer.outcome !== 'committed') continue;
      Object.assign(segment, { inSync, setRevision: answer.setRevision });
      if (!answer.unconfirmed) continue;
      const alone = { volumeId, segment: index, epoch, setRevision: answer.setRevision, inSync };
      await control.proposeSet({ ...alone, confirms: true });
    }
  }

  /** what scrubs answer, by volume; absent: nothing is known */
  readonly scrubs = new Map<VolumeId, (order: ScrubOrder) => ScrubProgress>();

  async scrub(order: ScrubOrder): Promise<ScrubProgress | null> {
    const held = this.attached.get(order.volumeId);
    if (held?.grant.epoch !== order.epoch) return null;
    return this.scrubs.get(order.volumeId)?.(order) ?? null;
  }

  async handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    const result = await this.detach(volumeId, epoch, false);
    return result === 'released' ? 'released' : 'gone';
  }

  peersChanged(peers: PeerLanes[]): void {
    this.peers = peers;
  }

  nodeLeaseUntil(deadlineMonotonicMs: number): void {
    this.leaseUntilMs = deadlineMonotonicMs;
  }
}

function fakeDisk(diskId: DiskId, path: string, tag: string, freeBytes = 100 * 2 ** 30): AgentDisk {
  return {
    diskId,
    path,
    tag,
    state: 'online',
    message: '',
    capacityBytes: 100 * 2 ** 30,
    usedBytes: 100 * 2 ** 30 - freeBytes,
    freeBytes,
  };
}
