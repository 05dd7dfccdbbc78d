import { StorError, autoDetachMs, type AttachmentGrant } from '@stor/protocol';
import {
  LaneReplicator,
  openDiskStore,
  type DiskStore,
  type PrimaryVolume,
} from '@stor/replicator';
import type { Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';

import { SimNetwork, linksOf } from '../world/network.ts';
import type { ProcessClock } from '../world/process-clock.ts';
import { simLogger, type LogSink } from '../world/sim-logger.ts';
import { SimScheduler } from '../world/scheduler.ts';
import { ControlModel, controlHost, setOf } from './control-model.ts';
import { DeviceLink } from './device-link.ts';
import {
  peersPort,
  type ClientLink,
  type CommittedSet,
  type ControlBackups,
  type KnownSnapshot,
  type ReplicaView,
  type SimCluster,
  type SimVolume,
} from './sim-cluster.ts';
import { viewOf } from './replica-view.ts';
import { SimNode } from './sim-node.ts';

const clusterId = 'c-0000000000000001';
/** Small journal files, so that they fill and switch all the time (bytes). */
const journalBytes = 24 * 4096;

interface Entry {
  epoch: number;
  serving: Promise<PrimaryVolume>;
  primary: PrimaryVolume | null;
  links: Set<DeviceLink>;
  ending: Promise<void> | null;
  cancelIdle: () => void;
}

interface LaneProcess {
  clock: ProcessClock;
  disk: DiskStore | null;
  lane: LaneReplicator;
  entries: Map<string, Entry>;
}

export interface ClusterOptions {
  seed: number;
  nodes: number;
  volumes: SimVolume[];
  /** lanes of each agent, each with a disk; one or two @default 1 */
  lanes?: number;
  /** of each volume, where there are labels @default none */
  labels?: Record<string, string>;
  log: LogSink;
}

/** Lanes on disk stores, with a model of the control plane: the data path without the agents. */
export class LaneCluster implements SimCluster {
  readonly scheduler = new SimScheduler();
  readonly random: Random;
  readonly network: SimNetwork;
  readonly nodes: SimNode[] = [];
  readonly volumes: SimVolume[];
  readonly diskPath = '/disk';
  readonly control: ControlModel;
  readonly backups: ControlBackups;
  onCommitted: (set: CommittedSet) => void = () => {};
  onSnapshot: (snapshot: KnownSnapshot) => void = () => {};
  onServing: (volume: string, epoch: number, grantedMs: number) => void = () => {};
  onEnded: (node: number, how: 'kill' | 'power') => void = () => {};
  readonly #options: ClusterOptions;
  readonly #processes = new Map<number, LaneProcess>();
  readonly #failures = new Map<
    number,
    { diskId: string; replicaId: string | null; reason: string }[]
  >();
  /** nodes that hold a replica, by volume */
  readonly #places = new Map<string, number[]>();

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.volumes = options.volumes;
    this.random = new SeededRandom(options.seed);
    this.network = new SimNetwork(this.scheduler, this.random);
    this.control = new ControlModel(this.network, this.random);
    this.backups = this.control.backups;
    this.control.onCommitted = (set) => this.onCommitted(set);
    for (let index = 0; index < options.nodes; index++) {
      this.nodes.push(
        new SimNode({
          index,
          scheduler: this.scheduler,
          network: this.network,
          random: this.random,
          seed: options.seed * 31 + index,
          punches: options.seed % 2 === 0,
          clockRate: 1 + (this.random.next() - 0.5) * 0.02,
          boot: (node, clock) => this.#boot(node, clock),
          ended: (node, how) => {
            this.#ended(node);
            this.onEnded(node.index, how);
          },
        }),
      );
    }
  }

  prepare(): Promise<void> {
    return Promise.resolve();
  }

  async create(): Promise<void> {
    for (const volume of this.volumes) {
      const places: number[] = [];
      const first = Math.floor(this.random.next() * this.nodes.length);
      for (let i = 0; i < volume.replicas; i++) places.push((first + i) % this.nodes.length);
      this.#places.set(volume.name, places);
      this.control.volumes.set(volume.name, {
        id: volume.name,
        epoch: 0,
        setRevision: 1,
        inSync: places.map((node) => replicaId(volume.name, node)),
        holder: -1,
        cleanRelease: false,
      });
    }
    for (const node of this.nodes) node.start();
    await this.scheduler.until(() => this.#processes.size === this.nodes.length, 60_000);
    for (const volume of this.volumes) {
      for (const node of this.#placesOf(volume.name)) {
        await this.#processes.get(node)?.disk?.createReplica({
          replicaId: replicaId(volume.name, node),
          volumeId: volume.name,
          segment: 0,
          sizeBytes: volume.sizeBytes,
        });
      }
    }
  }

  async connect(host: string, node: number, volume: SimVolume): Promise<ClientLink> {
    const { scheduler, network } = this;
    await scheduler.sleep(network.latencyMs(host, 'node') * 2);
    const process = this.#processes.get(node);
    const target = this.nodes[node];
    if (!process || !target || network.isBlocked(host, target.host)) {
      await scheduler.sleep(500);
      throw new StorError('UNAVAILABLE', `node ${node} cannot be reached`);
    }
    const entry = await this.#entry(node, process, volume);
    const primary = await this.#within(process, entry.serving, 40_000);
    if (entry.ending || process.clock.dead) throw new StorError('UNAVAILABLE', 'it is ending');
    entry.cancelIdle();
    const link = new DeviceLink(primary, process.clock, scheduler, () => {
      entry.links.delete(link);
      this.#watchIdle(process, volume, entry);
    });
    entry.links.add(link);
    return link;
  }

  committed(volume: SimVolume): CommittedSet {
    return setOf(this.control.volume(volume.name));
  }

  /** Its model of the control plane has none. */
  snapshotsOf(): KnownSnapshot[] {
    return [];
  }

  controlLinks(node: number): [string, string][] {
    const host = this.nodes[node]?.host ?? '';
    return [
      [host, controlHost],
      [controlHost, host],
    ];
  }

  dataLinks(a: number, b: number): [string, string][] {
    return linksOf(this.nodes[a]?.host ?? '', this.nodes[b]?.host ?? '', peersPort);
  }

  holderOf(volume: SimVolume): number {
    return this.control.volume(volume.name).holder;
  }

  leader(): number {
    return -1;
  }

  replicasOf(volume: SimVolume): ReplicaView[] {
    const views: ReplicaView[] = [];
    for (const node of this.#placesOf(volume.name)) {
      const process = this.#processes.get(node);
      const store = process?.disk?.replica(replicaId(volume.name, node));
      if (process && store) views.push(viewOf(store, node, process.clock, this.scheduler));
    }
    return views;
  }

  nodeOfReplica(id: string): number {
    return Number(id.slice(id.lastIndexOf('-') + 1));
  }

  async unhealthy(volume: SimVolume): Promise<string | null> {
    const { holder, inSync } = this.control.volume(volume.name);
    const views = this.replicasOf(volume);
    const whole = views.filter((view) => view.failed === null);
    if (whole.length < this.#placesOf(volume.name).length - this.#failedReplicas(volume)) {
      return 'a replica is missing';
    }
    const primary = this.#processes.get(holder)?.entries.get(volume.name)?.primary;
    if (!primary) return `no primary (holder ${holder})`;
    const status = primary.status();
    const [segment] = status.segments;
    if (status.state !== 'serving') return `${status.state}: ${status.reason}`;
    if (inSync.length !== whole.length)
      return `in sync: ${inSync.join()}, ${JSON.stringify(segment)}`;
    if (segment?.settleBytesRemaining !== 0) return 'not settled';
    return null;
  }

  /** There is no API in this world. */
  order(): Promise<boolean> {
    return Promise.resolve(false);
  }

  tryOrder(): Promise<StorError | null> {
    return Promise.resolve(new StorError('UNAVAILABLE', 'there is no API'));
  }

  sizeOf(volume: SimVolume): number {
    return volume.sizeBytes;
  }

  async detach(volume: SimVolume): Promise<boolean> {
    const holder = this.holderOf(volume);
    const process = this.#processes.get(holder);
    const entry = process?.entries.get(volume.name);
    if (!process || !entry) return holder < 0;
    await this.#within(process, this.#end(process, volume, entry, true), 30_000);
    return this.holderOf(volume) < 0;
  }

  // processes

  async #boot(node: SimNode, clock: ProcessClock): Promise<void> {
    const log = simLogger(node.host, this.#options.log);
    const failures = this.#failures.get(node.index) ?? [];
    this.#failures.set(node.index, failures);
    const { files } = node;
    let disk: DiskStore | null = null;
    try {
      disk = await openDiskStore({
        path: this.diskPath,
        expect: { clusterId, nodeId: node.host },
        create: { diskId: `d-${node.index}` },
        files: files.process(),
        clock,
        logger: log,
        bootId: files.bootId,
        failures: {
          record: (failure) => {
            if (!clock.dead) failures.push(failure);
          },
          failuresOf: () => failures,
        },
        options: { journalBytes, reserveBytes: 1024 * 1024, sumsCacheSlots: 32 },
      });
    } catch (error) {
      if (clock.dead) return;
      log.error({ error: StorError.from(error).message }, 'the disk was refused');
    }
    if (clock.dead) return;
    this.#startLane(node, clock, disk, log);
  }

  #startLane(
    node: SimNode,
    clock: ProcessClock,
    disk: DiskStore | null,
    logger: ReturnType<typeof simLogger>,
  ): void {
    const network = this.network.of(node.host, clock);
    const lane = new LaneReplicator({
      nodeId: node.host,
      agentInstance: `i-${node.index}-${node.starts}`,
      clusterId,
      clock,
      logger,
      control: {
        proposeSet: (proposal) => this.control.propose(node.host, clock, proposal),
      },
      connect: (host, port, signal) =>
        network.connect(
          { host, port },
          { receiveBytes: 0, maxReceiveBytes: 0, signal, connectTimeoutMs: 1_000 },
        ),
      stores: () => (disk ? [disk] : []),
      onReplicaFailure: () => {},
      checkpointPace: { everyMs: 3_000, restSeconds: 2, minMs: 1_000 },
    });
    void network.listen({ host: node.host, port: peersPort }, (socket) => {
      lane.acceptPeer(socket);
    });
    const process: LaneProcess = { clock, disk, lane, entries: new Map() };
    this.#processes.set(node.index, process);
    const renew = (): void => {
      const cut = this.network.isBlocked(node.host, controlHost);
      if (!cut) this.control.heard(node.index);
      clock.after(1_000, renew);
    };
    renew();
  }

  #ended(node: SimNode): void {
    const process = this.#processes.get(node.index);
    this.#processes.delete(node.index);
    for (const entry of process?.entries.values() ?? []) {
      for (const link of entry.links) link.lost();
    }
  }

  // attachments

  #placesOf(name: string): number[] {
    return this.#places.get(name) ?? [];
  }

  #failedReplicas(volume: SimVolume): number {
    return this.#placesOf(volume.name).filter((node) => this.#failures.get(node)?.length).length;
  }

  async #entry(node: number, process: LaneProcess, volume: SimVolume): Promise<Entry> {
    const existing = process.entries.get(volume.name);
    if (existing?.ending) await this.#within(process, existing.ending, 40_000);
    else if (existing) return existing;
    await this.#acquire(node, volume);
    const again = process.entries.get(volume.name);
    if (again) return again;
    if (process.clock.dead) throw new StorError('UNAVAILABLE', 'the node died');
    return this.#begin(node, process, volume);
  }

  /** The volume is free, or its holder gives it back, or is gone for longer than its lease. */
  async #acquire(node: number, volume: SimVolume): Promise<void> {
    const own = this.nodes[node]?.host ?? '';
    if (this.network.isBlocked(own, controlHost) || this.network.isBlocked(controlHost, own)) {
      await this.scheduler.sleep(1_000);
      throw new StorError('UNAVAILABLE', 'no control plane');
    }
    const { holder } = this.control.volume(volume.name);
    if (holder < 0 || holder === node || this.control.leaseIsOver(holder)) return;
    const process = this.#processes.get(holder);
    const entry = process?.entries.get(volume.name);
    const host = this.nodes[holder]?.host ?? '';
    const isReachable = process?.clock.running && !this.network.isBlocked(controlHost, host);
    if (!entry || !isReachable || entry.links.size > 0) {
      throw new StorError('IN_USE', `attached to node ${holder}`);
    }
    await this.#within(process, this.#end(process, volume, entry, true), 30_000);
  }

  #begin(node: number, process: LaneProcess, volume: SimVolume): Entry {
    const grantedMs = this.scheduler.nowMs;
    const { epoch, previousReleased } = this.control.grant(volume.name, node);
    this.#options.log('info', `host-${node}`, { volume: volume.name, epoch }, 'attachment granted');
    const facts = this.control.volume(volume.name);
    const replicas = this.#placesOf(volume.name).map((place) => ({
      id: replicaId(volume.name, place),
      nodeId: `host-${place}`,
      diskId: `d-${place}`,
      host: `host-${place}`,
      port: peersPort,
      leaving: false,
      // its node has told the control plane
      failed: (this.#failures.get(place)?.length ?? 0) > 0,
      purpose: 'volume' as const,
    }));
    const grant: AttachmentGrant = {
      volumeId: volume.name,
      name: volume.name,
      sizeBytes: volume.sizeBytes,
      epoch,
      mode: 'auto',
      resourceVersion: epoch,
      replicas: replicas.length,
      policy: {
        failureMode: 'alwayson',
        onLoss: 'suspend',
        ioTimeoutMs: 0,
        replacementWaitMs: 600_000,
        unflushedLoss: 'wait',
        rebuildPaused: false,
        shared: false,
      },
      previousReleased,
      acceptUnflushedLoss: false,
      segments: [
        {
          index: 0,
          setRevision: facts.setRevision,
          inSync: [...facts.inSync],
          ...(facts.unconfirmed ? { unconfirmed: [...facts.unconfirmed] } : {}),
          replicas,
        },
      ],
    };
    const serving = process.lane.attach(grant, { signal: new AbortController().signal });
    const entry: Entry = {
      epoch,
      serving,
      primary: null,
      links: new Set(),
      ending: null,
      cancelIdle: () => {},
    };
    process.entries.set(volume.name, entry);
    serving.then(
      (primary) => {
        if (process.clock.dead) return;
        entry.primary = primary;
        this.onServing(volume.name, epoch, grantedMs);
        primary.onStopped(() => {
          void this.#end(process, volume, entry, false);
        });
      },
      () => {
        void this.#end(process, volume, entry, false);
      },
    );
    return entry;
  }

  #end(process: LaneProcess, volume: SimVolume, entry: Entry, clean: boolean): Promise<void> {
    entry.ending ??= this.#endOnce(process, volume, entry, clean);
    return entry.ending;
  }

  async #endOnce(
    process: LaneProcess,
    volume: SimVolume,
    entry: Entry,
    clean: boolean,
  ): Promise<void> {
    entry.cancelIdle();
    for (const link of [...entry.links]) link.lost();
    if (entry.primary) await entry.primary.stop();
    if (process.entries.get(volume.name) === entry) process.entries.delete(volume.name);
    if (!process.clock.dead) this.control.released(volume.name, entry.epoch, clean);
  }

  #watchIdle(process: LaneProcess, volume: SimVolume, entry: Entry): void {
    entry.cancelIdle();
    if (entry.ending || entry.links.size > 0 || process.clock.dead) return;
    entry.cancelIdle = process.clock.after(autoDetachMs, () => {
      void this.#end(process, volume, entry, true);
    });
  }

  /** A promise of a process that may die. */
  #within<T>(process: LaneProcess, promise: Promise<T>, ms: number): Promise<T> {
    return new Promise((resolve, reject) => {
      let open = true;
      const close = (then: () => void): void => {
        open = false;
        then();
      };
      const end = this.scheduler.nowMs + ms;
      const look = (): void => {
        if (!open) return;
        if (process.clock.dead || this.scheduler.nowMs > end) {
          close(() => reject(new StorError('UNAVAILABLE', 'no answer')));
        } else this.scheduler.at(100, look);
      };
      look();
      promise.then(
        (value) => close(() => resolve(value)),
        (error: unknown) => close(() => reject(StorError.from(error))),
      );
    });
  }
}

function replicaId(volume: string, node: number): string {
  return `r-${volume}-${node}`;
}
