import { SeededRandom } from '@stor/runtime/testing';

import { compareReplicas } from '../checkers/compare-replicas.ts';
import { MemoryJudge } from '../checkers/memory-judge.ts';
import { MetadataWatch } from '../checkers/metadata-watch.ts';
import { SnapshotChecker } from '../checkers/snapshot-checker.ts';
import { StepCounter } from '../checkers/step-counter.ts';
import { VolumeHistory } from '../checkers/volume-history.ts';
import { AgentCluster } from '../cluster/agent-cluster.ts';
import { LaneCluster } from '../cluster/lane-cluster.ts';
import type { SimCluster, SimVolume } from '../cluster/sim-cluster.ts';
import { rotOneByte } from '../faults/bit-rot.ts';
import { planFaults, withAdded, type Fault } from '../faults/fault-plan.ts';
import { FaultRunner } from '../faults/fault-runner.ts';
import { FaultScene } from '../faults/fault-scene.ts';
import type { LogSink } from '../world/sim-logger.ts';
import { loadOf, type VolumeRun } from './volume-run.ts';
import { EventStorm } from '../world/scheduler.ts';
import { NodeOrders } from './node-orders.ts';
import { DiskOrders } from './disk-orders.ts';
import { Scrubbing } from './scrubbing.ts';
import { Snapshotting, groupLabels } from './snapshotting.ts';
import { UnderWay } from '../workload/under-way.ts';
import { VolumeClient, ioOf, type ClientCounts } from '../workload/volume-client.ts';

export interface SeedOptions {
  seed: number;
  minutes: number;
  /** whole agents, or lanes with a model of the control plane @default agents */
  world?: 'agents' | 'lanes';
  /** a small cluster under more faults: cheaper, to look for one mistake @default false */
  dense?: boolean;
  /** scrubs beside the faults, of whole agents @default false */
  scrub?: boolean;
  /** snapshots, rollbacks and growth beside the faults, of whole agents @default false */
  snapshots?: boolean;
  /** cordons, drains, evacuations and decommissions beside the faults, of whole agents @default false */
  nodeOrders?: boolean;
  /** primaries lose all others, and their disk or host then, beside the faults of the plan */
  alone?: boolean;
  /** lanes of each agent, each with a disk @default two in a third of the seeds, if not dense, else one */
  lanes?: number;
  /** instead of those of the seed */
  faults?: Fault[];
  /** every log line of the cluster */
  log?: (line: string) => void;
}

export interface Violation {
  checker: string;
  detail: string;
}

export interface SeedReport {
  seed: number;
  violations: Violation[];
  hash: string;
  events: number;
  simulatedMs: number;
  cpuMs: number;
  faults: Record<string, number>;
  steps: Record<string, number>;
  io: ClientCounts;
  primaryChanges: number;
  eras: number;
}

const mib = 1024 * 1024;
/** After the last fault: until all volumes are healthy, and every client is answered (ms). */
const healMs = 180_000;
const progressMs = 90_000;
/** A growth whose node died stands in the way of a rollback, and clients rest until that is done (ms). */
const growthGivenUpMs = 190_000;
/** Of faults in a dense run. */
const densePace = 4.5;
/** So many requests at a time do some 4,000 in ten minutes; more take longer pauses, fewer shorter. */
const loopsAtFullPace = 4;
/** A run in which clients had to wait much goes on, up to twice its length, until it asked for this. */
const minIosPerMinute = 200;
/** Between two requests of a burst, for each loop there is (ms). */
const burstPauseMs = 0.5;
/** A replica that is away for longer is replaced, where there is room (ms). */
const replacementWaitMs = 12_000;
/** One mistake shows in many places. */
const maxViolations = 20;

