import { setMaxListeners } from 'node:events';

import type { ClusterStore } from '@stor/control-plane';
import { SocketRpcTransport } from '@stor/control-plane/testing';
import { StorError, loadServices, type RpcOutcome, type VolumeRecord } from '@stor/protocol';
import { Agent, type AgentConfig, type Platform } from '@stor/node-agent';
import { startLaneInThread, type ThreadLaneHost } from '@stor/node-agent/testing';
import type { Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';
import { MemoryKeyValueDisk } from 'raft-ts/testing';

import { SimNetwork, linksOf } from '../world/network.ts';
import { HostClock, ProcessClock } from '../world/process-clock.ts';
import { simLogger, type LogSink } from '../world/sim-logger.ts';
import { SimScheduler } from '../world/scheduler.ts';
import { AgentBackups, type KnownRecords } from './agent-backups.ts';
import type { ClusterOptions } from './lane-cluster.ts';
import { NbdLink } from './nbd-link.ts';
import { recordedSet } from './recorded-set.ts';
import { viewOf } from './replica-view.ts';
import {
  operatorHost,
  peersPorts,
  type ClientLink,
  type CommittedSet,
  type ControlBackups,
  type KnownSnapshot,
  type ReplicaView,
  type SimCluster,
  type SimVolume,
} from './sim-cluster.ts';
import { SimNode } from './sim-node.ts';
import { SnapshotTable, type SnapshotRow } from './snapshot-table.ts';

const clusterId = 'c-0000000000000001';
const ports = { api: 1, nbd: [3, 5] };
const secondDiskPath = '/data/disks/d2';
/** Small journal files, so that they fill and switch all the time (bytes). */
const diskOptions = { journalBytes: 24 * 4096, reserveBytes: 1024 * 1024, sumsCacheSlots: 32 };
/** Many checkpoints in little time, so that faults meet them. */
const checkpointPace = { everyMs: 3_000, restSeconds: 2, minMs: 1_000 };
const volumesPrefix = '/stor/volumes/';
const snapshotsPrefix = '/stor/snapshots/';
const dataDir = '/data';
const logPath = `${dataDir}/raft/log`;

interface AgentProcess {
  clock: ProcessClock;
  agent: Agent | null;
  lanes: ThreadLaneHost[];
}

/** Whole agents: control plane on Raft, lanes, NBD servers, disks; clients over NBD. */
export class AgentCluster implements SimCluster {
  readonly scheduler = new SimScheduler();
  readonly random: Random;
  readonly network: SimNetwork;
  readonly nodes: SimNode[] = [];
  readonly volumes: SimVolume[];
  readonly diskPath = '/data/disks/d1';
  onCommitted: (set: CommittedSet) => void = () => {};
  onSnapshot: (snapshot: KnownSnapshot) => void = () => {};
  onServing: (volume: string, epoch: number, grantedMs: number) => void = () => {};
  onEnded: (node: number, how: 'kill' | 'power') => void = () => {};
  readonly #options: ClusterOptions;
  readonly backups: ControlBackups;
  readonly #logs: MemoryKeyValueDisk[] = [];
  readonly #processes = new Map<number, AgentProcess>();
  readonly #log: LogSink;
  /** newest record of each volume that any node has applied, by name */
  readonly #records: KnownRecords = new Map();
  readonly #snapshots = new SnapshotTable((row) => {
    const volume = this.#nameOf(row.volumeId);
    if (volume !== null) this.onSnapshot(knownOf(row, volume));
  });
  readonly #nodeOf = new Map<string, number>();
  readonly #operatorClock: ProcessClock;
  #services: Awaited<ReturnType<typeof loadServices>> | null = null;

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.volumes = options.volumes;
    this.random = new SeededRandom(options.seed);
    this.network = new SimNetwork(this.scheduler, this.random);
    this.#operatorClock = this.#hostClock();
    this.#log = (level, node, fields, message) => {
      options.log(level, node, fields, message);
      this.#notice(message, fields);
    };
    for (let index = 0; index < options.nodes; index++) this.#addNode(index);
    this.backups = new AgentBackups({
      store: () => this.#processes.get(this.leader())?.agent?.store ?? null,
      records: this.#records,
      logs: this.#logs,
      logPath,
      voters: this.nodes.map(({ index }) => nodeIdOf(index)),
      volumesPrefix,
      snapshots: () => this.#snapshots.fingerprint,
    });
  }

  /** Loads what must be read from real files; before `scheduler.drive`. */
  async prepare(): Promise<void> {
    this.#services = await loadServices();
  }

  async create(): Promise<void> {
    for (const node of this.nodes) node.start();
    const { scheduler } = this;
    const areUp = (): boolean =>
      this.nodes.every(({ index }) => this.#processes.get(index)?.agent !== null) &&
      this.leader() >= 0;
    if (!(await scheduler.until(areUp, 60_000))) throw new Error('the agents do not start');
    if (this.#lanes > 1) await this.#addDisks();
    for (const { name, sizeBytes, replicas, replacementWaitMs } of this.volumes) {
      await this.operate('CreateVolume', {
        name,
        sizeBytes,
        replicas,
        labels: this.#options.labels ?? {},
        ...(replacementWaitMs === undefined ? {} : { policy: { replacementWaitMs } }),
        requestId: name,
      });
    }
    const exist = (): boolean =>
      this.volumes.every((volume) => this.#record(volume)?.status.phase === 'ready');
    if (!(await scheduler.until(exist, 60_000))) throw new Error('the volumes are not made');
  }

  /** The second one of each node, which is the second lane's. */
  async #addDisks(): Promise<void> {
    for (const { host } of this.nodes) {
      const disk = { node: host, path: secondDiskPath, tag: '', requestId: `add-${host}` };
      await this.operate('AddDisk', disk);
    }
  }

  get #lanes(): number {
    return this.#options.lanes ?? 1;
  }

  /** One call of the API, by whichever node answers. */
  async operate(method: string, request: object): Promise<unknown> {
    let last = '';
    for (let attempt = 0; attempt < 60; attempt++) {
      const outcome = await this.#call(attempt % this.nodes.length, method, request);
      if (outcome.type === 'answered') return outcome.response;
      last = outcome.type === 'refused' ? outcome.error.message : outcome.type;
      await this.scheduler.sleep(500);
    }
    throw new StorError('UNAVAILABLE', `${method} failed: ${last}`);
  }

  async order(method: string, request: object, asked?: number): Promise<boolean> {
    return (await this.tryOrder(method, request, asked)) === null;
  }

  async tryOrder(method: string, request: object, asked?: number): Promise<StorError | null> {
    const first = asked ?? Math.floor(this.random.next() * this.nodes.length);
    let last = new StorError('UNAVAILABLE', 'nobody was asked');
    for (let i = 0; i < this.nodes.length; i++) {
      const outcome = await this.#call((first + i) % this.nodes.length, method, request);
      if (outcome.type === 'answered') return null;
      last =
        outcome.type === 'refused' ? outcome.error : new StorError('UNAVAILABLE', outcome.type);
      // a refusal is an answer too
      if (last.code !== 'UNAVAILABLE') return last;
    }
    return last;
  }

  sizeOf(volume: SimVolume): number {
    return this.#record(volume)?.spec.sizeBytes ?? volume.sizeBytes;
  }

  async #call(node: number, method: string, request: object): Promise<RpcOutcome> {
    const transport = this.#transport(operatorHost, this.#operatorClock);
    const channel = transport.channel(`${this.nodes[node]?.host ?? ''}:${ports.api}`, 'stor');
    try {
      return await channel.call({ method, request, timeoutMs: 10_000, connectTimeoutMs: 800 });
    } finally {
      channel.close();
    }
  }

  connect(host: string, node: number, volume: SimVolume, reconnects: boolean): Promise<ClientLink> {
    const clock = this.#clientClock(host);
    // as likely as not that of another lane than the volume's
    const lane = this.#lanes > 1 && this.random.next() < 0.5 ? 1 : 0;
    const addresses = this.nodes.map((_, i) => {
      const target = this.nodes[(node + i) % this.nodes.length];
      return { host: target?.host ?? '', port: ports.nbd[lane] ?? 0 };
    });
    return NbdLink.open({
      network: this.network.of(host, clock),
      clock,
      volume,
      addresses,
      reconnects,
      chance: () => this.random.next(),
    });
  }

  committed(volume: SimVolume): CommittedSet {
    const found = this.#records.get(volume.name);
    if (!found) throw new Error(`no record of ${volume.name}`);
    return recordedSet(found.record);
  }

  controlLinks(node: number): [string, string][] {
    const host = this.nodes[node]?.host ?? '';
    const others = this.nodes.filter((each) => each.index !== node).map((each) => each.host);
    return others.flatMap((other): [string, string][] => [
      [host, `${other}:${ports.api}`],
      [other, `${host}:${ports.api}`],
    ]);
  }

  dataLinks(a: number, b: number): [string, string][] {
    const [from, to] = [this.nodes[a]?.host ?? '', this.nodes[b]?.host ?? ''];
    return peersPorts.slice(0, this.#lanes).flatMap((port) => linksOf(from, to, port));
  }

  holderOf(volume: SimVolume): number {
    const nodeId = this.#record(volume)?.status.attachment?.nodeId;
    return nodeId === undefined ? -1 : indexOf(nodeId);
  }

  leader(): number {
    for (const [index, { agent, clock }] of this.#processes) {
      if (clock.running && agent?.store?.status().isLeader) return index;
    }
    return -1;
  }

  replicasOf(volume: SimVolume): ReplicaView[] {
    const id = this.#record(volume)?.metadata.id;
    const views: ReplicaView[] = [];
    for (const [index, { lanes, clock }] of this.#processes) {
      for (const disk of lanes.flatMap(({ lane }) => lane.stores)) {
        for (const store of disk.replicas()) {
          if (store.volumeId === id) views.push(viewOf(store, index, clock, this.scheduler));
        }
      }
    }
    return views;
  }

  nodeOfReplica(replicaId: string): number {
    return this.#nodeOf.get(replicaId) ?? -1;
  }

  async unhealthy(volume: SimVolume): Promise<string | null> {
    const record = this.#record(volume);
    const [segment] = record?.status.segments ?? [];
    if (!record || !segment) return 'no record';
    const { inSync, replicas } = segment;
    const failed = replicas.filter(({ state }) => state === 'failed');
    // without a spare node there is nowhere to put another one
    const hasSpare = this.nodes.length > replicas.length;
    const wanted = record.spec.replicas - (hasSpare ? 0 : failed.length);
    const leaving = replicas.filter((replica) => replica.leaving === true);
    if (leaving.length > 0) return `still leaving: ${leaving.map(({ id }) => id).join()}`;
    if (inSync.length < wanted) return `in sync: ${inSync.join()}`;
    for (const { id, nodeId } of replicas) {
      if (failed.some((replica) => replica.id === id)) continue;
      const node = this.nodes[indexOf(nodeId)];
      if (!node?.clock.running) return `${id} is on ${nodeId}, which is not up`;
    }
    const lanes = this.#processes.get(this.holderOf(volume))?.lanes ?? [];
    const live = await Promise.all(lanes.map(({ lane }) => lane.liveVolumes()));
    const own = live.flat().find(({ volumeId }) => volumeId === record.metadata.id);
    if (!own) return null;
    if (own.state !== 'serving') return `${own.state}: ${own.reason}`;
    const behind = own.replicas.filter(({ state }) => state !== 'in-sync' && state !== 'failed');
    if (behind.length > 0) return JSON.stringify(behind);
    return own.settleBytesRemaining > 0 ? 'not settled' : null;
  }

  /** The attachment of nobody is given back by itself. */
  detach(volume: SimVolume): Promise<boolean> {
    return this.scheduler.until(() => this.holderOf(volume) < 0, 120_000, 250);
  }

  // processes

  /** Ends the agent of a node in order, as SIGTERM does. */
  async stop(node: SimNode): Promise<void> {
    const { agent } = this.#processes.get(node.index) ?? {};
    await agent?.close();
    node.kill();
  }

  #addNode(index: number): void {
    const { scheduler, network, random } = this;
    const { seed } = this.#options;
    const node = new SimNode({
      index,
      scheduler,
      network,
      random,
      seed: seed * 31 + index,
      punches: seed % 2 === 0,
      clockRate: 1 + (random.next() - 0.5) * 0.02,
      boot: (each, clock) => this.#boot(each, clock),
      ended: (each, how) => {
        this.#ended(each, how);
      },
    });
    this.nodes.push(node);
    const chance = new SeededRandom(seed * 53 + index);
    this.#logs.push(
      new MemoryKeyValueDisk({
        random: () => chance.next(),
        schedule: (run) => {
          // on the process's clock: one that is stopped hears of no write before it goes on
          if (node.isUp) node.clock.after(random.next() * (0.4 + node.slowDiskMs), run);
          else queueMicrotask(run);
        },
      }),
    );
  }

  async #boot(node: SimNode, clock: ProcessClock): Promise<void> {
    const process: AgentProcess = { clock, agent: null, lanes: [] };
    this.#processes.set(node.index, process);
    const logger = simLogger(node.host, this.#log);
    const agent = await Agent.start(
      this.#config(node),
      logger,
      this.#platform(node, clock, process, logger),
    );
    if (clock.dead) return;
    process.agent = agent;
    agent.onFatal((error) => {
      logger.error({ error: error.message }, 'the agent cannot go on');
      clock.after(0, () => node.exit());
    });
    void this.#watch(agent);
  }

  #platform(
    node: SimNode,
    clock: ProcessClock,
    process: AgentProcess,
    logger: ReturnType<typeof simLogger>,
  ): Platform {
    const files = node.files.process();
    const network = this.network.of(node.host, clock);
    const logs = this.#logs[node.index];
    if (!logs) throw new Error('no disk for the Raft log');
    const random = new SeededRandom(this.#options.seed * 977 + node.index * 131 + node.starts);
    const { bootId } = node.files;
    return {
      clock,
      random,
      files,
      logs,
      rpc: this.#transport(node.host, clock),
      bootId: () => bootId,
      startLane: (options, control) => {
        const machine = { files, network, diskOptions, checkpointPace };
        const lane = startLaneInThread(options, control, { clock, logger, machine });
        process.lanes.push(lane);
        return lane;
      },
      listenHttp: null,
      writePidFile: () => () => Promise.resolve(),
    };
  }

  #config(node: SimNode): AgentConfig {
    return {
      clusterId,
      clusterName: 'sim',
      nodeId: nodeIdOf(node.index),
      nodeName: node.host,
      dataDir,
      lanes: this.#lanes,
      listen: {
        ...{ host: node.host, api: ports.api, http: 0 },
        peers: peersPorts.slice(0, this.#lanes),
        nbd: ports.nbd.slice(0, this.#lanes),
      },
      members: this.nodes.map(({ index, host }) => ({
        id: nodeIdOf(index),
        name: host,
        api: `${host}:${ports.api}`,
      })),
      logLevel: 'info',
      autoDisk: true,
      insecureListen: true,
    };
  }

  #ended(node: SimNode, how: 'kill' | 'power'): void {
    const logs = this.#logs[node.index];
    if (how === 'power') logs?.losePower();
    else logs?.kill();
    this.#processes.delete(node.index);
    this.onEnded(node.index, how);
  }

  #transport(host: string, clock: ProcessClock): SocketRpcTransport {
    const services = this.#services;
    if (!services) throw new Error('prepare() comes first');
    return new SocketRpcTransport({ network: this.network.of(host, clock), clock, services });
  }

  #hostClock(): ProcessClock {
    return new ProcessClock(new HostClock(this.scheduler, 1));
  }

  readonly #clientClocks = new Map<string, ProcessClock>();

  #clientClock(host: string): ProcessClock {
    let clock = this.#clientClocks.get(host);
    if (!clock) {
      clock = this.#hostClock();
      this.#clientClocks.set(host, clock);
    }
    return clock;
  }

  // what the control plane has committed

  #record(volume: SimVolume): VolumeRecord | null {
    return this.#records.get(volume.name)?.record ?? null;
  }

  /** In the event in which a node applies a change, it is known here. */
  async #watch(agent: Agent): Promise<void> {
    const { store } = agent;
    if (!store) return;
    const { revision, items } = await store.list(volumesPrefix, { local: true });
    for (const { value, modRevision } of items) this.#learn(value, modRevision);
    void this.#watchSnapshots(store);
    for await (const events of store.watch(volumesPrefix, revision, this.#never.signal)) {
      for (const event of events) if (event.value) this.#learn(event.value, event.revision);
    }
  }

  async #watchSnapshots(store: ClusterStore): Promise<void> {
    const { revision, items } = await store.list(snapshotsPrefix, { local: true });
    this.#snapshots.listed(items, revision);
    for await (const events of store.watch(snapshotsPrefix, revision, this.#never.signal)) {
      for (const { key, value, revision: at } of events) this.#snapshots.learn(key, value, at);
    }
  }

  #nameOf(volumeId: string): string | null {
    for (const { record } of this.#records.values()) {
      if (record.metadata.id === volumeId) return record.metadata.name;
    }
    return null;
  }

  snapshotsOf(volume: SimVolume): KnownSnapshot[] {
    const id = this.#record(volume)?.metadata.id ?? '';
    return this.#snapshots.of(id).map((row) => knownOf(row, volume.name));
  }

  /** every store that is ever watched listens to it */
  readonly #never = neverAborted();

  #learn(value: Uint8Array, revision: number): void {
    const record = JSON.parse(Buffer.from(value).toString()) as VolumeRecord;
    const { name } = record.metadata;
    const known = this.#records.get(name);
    if (known && known.revision >= revision) return;
    this.#records.set(name, { record, revision });
    for (const { id, nodeId } of record.status.segments[0]?.replicas ?? []) {
      this.#nodeOf.set(id, indexOf(nodeId));
    }
    const now = recordedSet(record);
    const before = known ? recordedSet(known.record) : null;
    const isSame = before?.setRevision === now.setRevision;
    if (!isSame || String(before.whole) !== String(now.whole)) this.onCommitted(now);
  }

  #notice(message: string, fields: object): void {
    if (message !== 'the primary serves') return;
    const { volume, epoch, tookMs } = fields as { volume: string; epoch: number; tookMs: number };
    for (const { record } of this.#records.values()) {
      if (record.metadata.id !== volume) continue;
      this.onServing(record.metadata.name, epoch, this.scheduler.nowMs - tookMs * 1.05 - 1);
    }
  }
}

function knownOf(row: SnapshotRow, volume: string): KnownSnapshot {
  const { id, name, state, sizeBytes, groupId } = row;
  return { id, volume, name, state, sizeBytes, groupId };
}

function nodeIdOf(index: number): string {
  return `n-${String(index).padStart(16, '0')}`;
}

function indexOf(nodeId: string): number {
  return Number(nodeId.slice(2));
}

function neverAborted(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
