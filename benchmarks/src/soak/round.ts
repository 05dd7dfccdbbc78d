import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { RelayProcess } from '../harness/relay-process.ts';
import { TestCluster } from '../harness/test-cluster.ts';
import { runVerifier, WriterProcess } from '../harness/writer-process.ts';
import { flushRules } from '../namespaces/packet-rules.ts';
import type { NamespaceNetwork } from '../namespaces/network.ts';
import { ackLogKinds, readAckLog } from '../verify/ack-log.ts';
import { compareStoppedReplicas, type ExpectedContents } from './check-round.ts';
import { FaultDriver, healDeadlineMs } from './fault-driver.ts';
import { fioBytes, runFioLoop, type FioLoopResult } from './fio-loop.ts';
import type { FaultPlan } from './plan-faults.ts';
import type { SoakReport } from './soak-report.ts';

const MiB = 1024 * 1024;
/**
 * Small volumes: what the next fault waits for is a resync, which gives way to clients and may then do
 * no more than a few MiB a second. fio runs straight on this one, so its primary is spared meanwhile.
 */
const direct = { name: 'direct', sizeBytes: 32 * MiB };
/** The verifying writer and fio behind the relay share it; its primary suffers. */
const moving = { name: 'moving', sizeBytes: 80 * MiB };
/** Part of a round in which only secondaries suffer; it has no fault for a primary. */
const directShare = 1 / 3;
/** Nothing fails as long as some node comes back within this (ms): onLoss is suspend. */
const giveUpMs = 300_000;
const writerRate = 300;

export interface RoundOptions {
  network: NamespaceNetwork;
  dir: string;
  seed: number;
  plan: FaultPlan;
  nodes: number;
  replicas: number;
  /** how long faults happen (ms) */
  faultMs: number;
  report: SoakReport;
  signal: AbortSignal;
}

/** One cluster from its first start to the comparison of its disks. */
export class SoakRound {
  readonly #options: RoundOptions;
  readonly #cluster: TestCluster;
  readonly #driver: FaultDriver;
  readonly #logPath: string;
  /** the fio loop that runs, or ran last */
  #fio: Promise<unknown> = Promise.resolve();

  private constructor(options: RoundOptions, cluster: TestCluster) {
    this.#options = options;
    this.#cluster = cluster;
    const { network, plan, report } = options;
    this.#driver = new FaultDriver(cluster, network, plan, report);
    this.#logPath = join(options.dir, 'moving.log');
  }

  /** Finds problems and reports them; what makes it go no further is one too. */
  static async run(options: RoundOptions): Promise<void> {
    const { network, nodes, dir, report } = options;
    const cluster = await TestCluster.create({
      nodes,
      dir,
      netnsOf: (index) => network.node(index),
    });
    const round = new SoakRound(options, cluster);
    try {
      await round.#run();
    } catch (error) {
      if (options.signal.aborted) report.say('stopped early');
      else report.problem(`the round ended early: ${(error as Error).message}`);
    } finally {
      await cluster.close();
      await round.#fio;
      for (const { name } of network.nodes) await flushRules(name);
      for (let index = 0; index < nodes; index += 1) await network.setCable(index, 'up');
    }
  }

