/** Snapshots under faults, on disk stores. */
import type { PrimaryVolume, ReplicaStore } from '@stor/replicator';
import t from 'tap';

import { DiskCluster } from './disk-cluster.ts';
import { SnapshotScenario, type SnapshotCluster } from './snapshot-scenario.ts';

/** Seeds of one run of the suite; set STOR_SEEDS to try more, STOR_FIRST_SEED to repeat one. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 3);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);

class DiskSnapshots implements SnapshotCluster {
  readonly nodes: number;
  readonly replicas = 3;
  readonly #disks: DiskCluster;
  /** whose page cache may lack what was acknowledged, until it is a member again */
  readonly #lost = new Set<number>();

  constructor(seed: number, diskless: boolean) {
    this.nodes = diskless ? 4 : 3;
    const sizeBytes = 7 * 1024 * 1024;
    this.#disks = new DiskCluster({ seed, sizeBytes, nodes: this.nodes, replicas: 3 });
    this.#disks.control.unknown = 0.1;
    this.#disks.control.unavailable = 0.1;
  }

  create(): Promise<void> {
    return this.#disks.create();
  }
  end(): void {
    this.#disks.end();
  }
  get scheduler(): DiskCluster['scheduler'] {
    return this.#disks.scheduler;
  }
  get network(): DiskCluster['network'] {
    return this.#disks.network;
  }
  get control(): DiskCluster['control'] {
    return this.#disks.control;
  }
  get sizeBytes(): number {
    return this.#disks.sizeBytes;
  }
  set sizeBytes(sizeBytes: number) {
    this.#disks.sizeBytes = sizeBytes;
  }
  nodeId(index: number): string {
    return this.#disks.node(index).id;
  }
  isUp(index: number): boolean {
    return this.#disks.node(index).lane !== null;
  }
  replica(index: number): ReplicaStore | null {
    return this.#disks.replica(index);
  }
  attach(index: number): Promise<PrimaryVolume> {
    return this.#disks.attach(index);
  }
  start(index: number): Promise<void> {
    return this.#disks.start(index);
  }
  kill(index: number): void {
    this.#disks.kill(index);
  }
  cutPower(index: number): void {
    this.#lost.add(index);
    this.#disks.cutPower(index);
  }
  /** Its store forgets that it lost power once it has taken part in a checkpoint or a resync. */
  mayHaveLost(index: number): boolean {
    const replica = this.replica(index);
    if (replica?.keptMemory === true && this.control.inSync.includes(replica.replicaId)) {
      this.#lost.delete(index);
    }
    return this.#lost.has(index);
  }
  push(): void {
    this.#disks.push();
  }
  run(ms: number): Promise<void> {
    return this.#disks.run(ms);
  }
  until(condition: () => boolean, ms: number): Promise<boolean> {
    return this.#disks.until(condition, ms);
  }
  wait<T>(promise: Promise<T>, ms?: number): Promise<T> {
    return this.#disks.wait(promise, ms);
  }
}

t.setTimeout(3_600_000);

t.test('a ready snapshot is what it was at its cut, on real stores', async (t) => {
  const counts: Record<string, number> = {};
  const problems: string[] = [];
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const cluster = new DiskSnapshots(seed, seed % 3 === 0);
    await cluster.create();
    const scenario = new SnapshotScenario(cluster, seed);
    for (const problem of await scenario.run(10_000)) problems.push(`seed ${seed}: ${problem}`);
    cluster.end();
    for (const [what, n] of Object.entries(scenario.counts)) counts[what] = (counts[what] ?? 0) + n;
  }
  t.comment(JSON.stringify(counts));
  t.same(problems, []);
  t.ok((counts['snapshot'] ?? 0) > seeds, 'enough snapshots were taken to mean something');
  t.ok((counts['check'] ?? 0) > seeds, 'and looked at');
});
