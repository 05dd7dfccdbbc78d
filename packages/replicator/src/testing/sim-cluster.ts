import {
  StorError,
  blockBytes,
  segmentBytesOf,
  segmentCount,
  segmentSizeBytes,
} from '@stor/protocol';
import { SharedBytes, silentLogger, type Logger, type Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';

import type { BackgroundTurns } from '../background-turns.ts';
import type { BlockRequest } from '../block-device.ts';
import type { PrimaryVolume } from '../primary/primary-volume.ts';
import { checkpointPace, type CheckpointPace } from '../replication/limits.ts';
import { LaneReplicator, type ReplicaFailure } from '../replication/lane-replicator.ts';
import { FakeControl, type SegmentReplica } from './fake-control.ts';
import { MemoryReplicaState } from './memory-replica-state.ts';
import { MemoryDiskStore } from './memory-disk-store.ts';
import type { MemoryReplicaStore } from './memory-replica-store.ts';
import { ProcessClock, SimScheduler } from './sim-clock.ts';
import { SimNetwork } from './sim-network.ts';

/** Microtasks that a promise chain of the engine may need between two events. */
const microtaskRounds = 12;

export interface SimNode {
  id: string;
  port: number;
  starts: number;
  clock: ProcessClock;
  disk: MemoryDiskStore | null;
  lane: LaneReplicator | null;
  failures: ReplicaFailure[];
  controlReachable: boolean;
}

export interface SimClusterOptions {
  seed: number;
  sizeBytes: number;
  /** @default one segment, whatever the size */
  segmentBytes?: number;
  nodes?: number;
  /** nodes that hold a replica; the others are diskless */
  replicaNodes?: number;
  checkpointPace?: CheckpointPace;
  /** by node. @default background work has its lanes to itself */
  turns?: readonly BackgroundTurns[];
  logger?: Logger;
}

/** Nodes with one volume in one process: stores, lanes, network and control plane from one seed. */
export class SimCluster {
  readonly scheduler = new SimScheduler();
  readonly random: Random;
  readonly network: SimNetwork;
  readonly control: FakeControl;
  readonly nodes: SimNode[] = [];
  readonly states: MemoryReplicaState[] = [];
  /** where each of `states` lies: index of its node */
  readonly places: number[] = [];
  /** as recorded */
  readonly volume: { volumeId: string; sizeBytes: number; segmentBytes: number };
  readonly #options: SimClusterOptions;
  #nextReplica = 0;

  constructor(options: SimClusterOptions) {
    this.#options = options;
    this.random = new SeededRandom(options.seed);
    this.network = new SimNetwork(this.scheduler, this.random);
    const { sizeBytes } = options;
    const segmentBytes = segmentBytesOf(options);
    this.volume = { volumeId: 'v-1', sizeBytes, segmentBytes };
    const nodes = options.nodes ?? 3;
    const replicas = options.replicaNodes ?? nodes;
    const sets = this.#firstReplicas(nodes, replicas);
    const [first = [], ...others] = sets;
    this.control = new FakeControl(this.scheduler, this.random, first, others);
    for (let i = 0; i < nodes; i++) {
      this.nodes.push({
        id: `n-${i}`,
        port: 100 + i,
        starts: 0,
        clock: new ProcessClock(this.scheduler),
        disk: null,
        lane: null,
        failures: [],
        controlReachable: true,
      });
      this.start(i);
    }
  }

  /** Those of each segment begin one node further on; returns their ids by segment. */
  #firstReplicas(nodes: number, replicas: number): string[][] {
    const { sizeBytes, segmentBytes } = this.volume;
    const count = segmentCount(sizeBytes, segmentBytes);
    return Array.from({ length: count }, (_, segment) =>
      this.#placeSegment(segment, nodes, replicas, sizeBytes),
    );
  }

  #placeSegment(segment: number, nodes: number, replicas: number, volumeBytes: number): string[] {
    const sizeBytes = segmentSizeBytes(volumeBytes, this.volume.segmentBytes, segment);
    return Array.from({ length: replicas }, (_, i) => {
      const replicaId = `r-${this.#nextReplica++}`;
      const state = new MemoryReplicaState({ replicaId, volumeId: 'v-1', segment, sizeBytes });
      const place = (segment + i) % nodes;
      this.states.push(state);
      this.places.push(place);
      this.nodes[place]?.disk?.open(state);
      return replicaId;
    });
  }

  /** The record gets a larger size, with the segments that it then has; `push` tells the primary. */
  recordSize(sizeBytes: number): void {
    const { volume, control } = this;
    const replicas = this.#options.replicaNodes ?? this.nodes.length;
    const count = segmentCount(sizeBytes, volume.segmentBytes);
    for (let segment = control.sets.length; segment < count; segment++) {
      control.addSegment(this.#placeSegment(segment, this.nodes.length, replicas, sizeBytes));
    }
    volume.sizeBytes = sizeBytes;
    control.sizeBytes = sizeBytes;
  }

  node(index: number): SimNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`no node ${index}`);
    return node;
  }

  store(index: number): MemoryReplicaStore {
    const store = this.node(index).disk?.replicas()[0];
    if (!store) throw new Error(`no store on node ${index}`);
    return store;
  }

  /** A new, empty replica on a node that has none; `push` tells the primary. */
  addReplica(index: number): string {
    const replicaId = `r-${this.#nextReplica++}`;
    const identity = { replicaId, volumeId: 'v-1', segment: 0 };
    const state = new MemoryReplicaState({ ...identity, sizeBytes: this.volume.sizeBytes });
    this.states.push(state);
    this.places.push(index);
    this.node(index).disk?.open(state);
    return replicaId;
  }

  /** Takes those out of the record that are marked to go and out of the set, and deletes them. */
  removeLeft(): string[] {
    const { leaving, inSync } = this.control;
    const gone = [...leaving].filter((id) => !inSync.includes(id));
    for (const id of gone) {
      const at = this.states.findIndex((state) => state.identity.replicaId === id);
      leaving.delete(id);
      if (at < 0) continue;
      void this.node(this.places[at] ?? 0).disk?.deleteReplica(id);
      this.states.splice(at, 1);
      this.places.splice(at, 1);
    }
    return gone;
  }

  /** Tells the holder what the record says now, as a controller does; it may be late. */
  push(delayMs = 0): void {
    const index = this.nodes.findIndex((node) => node.id === this.control.holder);
    if (index < 0) return;
    const settings = this.control.settings('v-1', this.#granted());
    const { clock, lane } = this.node(index);
    this.scheduler.at(delayMs, () => {
      clock.run(() => lane?.updateVolume(settings));
    });
  }

  start(index: number): void {
    const node = this.node(index);
    if (node.lane) return;
    node.starts += 1;
    const clock = new ProcessClock(this.scheduler);
    node.clock = clock;
    const states = this.states.filter((_state, at) => this.places[at] === index);
    const disk = new MemoryDiskStore(`d-${index}`, states, clock, this.random);
    node.disk = disk;
    const port = this.control.portOf(() => node.controlReachable && !clock.dead);
    const turns = this.#options.turns?.[index];
    const lane = new LaneReplicator({
      ...(turns ? { turns } : {}),
      nodeId: node.id,
      agentInstance: `i-${index}-${node.starts}`,
      clusterId: 'c-1',
      clock,
      logger: this.#options.logger ?? silentLogger,
      // an answer reaches a process only while it lives
      control: {
        noteEvent: async (note) => port.noteEvent?.(note),
        proposeSet: (proposal) =>
          new Promise((resolve, reject) => {
            port.proposeSet(proposal).then(
              (answer) => {
                clock.run(() => {
                  resolve(answer);
                });
              },
              (error: unknown) => {
                clock.run(() => {
                  reject(StorError.from(error));
                });
              },
            );
          }),
      },
      connect: (host, peerPort) => this.network.connect(node.id, clock, host, peerPort),
      stores: () => [disk],
      onReplicaFailure: (failure) => node.failures.push(failure),
      checkpointPace: this.#options.checkpointPace ?? checkpointPace,
    });
    node.lane = lane;
    this.network.listen(node.id, 'sim', node.port, clock, (socket) => {
      lane.acceptPeer(socket);
    });
  }

  /** kill -9: the page cache stays. */
  kill(index: number): void {
    const node = this.node(index);
    if (!node.lane) return;
    node.clock.kill();
    node.disk?.crash();
    node.lane = null;
    node.disk = null;
    this.network.drop(node.id);
  }

  /** The host loses power: what was not flushed is lost in part. */
  cutPower(index: number): void {
    this.kill(index);
    this.states.forEach((state, at) => {
      if (this.places[at] === index) state.losePower(this.random);
    });
  }

  pause(index: number): void {
    this.node(index).clock.pause();
  }
  resume(index: number): void {
    this.node(index).clock.resume();
  }

  /** Grants the next epoch to a node and attaches there. */
  attach(index: number, signal?: AbortSignal): Promise<PrimaryVolume> {
    const node = this.node(index);
    if (!node.lane) return Promise.reject(new StorError('UNAVAILABLE', 'the node is down'));
    const replicas = this.#granted();
    const grant = this.control.grant(node.id, this.volume, replicas);
    return node.lane.attach(grant, { signal: signal ?? new AbortController().signal });
  }

  #granted(): SegmentReplica[] {
    return this.states.map(({ identity }, at) => {
      const index = this.places[at] ?? 0;
      return {
        segment: identity.segment,
        id: identity.replicaId,
        nodeId: `n-${index}`,
        diskId: `d-${index}`,
        host: 'sim',
        port: 100 + index,
        leaving: false,
        failed: false,
        purpose: 'volume',
      };
    });
  }

  async run(ms: number): Promise<void> {
    await this.until(() => false, ms);
  }

  /** Runs until the condition holds; false when it does not within `ms` of simulated time. */
  async until(condition: () => boolean, ms: number): Promise<boolean> {
    const end = this.scheduler.nowMs + ms;
    await this.settle();
    while (!condition()) {
      const more = this.scheduler.step(end);
      await this.settle();
      if (!more) return condition();
    }
    return true;
  }

  /** Waits for a promise of the engine while time goes on. */
  async wait<T>(promise: Promise<T>, ms = 60_000): Promise<T> {
    let over = false;
    const mark = (): void => {
      over = true;
    };
    promise.then(mark, mark);
    if (!(await this.until(() => over, ms))) throw new Error(`nothing within ${ms} simulated ms`);
    return promise;
  }

  async settle(): Promise<void> {
    for (let i = 0; i < microtaskRounds; i++) await Promise.resolve();
    this.scheduler.runTurn();
  }
}

