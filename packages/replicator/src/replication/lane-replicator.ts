import {
  StorError,
  segmentBytesOf,
  type AttachmentGrant,
  type PeerLanes,
  type VolumeSettings,
} from '@stor/protocol';
import type { Clock, Logger, StreamSocket } from '@stor/runtime';

import { freeTurns, type BackgroundTurns } from '../background-turns.ts';
import { ResyncPace } from '../core/replication/resync-pace.ts';
import { ScrubBudget } from '../core/replication/scrub-budget.ts';
import { Outbox } from '../peer/outbox.ts';
import { PeerDirectory, type ConnectPeer } from '../peer/peer-directory.ts';
import { IntegrityLog, type IntegrityCounters } from '../primary/integrity-log.ts';
import { LocalMember } from '../primary/local-member.ts';
import { PrimaryEngine } from '../primary/primary-engine.ts';
import type { PrimaryVolume } from '../primary/primary-volume.ts';
import { RemoteMember, freeLink } from '../primary/remote-member.ts';
import { Segment } from '../primary/segment.ts';
import { SegmentedVolume } from '../primary/segmented-volume.ts';
import type { DiskStore, ReplicaStore } from '../replica-store.ts';
import type { PrimaryStatus, ReplicatorControl } from '../replicator-ports.ts';
import { SecondaryLink, type SecondaryHost } from '../secondary/secondary-link.ts';
import type { SnapshotSource } from '../snapshots/failover-snapshot-reader.ts';
import { LocalSnapshotReader } from '../snapshots/local-snapshot-reader.ts';
import { PeerSnapshotReader } from '../snapshots/peer-snapshot-reader.ts';
import { checkpointPace, tickMs, type CheckpointPace } from './limits.ts';
import { ReplicaGate } from './replica-gate.ts';

/** Requests that one member may number before it meets the next one's; two million members fit. */
const requestsPerMember = 2 ** 32;

export type { IntegrityCounters };

/** A replica that failed for good, here or at a peer (I7). */
export interface ReplicaFailure {
  volumeId: string;
  replicaId: string;
  nodeId: string;
  diskId: string;
  reason: string;
}

export interface LaneReplicatorOptions {
  nodeId: string;
  agentInstance: string;
  clusterId: string;
  clock: Clock;
  logger: Logger;
  control: ReplicatorControl;
  /** opens a TCP connection to a peer listener */
  connect: ConnectPeer;
  /** the disks of this lane, as they are now */
  stores: () => Iterable<DiskStore>;
  onReplicaFailure: (failure: ReplicaFailure) => void;
  /** how background work shares the lane with clients. @default it has the lane to itself */
  turns?: BackgroundTurns;
  /** @default checkpointPace of limits.ts */
  checkpointPace?: CheckpointPace;
}

/** Replication of one lane: primary of some volumes, secondary of others. */
export class LaneReplicator {
  readonly #options: LaneReplicatorOptions;
  readonly #own: { clusterId: string; nodeId: string; agentInstance: string };
  readonly #outbox: Outbox;
  readonly #directory: PeerDirectory;
  readonly #gates = new Map<string, ReplicaGate>();
  /** since when this lane has each of its disks: nobody else has answered for them since (I6) */
  readonly #diskSinceMs = new WeakMap<DiskStore, number>();
  readonly #links = new Set<SecondaryLink>();
  readonly #primaries = new Map<string, SegmentedVolume>();
  readonly #reportedFailures = new Set<string>();
  #nextChannel = 1;
  /** ever made */
  #remoteMembers = 0;
  /** all resyncs of this lane share what it has to give */
  readonly #resyncPace: ResyncPace;
  readonly #scrubBudget: ScrubBudget;
  readonly #integrity: IntegrityLog;
  #cancelTick: () => void;
  #closing: Promise<void> | null = null;

