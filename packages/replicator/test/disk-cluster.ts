import { StorError, type AttachmentGrant } from '@stor/protocol';
import { silentLogger, type Logger } from '@stor/runtime';
import { FaultyFiles, SeededRandom } from '@stor/runtime/testing';
import { FakeControl, ProcessClock, SimNetwork, SimScheduler } from '@stor/replicator/testing';
import {
  type DiskStore,
  LaneReplicator,
  openDiskStore,
  type PrimaryVolume,
  type ReplicaStore,
} from '../src/index.ts';
import { Failures } from './store-fixture.ts';

const clusterId = 'c-0000000000000001';
const volumeId = 'v-0000000000000001';
/** Small journal files, so that they fill and switch all the time (bytes). */
const journalBytes = 20 * 4096;

export interface DiskNode {
  index: number;
  id: string;
  replicaId: string;
  files: FaultyFiles;
  failures: Failures;
  clock: ProcessClock;
  starts: number;
  disk: DiskStore | null;
  lane: LaneReplicator | null;
  /** the disk could not be opened: why */
  refused: StorError | null;
}

export interface DiskClusterOptions {
  seed: number;
  sizeBytes: number;
  nodes?: number;
  replicas?: number;
  capacityBytes?: number;
  logger?: Logger;
}

/** Three lanes on real disk stores, which lie on file systems in memory that lose what is not synced. */
export class DiskCluster {
  readonly scheduler = new SimScheduler();
  readonly random: SeededRandom;
  readonly network: SimNetwork;
  readonly control: FakeControl;
  readonly nodes: DiskNode[] = [];
  sizeBytes: number;
  /** called when a host lost power, in whatever way */
  onPowerLoss: (index: number) => void = () => {};
  /** called at each step */
  onStep: () => void = () => {};
  readonly #options: DiskClusterOptions;
  readonly #replicas: number;
  #open = true;

  constructor(options: DiskClusterOptions) {
    this.#options = options;
    this.sizeBytes = options.sizeBytes;
    this.random = new SeededRandom(options.seed);
    this.network = new SimNetwork(this.scheduler, this.random);
    const count = options.nodes ?? 3;
    this.#replicas = options.replicas ?? count;
    for (let index = 0; index < count; index++) {
      const files = new FaultyFiles({
        seed: options.seed * 31 + index,
        punches: (options.seed + index) % 2 === 0,
        ...(options.capacityBytes === undefined ? {} : { capacityBytes: options.capacityBytes }),
      });
      this.nodes.push({
        index,
        id: `n-000000000000000${index}`,
        replicaId: `r-000000000000000${index}`,
        files,
        failures: new Failures(),
        clock: new ProcessClock(this.scheduler),
        starts: 0,
        disk: null,
        lane: null,
        refused: null,
      });
    }
    this.control = new FakeControl(
      this.scheduler,
      this.random,
      this.nodes.slice(0, this.#replicas).map(({ replicaId }) => replicaId),
    );
    // a call of a disk takes about a millisecond for each turn it needs
    const beat = (): void => {
      if (this.#open) this.scheduler.at(1, beat);
    };
    beat();
  }

  node(index: number): DiskNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`no node ${index}`);
    return node;
  }

  replica(index: number): ReplicaStore | null {
    const node = this.node(index);
    return node.disk?.replica(node.replicaId) ?? null;
  }