type Submit = 'read' | 'write' | 'writeZeroes' | 'trim' | 'flush';

/** One request as a promise; the payload is scrambled as soon as the device may no longer use it. */
export function request(
  device: PrimaryVolume,
  kind: Submit,
  offset: number,
  length: number,
  bytes: Uint8Array | null,
  options: { fua?: boolean; retained?: boolean; noHole?: boolean } = {},
): Promise<StorError | null> {
  return new Promise((resolve) => {
    const retained = options.retained ?? kind === 'read';
    const payload = kind === 'write' && bytes ? Buffer.from(bytes) : bytes;
    // what is retained is held by whoever needs it after the answer, or copied by him
    const isShared = kind === 'write' && retained && Math.floor(offset / blockBytes) % 2 === 0;
    const memory = isShared && payload ? new SharedBytes(Buffer.from(payload), scramble) : null;
    const blockRequest: BlockRequest = {
      offset,
      length,
      bytes: memory?.bytes ?? payload,
      start: 0,
      retained,
      memory,
      fua: options.fua ?? false,
      noHole: options.noHole ?? false,
      done: (error) => {
        if (kind === 'write') payload?.fill(0xee);
        memory?.release();
        resolve(error);
      },
    };
    device[kind](blockRequest);
    if (kind === 'write' && !retained) payload?.fill(0xee);
  });
}

function scramble(bytes: Buffer): void {
  bytes.fill(0xee);
}