  async #run(): Promise<void> {
    const { replicas, report, seed, faultMs } = this.#options;
    const cluster = this.#cluster;
    await cluster.start();
    for (const { name, sizeBytes } of [direct, moving]) {
      const size = ['--size', String(sizeBytes), '--replicas', String(replicas)];
      await cluster.must('volume', 'create', name, ...size);
    }
    const spared = ((await cluster.leader()) + 1) % cluster.agents.length;
    const writer = this.#startWriter(spared);
    try {
      const endMs = Date.now() + faultMs;
      const directFio = await this.#duringFaults(
        (last) => this.#fioDirect(spared, seed * 1_000, last),
        direct.name,
        spared,
        Date.now() + faultMs * directShare,
      );
      const movingFio = await this.#duringFaults(
        (last) => this.#fioBehindRelay(seed * 1_000 + 500, last),
        moving.name,
        null,
        endMs,
      );
      const summary = await writer.stop();
      report.acknowledged += summary.acknowledged;
      report.readsCompared += summary.reads;
      for (const problem of [...summary.errors, ...summary.wrongReads]) {
        report.problem(`verifying writer: ${problem}`);
      }
      if (summary.ended !== 'stopped' && summary.errors.length + summary.wrongReads.length === 0)
        report.problem(`the verifying writer ended as "${summary.ended}"`);
      await this.#check(directFio.lastSeed, movingFio.lastSeed);
    } finally {
      await writer.kill();
    }
  }

  /** Runs fio in one way while faults happen until `endMs`. */
  async #duringFaults(
    startFio: (last: AbortSignal) => Promise<FioLoopResult>,
    volume: string,
    spared: number | null,
    endMs: number,
  ): Promise<FioLoopResult> {
    const { report, signal } = this.#options;
    const last = new AbortController();
    const fio = startFio(last.signal);
    this.#fio = fio.catch(() => undefined);
    const volumes = [direct.name, moving.name];
    try {
      await this.#driver.run({ volume, volumes, spared, endMs, signal });
    } finally {
      last.abort();
      if (!signal.aborted) {
        const { jobs, problems } = await fio;
        report.fioJobs += jobs;
        for (const problem of problems) report.problem(problem);
      }
    }
    return fio;
  }

  #startWriter(first: number): WriterProcess {
    const { sizeBytes, name } = moving;
    return new WriterProcess({
      uri: this.#urisFrom(first, name),
      logPath: this.#logPath,
      offset: fioBytes,
      length: sizeBytes - fioBytes,
      seed: this.#options.seed,
      depth: 8,
      connections: 2,
      flushEvery: 400,
      rate: writerRate,
      readShare: 20,
      giveUpMs,
    });
  }

  #urisFrom(first: number, volume: string): string[] {
    const { agents } = this.#cluster;
    return agents.map((_, step) => this.#cluster.tcpUri((first + step) % agents.length, volume));
  }

  #fioDirect(node: number, seed: number, last: AbortSignal): Promise<FioLoopResult> {
    const { dir, signal } = this.#options;
    const uri = this.#cluster.tcpUri(node, direct.name);
    return runFioLoop(uri, dir, seed, { last, stop: signal });
  }

  async #fioBehindRelay(seed: number, last: AbortSignal): Promise<FioLoopResult> {
    const { dir, signal } = this.#options;
    const relay = await RelayProcess.start({
      uris: this.#urisFrom(0, moving.name),
      exportName: moving.name,
      socketPath: join(dir, 'relay.sock'),
      giveUpMs,
      signal,
    });
    try {
      const result = await runFioLoop(relay.uri, dir, seed, { last, stop: signal });
      const errors = await relay.stop();
      return { ...result, problems: [...result.problems, ...errors.map((e) => `relay: ${e}`)] };
    } finally {
      await relay.kill();
    }
  }

  async #check(directSeed: number, movingSeed: number): Promise<void> {
    const { report, dir } = this.#options;
    const cluster = this.#cluster;
    for (const { name } of [direct, moving]) {
      const { status } = await cluster.waitHealth(name, 'healthy', healDeadlineMs);
      report.primaryChanges += status.epoch - 1;
    }
    report.longestStallMs = Math.max(report.longestStallMs, longestStall(this.#logPath));
    // Through another node than the one that has served it last.
    const other = (((await cluster.primary(moving.name)) ?? 0) + 1) % cluster.agents.length;
    const uri = cluster.tcpUri(other, moving.name);
    const { wrong, torn, stamped, problems } = await runVerifier(this.#logPath, { uri });
    if (wrong + torn > 0 || stamped === 0) {
      report.problem(
        `through n${other + 1}: ${wrong} wrong, ${torn} torn of ${stamped} sectors: ${problems.join('; ')}`,
      );
    }
    const imageDir = join(dir, 'images');
    mkdirSync(imageDir, { recursive: true });
    const expected: ExpectedContents[] = [
      { volume: moving.name, logPath: this.#logPath, fioSeed: movingSeed },
      { volume: direct.name, logPath: null, fioSeed: directSeed },
    ];
    for (const problem of await compareStoppedReplicas(cluster, expected, imageDir)) {
      report.problem(problem);
    }
    if (directSeed === 0) report.problem('no fio job ran on the direct volume');
    if (movingSeed === 0) report.problem('no fio job ran behind the relay');
  }
}

/** The longest time between two answers that the writer got (ms). */
function longestStall(logPath: string): number {
  let last = 0;
  let longest = 0;
  for (const { kind, timeMs } of readAckLog(logPath)) {
    if (kind !== ackLogKinds.acknowledged) continue;
    if (last !== 0) longest = Math.max(longest, timeMs - last);
    last = timeMs;
  }
  return longest;
}