  constructor(options: LaneReplicatorOptions) {
    this.#options = options;
    const { clock, logger, connect, clusterId, nodeId, agentInstance } = options;
    this.#own = { clusterId, nodeId, agentInstance };
    this.#outbox = new Outbox(clock);
    this.#resyncPace = new ResyncPace(clock.monotonicMs());
    this.#scrubBudget = new ScrubBudget(clock.monotonicMs());
    const { control } = options;
    this.#integrity = new IntegrityLog(
      clock,
      control.noteEvent && ((note) => control.noteEvent?.(note) ?? Promise.resolve()),
    );
    this.#directory = new PeerDirectory({
      own: this.#own,
      clock,
      logger,
      connect,
      outbox: this.#outbox,
    });
    this.#cancelTick = clock.after(tickMs, this.#tick);
    this.#noteDisks();
  }

  /** Serves as secondary: give it each accepted peer socket in the turn in which it was accepted. */
  acceptPeer(socket: StreamSocket): void {
    if (this.#closing) {
      socket.destroy();
      return;
    }
    this.#links.add(new SecondaryLink(socket, this.#secondaryHost()));
  }

  /**
   * Becomes primary. Resolves when the volume serves: replicas fenced, leases of the old primary
   * over, the first set committed. STALE_EPOCH, UNAVAILABLE, ABORTED, FAILED_PRECONDITION.
   */
  async attach(grant: AttachmentGrant, options: { signal: AbortSignal }): Promise<PrimaryVolume> {
    if (this.#closing) throw new StorError('ABORTED', 'this lane is closing');
    const current = this.#primaries.get(grant.volumeId);
    if (current && current.epoch >= grant.epoch) {
      throw new StorError(
        'STALE_EPOCH',
        `${grant.volumeId} is attached here at epoch ${current.epoch}, not below`,
      );
    }
    current?.finish(new StorError('STALE_EPOCH', `replaced here by epoch ${grant.epoch}`));
    const volume = new SegmentedVolume(grant, (part, index) => this.#build(part, index));
    this.#primaries.set(grant.volumeId, volume);
    volume.onStopped((reason) => {
      if (this.#primaries.get(grant.volumeId) === volume) this.#primaries.delete(grant.volumeId);
      this.#options.logger.info(
        { volume: grant.volumeId, epoch: grant.epoch, reason: reason.message },
        'primary has ended',
      );
    });
    await volume.activate(options.signal);
    return volume;
  }

  primary(volumeId: string): PrimaryVolume | null {
    return this.#primaries.get(volumeId) ?? null;
  }

  /** What the record of a volume says now; nothing happens when it is not attached here. */
  updateVolume(settings: VolumeSettings): void {
    this.#primaries.get(settings.volumeId)?.update(settings);
  }

  /** A node listens elsewhere now (it was started anew), or its disks are other lanes'. */
  updatePeer(peer: PeerLanes): void {
    this.#directory.forgetOthers(peer.nodeId, peer.addresses);
    for (const volume of this.#primaries.values()) volume.peerMoved(peer);
  }

  /**
   * How a snapshot of a replica is read: on a disk of this lane, or over a link. `offsetBytes`: where
   * its segment begins in the volume.
   */
  snapshotSource(
    replica: { replicaId: string; nodeId: string; diskId: string; host: string; port: number },
    snapshot: { volumeId: string; segment: number; snapshotId: string; offsetBytes: number },
  ): SnapshotSource {
    const { replicaId } = replica;
    const { volumeId, offsetBytes } = snapshot;
    return {
      replicaId,
      noteFound: (offset) => {
        this.#integrity.found(volumeId, replica, offsetBytes + offset);
      },
      noteRepaired: (offset, from) => {
        this.#integrity.repaired(volumeId, replica, offsetBytes + offset, from);
      },
      open: async () => {
        const store = this.#replica(replicaId);
        if (store) return LocalSnapshotReader.of(store, snapshot.snapshotId);
        const { clock } = this.#options;
        const channel = this.#nextChannel++;
        const directory = this.#directory;
        return PeerSnapshotReader.open({ ...snapshot, replica, channel, directory, clock });
      },
    };
  }

  status(): PrimaryStatus[] {
    return [...this.#primaries.values()].map((volume) => volume.status());
  }

  /** Bad blocks that the primaries of this lane found, and what scrubs have read. */
  integrity(): IntegrityCounters {
    return this.#integrity.counters();
  }

  /** Stops every primary in order, then every link; resolves when nothing is under way. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#primaries.values()].map((volume) => volume.stop()));
    this.#cancelTick();
    this.#integrity.flush();
    this.#directory.close();
    this.#outbox.flush();
    const links = [...this.#links];
    const drained = links.map((link) => link.drained());
    for (const link of links) link.destroy();
    await Promise.all(drained);
  }

  readonly #tick = (): void => {
    const nowMs = this.#options.clock.monotonicMs();
    this.#cancelTick = this.#options.clock.after(tickMs, this.#tick);
    this.#noteDisks();
    this.#directory.tick();
    for (const link of [...this.#links]) link.tick();
    for (const volume of [...this.#primaries.values()]) volume.tick(nowMs);
  };

  /** The primary of one segment; each has a channel of its own on the connections of its members. */
  #build(grant: AttachmentGrant, index: number): PrimaryEngine {
    const { clock, logger, control } = this.#options;
    const { volumeId, epoch, sizeBytes } = grant;
    const channel = this.#nextChannel++;
    const segment: Segment = new Segment({
      volumeId,
      index,
      epoch,
      sizeBytes,
      offsetBytes: index * segmentBytesOf(grant),
      nodeId: this.#own.nodeId,
      channel,
      clock,
      logger: logger.child({ volume: volumeId, segment: index, epoch }),
      outbox: this.#outbox,
      control,
      settings: grant,
      superseded: (reason) => {
        engine.finish(reason);
      },
      replicaFailed: (member, error) => {
        this.#report(volumeId, member, error);
      },
      memberOf: (replica, events) => {
        // On another lane of this node it is reached like any other peer, and so is a second one on
        // this lane: while a replica moves from disk to disk.
        if (!events.local && this.#replica(replica.id)) {
          return this.#localMember(replica, epoch, events);
        }
        return new RemoteMember({
          replica,
          link: freeLink(events.remotes, replica.nodeId),
          volumeId,
          segment: index,
          sizeBytes,
          epoch,
          channel,
          firstRequest: 1 + requestsPerMember * this.#remoteMembers++,
          clock,
          outbox: this.#outbox,
          directory: this.#directory,
          events,
        });
      },
    });
    const pace = this.#options.checkpointPace ?? checkpointPace;
    const engine = new PrimaryEngine(grant, segment, pace, {
      resyncPace: this.#resyncPace,
      scrubBudget: this.#scrubBudget,
      turns: this.#options.turns ?? freeTurns,
      integrity: this.#integrity,
    });
    return engine;
  }

  #localMember(
    replica: { id: string; nodeId: string; diskId: string },
    epoch: number,
    segment: Segment,
  ): LocalMember {
    return new LocalMember({
      replica,
      epoch,
      holder: `${this.#own.nodeId} ${this.#own.agentInstance}`,
      buffers: this.#outbox.buffers,
      store: () => this.#replica(replica.id),
      gate: this.#gate(replica.id),
      leaseRemainingMs: () => this.#leaseRemainingMs(replica.id, epoch),
      clock: this.#options.clock,
      events: segment,
    });
  }

  #replica(id: string): ReplicaStore | null {
    return this.#diskOf(id)?.replica(id) ?? null;
  }

  #diskOf(replicaId: string): DiskStore | null {
    for (const disk of this.#options.stores()) if (disk.replica(replicaId)) return disk;
    return null;
  }

  #noteDisks(): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const disk of this.#options.stores()) {
      if (!this.#diskSinceMs.has(disk)) this.#diskSinceMs.set(disk, nowMs);
    }
  }

  #leaseRemainingMs(replicaId: string, epoch: number): number {
    this.#noteDisks();
    const nowMs = this.#options.clock.monotonicMs();
    const disk = this.#diskOf(replicaId);
    const sinceMs = (disk && this.#diskSinceMs.get(disk)) ?? nowMs;
    return this.#gate(replicaId).promises.remainingMs(epoch, sinceMs, nowMs);
  }

  #gate(replicaId: string): ReplicaGate {
    let gate = this.#gates.get(replicaId);
    if (!gate) {
      gate = new ReplicaGate();
      this.#gates.set(replicaId, gate);
    }
    return gate;
  }

  #report(
    volumeId: string,
    replica: { replicaId: string; nodeId: string; diskId: string },
    error: StorError,
  ): void {
    const { replicaId, nodeId, diskId } = replica;
    const failure = { volumeId, replicaId, nodeId, diskId, reason: error.message };
    // A full disk is no failure for good: the replica keeps what it has, and comes back when its
    // disk has room and is opened again.
    if (error.code === 'NO_SPACE') {
      this.#options.logger.warn(failure, 'a replica has no room and leaves the set');
      return;
    }
    if (this.#reportedFailures.has(replicaId)) return;
    this.#reportedFailures.add(replicaId);
    this.#options.logger.error(failure, 'a replica has failed');
    this.#options.onReplicaFailure(failure);
  }

  #secondaryHost(): SecondaryHost {
    const { clock, logger } = this.#options;
    return {
      own: this.#own,
      clock,
      logger,
      outbox: this.#outbox,
      turns: this.#options.turns ?? freeTurns,
      replica: (id) => this.#replica(id),
      gate: (replicaId) => this.#gate(replicaId),
      leaseRemainingMs: (replicaId, epoch) => this.#leaseRemainingMs(replicaId, epoch),
      replicaFailed: (store, error) => {
        if (!store.failure) return;
        const { replicaId, volumeId, diskId } = store;
        this.#report(volumeId, { replicaId, nodeId: this.#own.nodeId, diskId }, error);
      },
      linkEnded: (link) => {
        this.#links.delete(link);
      },
    };
  }
}