  async create(): Promise<void> {
    for (const node of this.nodes) {
      await this.wait(this.start(node.index));
      if (node.index >= this.#replicas) continue;
      const { replicaId } = node;
      const { sizeBytes } = this;
      const made = node.disk?.createReplica({ replicaId, volumeId, segment: 0, sizeBytes });
      if (made) await this.wait(made);
    }
  }

  /** Resolves when the disk is open or was refused; never when the process dies before. */
  async start(index: number): Promise<void> {
    const node = this.node(index);
    if (node.lane || (node.starts > 0 && !node.clock.dead)) return;
    node.starts += 1;
    node.refused = null;
    const clock = new ProcessClock(this.scheduler);
    node.clock = clock;
    node.files.onCrash = () => {
      this.#died(node);
    };
    const { files } = node;
    try {
      const disk = await openDiskStore({
        path: '/disk',
        expect: { clusterId, nodeId: node.id },
        create: { diskId: `d-000000000000000${index}` },
        files: files.process(),
        clock,
        logger: silentLogger,
        bootId: files.bootId,
        failures: {
          record: (failure) => {
            if (!clock.dead) node.failures.record(failure);
          },
          failuresOf: (id) => node.failures.failuresOf(id),
        },
        options: { journalBytes, reserveBytes: 1024 * 1024, sumsCacheSlots: 32 },
      });
      if (clock.dead) return;
      node.disk = disk;
    } catch (error) {
      if (clock.dead) return;
      node.refused = StorError.from(error);
    }
    this.#startLane(node, clock);
  }

  #startLane(node: DiskNode, clock: ProcessClock): void {
    const port = this.control.portOf(() => !clock.dead);
    const lane = new LaneReplicator({
      nodeId: node.id,
      agentInstance: `i-${node.index}-${node.starts}`,
      clusterId,
      clock,
      logger: this.#options.logger?.child({ node: node.id }) ?? silentLogger,
      control: {
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
      stores: () => (node.disk ? [node.disk] : []),
      onReplicaFailure: () => {},
      checkpointPace: { everyMs: 500, restSeconds: 1, minMs: 250 },
    });
    node.lane = lane;
    this.network.listen(node.id, 'sim', 100 + node.index, clock, (socket) => {
      lane.acceptPeer(socket);
    });
  }

  #died(node: DiskNode): void {
    const lostPower = node.files.bootId;
    node.clock.kill();
    node.lane = null;
    node.disk = null;
    this.network.drop(node.id);
    if (lostPower !== this.#bootIds.get(node.index)) {
      this.#bootIds.set(node.index, lostPower);
      this.onPowerLoss(node.index);
    }
  }

  readonly #bootIds = new Map<number, string>([
    [0, 'boot-0'],
    [1, 'boot-0'],
    [2, 'boot-0'],
    [3, 'boot-0'],
  ]);

  /** kill -9: the page cache stays. */
  kill(index: number): void {
    const node = this.node(index);
    node.files.kill();
    this.#died(node);
  }

  /** The host loses power: what was not synced is lost in part. */
  cutPower(index: number): void {
    const node = this.node(index);
    node.files.powerLoss();
    this.#died(node);
  }

  #granted(): AttachmentGrant['segments'][0]['replicas'] {
    return this.nodes.slice(0, this.#replicas).map(({ id, replicaId }, i) => ({
      id: replicaId,
      nodeId: id,
      diskId: `d-000000000000000${i}`,
      host: 'sim',
      port: 100 + i,
      leaving: false,
      failed: false,
      purpose: 'volume',
    }));
  }

  /** Tells the holder what the record says now. */
  push(): void {
    const holder = this.nodes.find(({ id }) => id === this.control.holder);
    const settings = this.control.settings(volumeId, this.#granted());
    if (holder?.lane) holder.lane.updateVolume(settings);
  }

  attach(index: number): Promise<PrimaryVolume> {
    const node = this.node(index);
    if (!node.lane) return Promise.reject(new StorError('UNAVAILABLE', 'the node is down'));
    const volume = { volumeId, sizeBytes: this.sizeBytes };
    const grant = this.control.grant(node.id, volume, this.#granted());
    return node.lane.attach(grant, { signal: new AbortController().signal });
  }

  /** Runs until the condition holds; false when it does not within `ms` of simulated time. */
  async until(condition: () => boolean, ms: number): Promise<boolean> {
    const end = this.scheduler.nowMs + ms;
    for (;;) {
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
      this.scheduler.runTurn();
      this.onStep();
      if (condition()) return true;
      if (!this.scheduler.step(end)) return condition();
    }
  }

  async run(ms: number): Promise<void> {
    await this.until(() => false, ms);
  }

  async wait<T>(promise: Promise<T>, ms = 60_000): Promise<T> {
    let over = false;
    const mark = (): void => {
      over = true;
    };
    promise.then(mark, mark);
    if (!(await this.until(() => over, ms))) throw new Error(`nothing within ${ms} simulated ms`);
    return promise;
  }

  end(): void {
    this.#open = false;
    for (const node of this.nodes) node.clock.kill();
  }
}