/** One cluster from one seed: load, faults, healing, and every checker. */
export class SeedRun {
  readonly #options: SeedOptions;
  readonly #cluster: SimCluster;
  readonly #random: SeededRandom;
  readonly #violations: Violation[] = [];
  readonly #steps = new StepCounter();
  readonly #volumes: VolumeRun[] = [];
  readonly #counts: ClientCounts = {
    ios: 0,
    reads: 0,
    writes: 0,
    zeroes: 0,
    trims: 0,
    flushes: 0,
    fua: 0,
    unaligned: 0,
    resent: 0,
    connects: 0,
    refused: 0,
  };
  readonly #faults: FaultScene;
  readonly #watch: MetadataWatch;
  readonly #scrubbing: Scrubbing | null;
  readonly #nodeOrders: NodeOrders | null;
  readonly #diskOrders: DiskOrders | null;
  readonly #snapshots: { checker: SnapshotChecker; orders: Snapshotting } | null;
  /** positions in the run's order, of all volumes */
  readonly #moments = { at: 0 };
  #fail: () => void = () => {};
  readonly #failed = new Promise<void>((resolve) => {
    this.#fail = resolve;
  });
  #lastPrimary = new Map<string, number>();
  #primaryChanges = 0;

  constructor(options: SeedOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 7919 + 17);
    const isDense = options.dense === true;
    const nodes = isDense ? 3 : ([3, 3, 4, 5, 3, 3, 4, 3, 3, 5, 4, 7][this.#pick(12)] ?? 3);
    const volumes: SimVolume[] = [];
    const count = isDense ? 1 : 1 + this.#pick(3);
    for (let i = 0; i < count; i++) {
      const replicas = Math.min(nodes, [3, 3, 2, 3, 5][this.#pick(5)] ?? 3);
      const sizeBytes = (8 + this.#pick(3) * 4) * mib + this.#pick(2) * (300 * 1024);
      const volume = { name: `v${i}`, sizeBytes: Math.floor(sizeBytes / 4096) * 4096, replicas };
      // where there is room for another replica, often soon
      const isSoon = replicas < nodes && this.#pick(3) > 0;
      volumes.push(isSoon ? { ...volume, replacementWaitMs } : volume);
    }
    const labels = options.snapshots === true ? groupLabels : {};
    const lanes = options.lanes ?? (!isDense && options.seed % 3 === 0 ? 2 : 1);
    const parts = { seed: options.seed, nodes, volumes, lanes, labels, log: this.#log };
    this.#cluster = options.world === 'lanes' ? new LaneCluster(parts) : new AgentCluster(parts);
    const hosts: string[] = [];
    for (const volume of volumes) this.#addVolume(volume, hosts);
    if (!isDense) this.#share();
    this.#faults = new FaultScene({
      cluster: this.#cluster,
      judges: new Map(this.#volumes.map(({ volume, judge }) => [volume.name, judge])),
      load: loadOf(this.#volumes, hosts),
      say: (text) => this.#say(text),
    });
    this.#snapshots = options.snapshots === true ? this.#snapshotter() : null;
    this.#scrubbing = options.scrub === true ? this.#scrubber() : null;
    const { seed, nodeOrders = false } = options;
    this.#nodeOrders = nodeOrders ? new NodeOrders(this.#faults, seed) : null;
    const isOfAgents = options.world !== 'lanes';
    this.#diskOrders = lanes > 1 && isOfAgents ? new DiskOrders(this.#faults, seed) : null;
    this.#watch = new MetadataWatch(this.#cluster, (detail) => this.#violation('metadata', detail));
  }

  async run(): Promise<SeedReport> {
    const beganCpu = process.cpuUsage();
    const onStray = (error: unknown): void => {
      // of a process that is dead: it would not have come that far
      if ((error as { code?: unknown } | null)?.code === 'ECRASHED') return;
      this.#violation('uncaught', error instanceof Error ? (error.stack ?? '') : String(error));
    };
    process.on('unhandledRejection', onStray);
    process.on('uncaughtException', onStray);
    const { scheduler } = this.#cluster;
    try {
      await this.#cluster.prepare();
      // nothing that comes after a violation can be trusted to be another one
      await scheduler.drive(() => Promise.race([this.#main(), this.#failed]));
    } catch (error) {
      if (error instanceof EventStorm) this.#violation('storm', error.message);
      else onStray(error);
    } finally {
      process.off('unhandledRejection', onStray);
      process.off('uncaughtException', onStray);
    }
    const cpu = process.cpuUsage(beganCpu);
    return {
      seed: this.#options.seed,
      violations: this.#violations,
      hash: scheduler.hash.digest,
      events: scheduler.steps,
      simulatedMs: scheduler.nowMs - 1_000_000,
      cpuMs: (cpu.user + cpu.system) / 1000,
      faults: this.#faults.counts,
      steps: this.#steps.counts,
      io: this.#counts,
      primaryChanges: this.#primaryChanges,
      eras: this.#volumes.reduce((sum, { history }) => sum + history.eras, 0),
    };
  }

  async #main(): Promise<void> {
    const cluster = this.#cluster;
    this.#wire();
    await cluster.create();
    for (const { volume, judge } of this.#volumes) judge.committed(cluster.committed(volume));
    this.#watch.start();
    for (const { clients } of this.#volumes) for (const client of clients) client.start();
    const { minutes, faults } = this.#options;
    void this.#scrubbing?.run();
    void this.#nodeOrders?.run();
    void this.#diskOrders?.run();
    void this.#snapshots?.orders.run();
    const runner = new FaultRunner(this.#faults);
    await this.#suffer(runner, minutes, faults);
    const isEnough = (): boolean => this.#counts.ios >= minutes * minIosPerMinute;
    for (let more = 0; more < minutes && !faults && !isEnough(); more++) {
      await this.#suffer(runner, 1);
    }
    await runner.heal();
    if (!(await this.#heals())) return;
    this.#scrubbing?.end();
    await this.#snapshots?.orders.end();
    if (this.#violations.length > 0) return;
    await this.#finish();
  }

  async #suffer(runner: FaultRunner, minutes: number, faults?: Fault[]): Promise<void> {
    const { scheduler } = this.#cluster;
    const lengthMs = minutes * 60_000;
    const beganMs = scheduler.nowMs;
    const pace = this.#options.dense === true ? densePace : 1;
    const planned = faults ?? planFaults(this.#random, lengthMs, pace);
    const { alone, seed } = this.#options;
    const own = new SeededRandom(seed * 104_729 + 3);
    await runner.run(alone === true ? withAdded(planned, 'alone', own, lengthMs) : planned);
    await scheduler.sleep(beganMs + lengthMs - scheduler.nowMs);
  }

  #wire(): void {
    const cluster = this.#cluster;
    cluster.onCommitted = (set) => {
      // a volume that is being made has no members yet
      if (set.inSync.length === 0 && set.epoch === 0) return;
      this.#volumes.find(({ volume }) => volume.name === set.volume)?.judge.committed(set);
      this.#watch.committed(set);
      this.#faults.committed(set);
    };
    cluster.onServing = (name, epoch, grantedMs) => {
      const run = this.#volumes.find(({ volume }) => volume.name === name);
      if (!run) return;
      run.judge.serving(grantedMs);
      const node = cluster.holderOf(run.volume);
      const last = this.#lastPrimary.get(name);
      if (last !== undefined && last !== node) this.#primaryChanges += 1;
      this.#lastPrimary.set(name, node);
      void epoch;
    };
    cluster.onEnded = (node, how) => {
      if (how !== 'power') return;
      for (const { judge } of this.#volumes) {
        for (const id of this.#replicaIdsOn(node)) judge.lost(id, cluster.scheduler.nowMs);
      }
    };
  }

  #replicaIdsOn(node: number): string[] {
    return this.#volumes.flatMap(({ judge }) =>
      judge.members.filter((id) => this.#cluster.nodeOfReplica(id) === node),
    );
  }

  /** Liveness: when faults have stopped, all becomes healthy and every client is served. */
  async #heals(): Promise<boolean> {
    const { scheduler } = this.#cluster;
    const healedMs = scheduler.nowMs;
    for (const { clients } of this.#volumes) for (const client of clients) client.hurry();
    const isServed = await scheduler.until(
      () => this.#allClients().every((client) => client.lastAnswerMs > healedMs),
      progressMs + (this.#snapshots ? growthGivenUpMs : 0),
      250,
    );
    if (!isServed) {
      const stuck = this.#volumes.filter(({ clients }) =>
        clients.some((client) => client.lastAnswerMs <= healedMs),
      );
      for (const { volume } of stuck) {
        const why = (await this.#cluster.unhealthy(volume)) ?? 'healthy';
        this.#violation('progress', `clients of ${volume.name} are not answered: ${why}`);
      }
      return false;
    }
    for (const { volume } of this.#volumes) {
      const why = await this.#healthy(volume);
      if (why) this.#violation('liveness', `${volume.name} is not healthy in time: ${why}`);
    }
    return this.#violations.length === 0;
  }

  /** Waits until a volume is healthy; else what is wrong with it. */
  async #healthy(volume: SimVolume): Promise<string | null> {
    const { scheduler } = this.#cluster;
    const endMs = scheduler.nowMs + healMs;
    for (;;) {
      const why = await this.#cluster.unhealthy(volume);
      if (why === null || scheduler.nowMs > endMs) return why;
      await scheduler.sleep(500);
    }
  }

  async #finish(): Promise<void> {
    const cluster = this.#cluster;
    for (const client of this.#allClients()) {
      if (!(await client.stop())) this.#violation('progress', 'a request was never answered');
    }
    await this.#snapshots?.checker.inTheEnd('in the end');
    if (this.#violations.length > 0) return;
    await this.#scrubbing?.inTheEnd(
      (volume) => new Set(this.#volumes.find((each) => each.volume === volume)?.history.touched()),
    );
    await this.#rot();
    await this.#readAll('in the end');
    for (const { volume } of this.#volumes) {
      const holder = cluster.holderOf(volume);
      if (holder >= 0) await this.#snapshots?.checker.readThrough('reader', holder, volume);
    }
    for (const { clients, history } of this.#volumes) {
      const at = history.now();
      if ((await clients[0]?.once(ioOf('flush', 0, 0, null))) === 'done') history.flushed(at);
    }
    await this.#compare(true);
    // all that was flushed must survive this
    for (const node of cluster.nodes) node.losePower();
    for (const node of cluster.nodes) cluster.scheduler.at(500, () => node.start());
    await cluster.scheduler.sleep(1_000);
    await this.#readAll('after the last power cut');
    for (const { volume } of this.#volumes) {
      const why = await this.#healthy(volume);
      if (why) this.#violation('liveness', `${volume.name} after the last power cut: ${why}`);
    }
    await this.#compare(false);
    await this.#snapshots?.checker.inTheEnd('after the last power cut');
    for (const { history } of this.#volumes) history.finish();
  }

  /** Bytes change by themselves in the replica that is read first, while others are whole (I9). */
  async #rot(): Promise<void> {
    const cluster = this.#cluster;
    for (const { volume, history, clients } of this.#volumes) {
      // opens the volume where it is going to be read
      await clients[0]?.once(ioOf('read', 0, 8, Buffer.alloc(4096)));
      const { inSync } = cluster.committed(volume);
      const holder = cluster.holderOf(volume);
      const local = inSync.find((id) => cluster.nodeOfReplica(id) === holder);
      const node = cluster.nodes[holder];
      if (!local || !node || inSync.length < 2) continue;
      const path = `${cluster.diskPath}/lineages/${local}/data`;
      if (!node.files.process().exists(path)) continue;
      const touched = new Set(history.touched());
      if (!rotOneByte(node.files, path, touched, this.#random)) continue;
      this.#faults.count('bit-rot');
      this.#say(`FAULT bit-rot in ${path}`);
    }
  }

  /** Every sector that was ever written, through a client. */
  async #readAll(when: string): Promise<void> {
    for (const { volume, history, clients } of this.#volumes) {
      const [client] = clients;
      const blocks = new Set(history.touched().map((sector) => Math.floor(sector / 64)));
      for (const block of blocks) {
        const from = block * 64;
        const to = Math.min(from + 64, Math.floor(volume.sizeBytes / 512));
        const bytes = Buffer.alloc((to - from) * 512);
        const startAt = history.now();
        const outcome = await client?.once(ioOf('read', from, to, bytes));
        if (outcome === 'done') history.read(from, to, bytes, startAt);
        else {
          const error = typeof outcome === 'object' ? outcome.error : 'lost';
          this.#violation('readable', `${volume.name} sector ${from} ${when}: ${error}`);
          return;
        }
      }
    }
  }

  async #compare(isStopped: boolean): Promise<void> {
    const cluster = this.#cluster;
    for (const { volume, clients } of this.#volumes) {
      for (const client of clients) client.leave();
      if (isStopped && !(await cluster.detach(volume))) {
        this.#violation('liveness', `${volume.name} cannot be detached`);
        continue;
      }
      for (const problem of await compareReplicas(cluster, volume, isStopped)) {
        this.#violation('identical', `${volume.name}: ${problem}`);
      }
    }
  }

  #scrubber(): Scrubbing {
    return new Scrubbing({
      cluster: this.#cluster,
      seed: this.#options.seed,
      violation: (checker, detail) => this.#violation(checker, detail),
      count: (what) => this.#faults.count(what),
    });
  }

  #snapshotter(): { checker: SnapshotChecker; orders: Snapshotting } {
    const violation = (checker: string, detail: string): void => this.#violation(checker, detail);
    const checker = new SnapshotChecker({
      cluster: this.#cluster,
      histories: new Map(this.#volumes.map(({ volume, history }) => [volume.name, history])),
      violation,
      count: (what) => this.#faults.count(what),
    });
    this.#cluster.onSnapshot = (snapshot) => checker.changed(snapshot);
    const { seed } = this.#options;
    return {
      checker,
      orders: new Snapshotting({
        scene: this.#faults,
        runs: this.#volumes,
        checker,
        seed,
        violation,
      }),
    };
  }

  #allClients(): VolumeClient[] {
    return this.#volumes.flatMap(({ clients }) => clients);
  }

  #addVolume(volume: SimVolume, hosts: string[]): void {
    const history = new VolumeHistory((problem) => {
      this.#violation('linearizable', `${volume.name}: ${problem}`);
    }, this.#moments);
    const judge = new MemoryJudge(() => {
      this.#say(`${volume.name}: no member kept its memory`);
      history.memoryLost();
    });
    const run: VolumeRun = { volume, history, judge, clients: [], preferred: 0 };
    run.preferred = this.#pick(this.#cluster.nodes.length);
    // a reconnecting client is its volume's only writer; plain ones keep out of each other's way
    const underWay = new UnderWay();
    const reconnects = this.#pick(3) > 0;
    const count = this.#options.dense === true ? 2 : 1 + this.#pick(2);
    for (let i = 0; i < count; i++) {
      const host = `client-${volume.name}-${i}`;
      hosts.push(host);
      run.clients.push(
        new VolumeClient({
          cluster: this.#cluster,
          random: new SeededRandom(this.#options.seed * 131 + hosts.length),
          volume,
          history,
          host,
          depth: 1 + this.#pick(3),
          reconnects: reconnects && i === 0,
          readsOnly: reconnects && i > 0,
          counts: this.#counts,
          say: this.#options.log ? (text) => this.#say(text) : null,
          problem: (detail) => this.#violation('no-error', `${volume.name}: ${detail}`),
          preferred: () => run.preferred,
          underWay,
        }),
      );
    }
    this.#volumes.push(run);
  }

  /** Every seed asks about as much: one client is not too few, and many are not too dear. */
  #share(): void {
    const clients = this.#allClients();
    const loops = clients.reduce((sum, client) => sum + client.depth, 0);
    for (const client of clients) {
      client.slowness = loops / loopsAtFullPace;
      client.burstPauseMs = loops * burstPauseMs;
    }
  }

  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }

  #violation(checker: string, detail: string): void {
    if (this.#violations.length < maxViolations) this.#violations.push({ checker, detail });
    this.#fail();
    this.#say(`VIOLATION ${checker}: ${detail}`);
  }

  #say(text: string): void {
    const { log } = this.#options;
    if (!log) return;
    log(`${((this.#cluster.scheduler.nowMs - 1_000_000) / 1000).toFixed(4)} ${text}`);
  }

  readonly #log: LogSink = (level, node, fields, message) => {
    const { scheduler } = this.#cluster;
    scheduler.hash.text(node);
    scheduler.hash.text(message);
    this.#steps.note(message, fields);
    this.#faults.noticed({ host: node, message, fields: { ...fields } });
    this.#scrubbing?.noticed({ host: node, message, fields: { ...fields } });
    if (this.#options.log) this.#say(`${node} ${level} ${message} ${JSON.stringify(fields)}`);
  };
}
