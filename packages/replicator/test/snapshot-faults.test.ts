/** Snapshots under faults, on replicas in memory. */
import type { PrimaryVolume, ReplicaStore } from '@stor/replicator';
import { MemoryReplicaState, SimCluster } from '@stor/replicator/testing';
import t from 'tap';

import { SnapshotScenario, type SnapshotCluster } from './snapshot-scenario.ts';

/** Seeds of one run of the suite; set STOR_SEEDS to try more, STOR_FIRST_SEED to repeat one. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 8);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);

class MemoryCluster implements SnapshotCluster {
  readonly nodes: number;
  readonly replicas = 3;
  readonly #sim: SimCluster;

  constructor(seed: number, diskless: boolean) {
    this.nodes = diskless ? 4 : 3;
    const checkpointPace = { everyMs: 2_000, restSeconds: 1, minMs: 500 };
    const sizeBytes = 7 * 1024 * 1024;
    this.#sim = new SimCluster({
      seed,
      sizeBytes,
      nodes: this.nodes,
      replicaNodes: 3,
      checkpointPace,
    });
    this.#sim.control.unknown = 0.1;
    this.#sim.control.unavailable = 0.1;
  }

  get scheduler(): SimCluster['scheduler'] {
    return this.#sim.scheduler;
  }
  get network(): SimCluster['network'] {
    return this.#sim.network;
  }
  get control(): SimCluster['control'] {
    return this.#sim.control;
  }
  get sizeBytes(): number {
    return this.#sim.volume.sizeBytes;
  }
  set sizeBytes(sizeBytes: number) {
    this.#sim.volume.sizeBytes = sizeBytes;
  }
  nodeId(index: number): string {
    return this.#sim.node(index).id;
  }
  isUp(index: number): boolean {
    return this.#sim.node(index).lane !== null;
  }
  replica(index: number): ReplicaStore | null {
    return this.#sim.node(index).disk?.replicas()[0] ?? null;
  }
  attach(index: number): Promise<PrimaryVolume> {
    return this.#sim.attach(index);
  }
  start(index: number): Promise<void> {
    this.#replace(index);
    this.#sim.start(index);
    return Promise.resolve();
  }
  /** One that is out of the set comes back as a new, empty replica now and then. */
  #replace(index: number): void {
    const { states, random } = this.#sim;
    const identity = states[index]?.identity;
    if (!identity || this.isUp(index) || this.control.inSync.includes(identity.replicaId)) return;
    if (random.next() < 0.5) states[index] = new MemoryReplicaState({ ...identity });
  }
  kill(index: number): void {
    this.#sim.kill(index);
  }
  cutPower(index: number): void {
    this.#sim.cutPower(index);
  }
  mayHaveLost(index: number): boolean {
    return this.#sim.states[index]?.keptMemory === false;
  }
  push(): void {
    this.#sim.push();
  }
  run(ms: number): Promise<void> {
    return this.#sim.run(ms);
  }
  until(condition: () => boolean, ms: number): Promise<boolean> {
    return this.#sim.until(condition, ms);
  }
  wait<T>(promise: Promise<T>, ms?: number): Promise<T> {
    return this.#sim.wait(promise, ms);
  }
}

t.setTimeout(3_600_000);

t.test('a ready snapshot is what it was at its cut, whatever happens', async (t) => {
  const counts: Record<string, number> = {};
  const problems: string[] = [];
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const scenario = new SnapshotScenario(new MemoryCluster(seed, seed % 3 === 0), seed);
    for (const problem of await scenario.run(25_000)) problems.push(`seed ${seed}: ${problem}`);
    for (const [what, n] of Object.entries(scenario.counts)) counts[what] = (counts[what] ?? 0) + n;
  }
  t.comment(JSON.stringify(counts));
  t.same(problems, []);
  t.ok((counts['snapshot'] ?? 0) > seeds * 3, 'enough snapshots were taken to mean something');
  t.ok((counts['check'] ?? 0) > seeds * 6, 'and looked at');
});
