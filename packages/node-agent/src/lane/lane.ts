import type {
  AgentDisk,
  LiveVolume,
  LocalReplica,
  NewReplica,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
  SnapshotDrop,
} from '@stor/control-plane';
import {
  StorError,
  hasCode,
  reserveBytes,
  type AttachmentGrant,
  type DiskId,
  type PeerLanes,
  type QosClass,
  type ReplicaId,
  type SnapshotId,
  type ScrubOrder,
  type ScrubProgress,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import {
  LaneReplicator,
  openDiskStore,
  snapshotsOf,
  type DiskStore,
  type DiskStoreOptions,
  type LaneReplicatorOptions,
} from '@stor/replicator';
import {
  defaultReceive,
  makeDurableDirectory,
  systemFiles,
  systemNetwork,
  threadQueuedMs,
  type Clock,
  type Files,
  type Listener,
  type Logger,
  type Network,
} from '@stor/runtime';
import { VolumeExports } from '../exports/volume-exports.ts';
import type { ConnectionTls } from '../nbd/nbd-connection.ts';
import { NbdServer } from '../nbd/nbd-server.ts';
import { TlsFiles } from '../nbd/tls-files.ts';
import { LaneQos } from '../qos/lane-qos.ts';
import { FailureLog } from './failure-log.ts';
import { laneCounters } from './lane-counters.ts';
import type {
  LaneCounters,
  LaneDisk,
  LaneMethods,
  LaneOptions,
  MainMethods,
} from './lane-protocol.ts';
import { listening } from './listening.ts';
import { replicaSpaces } from './replica-space.ts';

/** A disk on which nothing was made durable for this is asked whether it still works (ms). */
export const diskProbeMs = 30_000;
/** A peer that does not take a connection in this time is tried again later (ms). */
const peerConnectTimeoutMs = 1_000;

interface OpenDisk {
  store: DiskStore;
  entry: LaneDisk;
}

/** The host as a lane sees it. */
export interface LaneMachine {
  /** how long the calling thread has waited for a core so far (ms); absent: nobody knows, and lanes always sleep */
  queuedMs?: () => number | null;
  files: Files;
  network: Network;
  /** of the disks; a simulator has small journals, so that they fill */
  diskOptions?: DiskStoreOptions;
  /** when checkpoints come; a simulator has many in little time */
  checkpointPace?: NonNullable<LaneReplicatorOptions['checkpointPace']>;
}

const systemMachine: LaneMachine = {
  files: systemFiles,
  network: systemNetwork,
  queuedMs: threadQueuedMs,
};

/**
 * One lane: a thread that owns disks, sockets and primaries. Composes the disk stores, the
 * replicator and the NBD server; everything here runs on one event loop.
 */
export class Lane implements LaneMethods {
  readonly #options: LaneOptions;
  readonly #control: MainMethods;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #machine: LaneMachine;
  readonly #disks = new Map<DiskId, OpenDisk>();
  #failedDisks: AgentDisk[] = [];
  readonly #failures: FailureLog;
  readonly #replicator: LaneReplicator;
  readonly #exports: VolumeExports;
  readonly #qos: LaneQos;
  #peers: Listener | null = null;
  #nbd: NbdServer | null = null;
  readonly #tls: TlsFiles | null;
  #closing: Promise<void> | null = null;
  #cancelProbe: () => void;

  constructor(
    options: LaneOptions,
    control: MainMethods,
    clock: Clock,
    logger: Logger,
    machine: LaneMachine = systemMachine,
  ) {
    this.#options = options;
    this.#machine = machine;
    this.#control = control;
    this.#clock = clock;
    this.#logger = logger;
    const { nbdTls } = options;
    // read before anything is opened: wrong files end the start
    this.#tls = nbdTls && nbdTls.mode !== 'off' ? new TlsFiles(nbdTls, { clock, logger }) : null;
    this.#failures = new FailureLog(
      `${options.dataDir}/failures.jsonl`,
      machine.files,
      options.failureLock,
    );
    this.#qos = new LaneQos(clock);
    this.#replicator = new LaneReplicator({
      nodeId: options.nodeId,
      // a replica tells the lanes of a node apart by it: an epoch is never served by two of them
      agentInstance: laneInstance(options),
      clusterId: options.clusterId,
      clock,
      logger,
      control,
      connect: (host, port, signal) =>
        machine.network.connect(
          { host, port },
          { ...defaultReceive, signal, connectTimeoutMs: peerConnectTimeoutMs },
        ),
      stores: () => [...this.#disks.values()].map((disk) => disk.store),
      onReplicaFailure: (failure) => {
        this.#report(failure);
      },
      turns: this.#qos.turns,
      ...(machine.checkpointPace ? { checkpointPace: machine.checkpointPace } : {}),
    });
    this.#exports = new VolumeExports({
      nodeId: options.nodeId,
      agentInstance: laneInstance(options),
      lane: options.lane,
      lanes: options.lanes,
      network: machine.network,
      ...(this.#tls ? { relayTls: this.#tls.client.bind(this.#tls) } : {}),
      host: this.#replicator,
      control,
      clock,
      logger,
      qos: this.#qos,
      autoDetachMs: options.autoDetachMs,
      allocatedBytes: () => this.#allocatedBytes(),
      snapshotSource: (replica, snapshot) => this.#replicator.snapshotSource(replica, snapshot),
    });
    this.#cancelProbe = clock.after(diskProbeMs, this.#probe);
  }

  readonly #probe = (): void => {
    this.#cancelProbe = this.#clock.after(diskProbeMs, this.#probe);
    for (const store of this.stores) {
      store.probe().catch((error: unknown) => {
        const reason = StorError.from(error).message;
        this.#report({ diskId: store.diskId, replicaId: null, reason });
      });
    }
  };

  async listen(): Promise<{ peersPort: number; nbdPort: number }> {
    const { host, peersPort, nbdPort, nbdUnixPath, busyPoll } = this.#options;
    const { queuedMs } = this.#machine;
    this.#peers = await listening('replication', host, peersPort, () =>
      this.#machine.network.listen({ host, port: peersPort }, (socket) => {
        this.#replicator.acceptPeer(socket);
      }),
    );
    this.#nbd = await listening('NBD', host, nbdPort, () =>
      NbdServer.listen({
        targets: [{ host, port: nbdPort }, ...(nbdUnixPath ? [{ path: nbdUnixPath }] : [])],
        exports: this.#exports,
        clock: this.#clock,
        logger: this.#logger,
        network: this.#machine.network,
        ...(busyPoll && queuedMs ? { queuedMs } : {}),
        ...(this.#tls ? { tls: connectionTls(this.#tls) } : {}),
      }),
    );
    return { peersPort: this.#peers.port, nbdPort: this.#nbd.port };
  }

  async openDisk(entry: LaneDisk): Promise<AgentDisk> {
    const open = this.#disks.get(entry.diskId);
    if (open) return this.#describe(open);
    try {
      if (entry.unavailable !== undefined) throw new StorError('NOT_FOUND', entry.unavailable);
      const store = await this.#openStore(entry);
      const disk = { store, entry };
      this.#disks.set(store.diskId, disk);
      return await this.#describe(disk);
    } catch (error) {
      // A disk that failed or is not mounted must not take the node's other disks down; one that
      // is not ours, or is in use, is a mistake to be mended before the agent runs. One whose file
      // system has no room even for opening it comes back at a start with room.
      if (entry.create || !hasCode(error, 'DISK_FAILED', 'NOT_FOUND', 'NO_SPACE')) throw error;
      this.#logger.error({ disk: entry.path, error: error.message }, 'disk not opened');
      const isLost = this.#failures
        .failuresOf(entry.diskId)
        .some((failure) => failure.replicaId === null);
      const failed = failedDisk(entry, error.message, isLost);
      this.#failedDisks.push(failed);
      return failed;
    }
  }

  async closeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    const disk = this.#disks.get(diskId);
    const held = disk?.store.replicas().length ?? 0;
    if (held > 0 && !lost) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `disk ${diskId} on node ${this.#options.nodeName} still has ${held} ${held === 1 ? 'replica' : 'replicas'}: evacuate it first, or wait until they are deleted`,
      );
    }
    // in this turn, so that nothing is created on it while it closes
    this.#disks.delete(diskId);
    this.#failedDisks = this.#failedDisks.filter((failed) => failed.diskId !== diskId);
    await disk?.store.close();
  }

  #openStore(entry: LaneDisk): Promise<DiskStore> {
    const { clusterId, nodeId, bootId, diskReserveBytes } = this.#options;
    const { files } = this.#machine;
    if (entry.create) makeDurableDirectory(files, entry.path);
    const reserve = entry.reserve ?? '';
    const hasOwn = reserve !== '' && files.exists(entry.path);
    const ownBytes = hasOwn ? reserveBytes(reserve, files.space(entry.path).totalBytes) : null;
    const keptBytes = ownBytes ?? diskReserveBytes;
    return openDiskStore({
      path: entry.path,
      expect: { clusterId, nodeId },
      ...(entry.create ? { create: { diskId: entry.diskId } } : {}),
      files,
      clock: this.#clock,
      logger: this.#logger,
      bootId,
      failures: this.#failures,
      options: {
        ...this.#machine.diskOptions,
        ...(keptBytes === null ? {} : { reserveBytes: keptBytes }),
        isLaneShared: () => this.#exports.isLaneShared,
        ...(entry.pooledCalls === undefined ? {} : { maxPooledCalls: entry.pooledCalls }),
      },
    });
  }

  /** The open disks, for whoever shares this thread and compares replicas. */
  get stores(): DiskStore[] {
    return [...this.#disks.values()].map((disk) => disk.store);
  }

  async disks(): Promise<AgentDisk[]> {
    const open = await Promise.all([...this.#disks.values()].map((disk) => this.#describe(disk)));
    return [...open, ...this.#failedDisks];
  }

  async createReplica(diskId: DiskId, replica: NewReplica): Promise<void> {
    const { cloneOf, ...identity } = replica;
    await this.#store(diskId).createReplica(identity, cloneOf ? { cloneOf } : {});
  }

  async dropSnapshots(
    diskId: DiskId,
    replicaId: ReplicaId,
    drops: SnapshotDrop[],
  ): Promise<SnapshotId[]> {
    const replica = this.#store(diskId).replica(replicaId);
    const snapshots = replica ? snapshotsOf(replica) : null;
    // It may only be out of sight, on a disk that failed to open all of it: whoever forgot the order
    // then would find the snapshots again when the disk has come back.
    if (!snapshots) {
      const where = `disk ${diskId} of node ${this.#options.nodeName}`;
      throw new StorError('NOT_FOUND', `there is no replica ${replicaId} on ${where}`);
    }
    const kept: SnapshotId[] = [];
    for (const { id, neverReady } of drops) {
      const known = neverReady && snapshots.snapshots().find((each) => each.snapshotId === id);
      if (known && known.state === 'ready') {
        kept.push(id);
        continue;
      }
      await new Promise<void>((resolve, reject) => {
        snapshots.dropSnapshot(id, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
    }
    return kept;
  }

  async replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]> {
    return replicaSpaces(this.stores, volumeIds);
  }

  orderPrimary(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    return this.#exports.order(volumeId, epoch, order);
  }

  async deleteReplica(diskId: DiskId, replicaId: ReplicaId): Promise<VolumeId | null> {
    const store = this.#store(diskId);
    const volumeId = store.replica(replicaId)?.volumeId ?? null;
    await store.deleteReplica(replicaId);
    if (volumeId !== null) await this.forgetVolume(volumeId);
    return volumeId;
  }

  async forgetVolume(volumeId: VolumeId): Promise<void> {
    // a volume that lives on may still be served here, without a replica of its own
    if (this.#exports.liveVolumes([volumeId]).length === 0) this.#nbd?.stats.forget(volumeId);
  }

  async allocatedBytes(volumeIds: VolumeId[]): Promise<Record<VolumeId, number>> {
    const wanted = new Set(volumeIds);
    const bytes: Record<VolumeId, number> = {};
    for (const replica of this.stores.flatMap((store) => store.replicas())) {
      const { volumeId, allocatedBytes } = replica;
      if (wanted.has(volumeId)) bytes[volumeId] = (bytes[volumeId] ?? 0) + allocatedBytes;
    }
    return bytes;
  }

  async replicas(): Promise<LocalReplica[]> {
    return [...this.#disks.values()].flatMap(({ store }) =>
      store.replicas().map(({ diskId, replicaId, volumeId, failure, setView, allocatedBytes }) => ({
        diskId,
        replicaId,
        volumeId,
        allocatedBytes,
        ...(setView ? { setView: { ...setView, members: [...setView.members] } } : {}),
        // a replica that only ran out of space is whole again at the next start
        ...(hasCode(failure, 'DISK_FAILED') ? { failure: failure.message } : {}),
      })),
    );
  }

  attach(grant: AttachmentGrant): Promise<void> {
    return this.#exports.attach(grant);
  }

  detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    return this.#exports.detach(volumeId, epoch, ifIdle);
  }

  async liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]> {
    return this.#exports.liveVolumes(volumeIds);
  }

  async spreadTenant(name: string, lanes: number): Promise<void> {
    this.#exports.spreadTenant(name, lanes);
  }

  async updateQosClasses(classes: QosClass[]): Promise<void> {
    this.#qos.turns.update(classes, this.#options.lanes);
  }

  async updateVolume(settings: VolumeSettings): Promise<void> {
    this.#exports.updateVolume(settings);
  }

  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    return this.#exports.handOver(volumeId, epoch);
  }

  async scrub(order: ScrubOrder): Promise<ScrubProgress | null> {
    return this.#exports.scrub(order);
  }

  async peersChanged(peers: PeerLanes[]): Promise<void> {
    for (const peer of peers) this.#replicator.updatePeer(peer);
  }

  async counters(): Promise<LaneCounters> {
    return laneCounters(
      this.#nbd?.stats ?? null,
      [...this.#disks.values()].map(({ store }) => store),
      this.#exports,
      this.#replicator.integrity(),
      this.#qos.turns.reports(),
    );
  }

  giveUp(): Promise<void> {
    return this.#exports.close();
  }

  /** Clients first, then primaries, then the peers' channels, then the disks. */
  close(): Promise<void> {
    this.#closing ??= this.#closeOnce();
    return this.#closing;
  }

  async #closeOnce(): Promise<void> {
    this.#cancelProbe();
    await this.#exports.close();
    await this.#nbd?.close();
    await this.#replicator.close();
    this.#qos.close();
    await this.#peers?.close();
    await Promise.all([...this.#disks.values()].map(({ store }) => store.close()));
  }

  #store(diskId: DiskId): DiskStore {
    const disk = this.#disks.get(diskId);
    if (disk) return disk.store;
    throw new StorError('NOT_FOUND', `no disk ${diskId} on node ${this.#options.nodeName}`);
  }

  #allocatedBytes(): Map<VolumeId, number> {
    const all = new Map<VolumeId, number>();
    for (const { store } of this.#disks.values()) {
      for (const { volumeId, allocatedBytes } of store.replicas()) {
        all.set(volumeId, (all.get(volumeId) ?? 0) + allocatedBytes);
      }
    }
    return all;
  }

  /** One disk that cannot say how full it is must not hide the others. */
  async #describe({ store, entry }: OpenDisk): Promise<AgentDisk> {
    const { diskId } = store;
    const known = { ...entry, diskId };
    try {
      // a disk that has failed refuses this
      const usage = await store.usage();
      const trouble = this.#troubleOf(diskId);
      const message = entry.note ?? '';
      return { ...identityOf(known), state: 'online', message, ...usage, ...trouble };
    } catch (error) {
      const isLost = store.failure !== null;
      return failedDisk(known, StorError.from(error).message, isLost);
    }
  }

  /**
   * One replica for which the disk returned an error is enough: what else lies there is likely to be
   * next. It still serves what it can, so that its other replicas move away with nothing lost.
   */
  #troubleOf(diskId: DiskId): { trouble?: string } {
    const failed = this.#failures.failuresOf(diskId).filter(({ replicaId }) => replicaId !== null);
    const [first] = failed;
    if (!first) return {};
    const count = failed.length === 1 ? 'a replica' : `${failed.length} replicas`;
    return { trouble: `it had errors with ${count} (${first.replicaId ?? ''}: ${first.reason})` };
  }

  #report(failure: { diskId: DiskId; replicaId: ReplicaId | null; reason: string }): void {
    this.#logger.error({ ...failure }, 'replica failed');
    this.#control.reportFailure(failure).catch((error: unknown) => {
      // The failure is durable in the failure log, and the control plane asks for it now and then.
      this.#logger.warn({ error: StorError.from(error).message }, 'failure not reported yet');
    });
  }
}

function connectionTls(files: TlsFiles): ConnectionTls {
  return { mode: files.settings.mode, server: () => files.server() };
}

function laneInstance({ agentInstance, lane }: LaneOptions): string {
  return lane === 0 ? agentInstance : `${agentInstance}_${lane}`;
}

function failedDisk(entry: LaneDisk, message: string, isLost: boolean): AgentDisk {
  const unknown = { capacityBytes: 0, usedBytes: 0, freeBytes: 0 };
  return { ...identityOf(entry), state: 'failed', isLost, message, ...unknown };
}

function identityOf({
  diskId,
  path,
  tag,
  labels,
  device,
}: LaneDisk): Pick<AgentDisk, 'diskId' | 'path' | 'tag' | 'labels' | 'device'> {
  return {
    diskId,
    path,
    tag,
    ...(labels === undefined ? {} : { labels }),
    ...(device === undefined ? {} : { device }),
  };
}
