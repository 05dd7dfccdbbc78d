/**
 * Replicas that come and go in any order, while a few chunks take a few values over and over: what
 * changed and changed back must not be forgotten by anybody. No request is under way when they go,
 * so that only generations, marks and histories decide what is compared.
 */
import { blockBytes, chunkBytes, regionBytes } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { MemoryReplicaState, SimCluster, request } from '@stor/replicator/testing';

const seeds = Number(process.env['STOR_SEEDS'] ?? 8);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);
const sizeBytes = 4 * regionBytes;
const replicas = 4;
/** a primary without a replica */
const diskless = replicas;
const spots = [
  0,
  chunkBytes,
  regionBytes,
  regionBytes + chunkBytes,
  2 * regionBytes,
  3 * regionBytes,
];

class Absences {
  readonly cluster: SimCluster;
  readonly counts: Record<string, number> = {};
  readonly #random: SeededRandom;
  readonly #model = new Map<number, number>();
  #volume: PrimaryVolume | null = null;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
    this.cluster = new SimCluster({
      seed,
      sizeBytes,
      nodes: replicas + 1,
      replicaNodes: replicas,
      checkpointPace: { everyMs: 500, restSeconds: 1, minMs: 250 },
    });
  }

  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  async run(steps: number): Promise<string[]> {
    const { cluster } = this;
    await this.#attach();
    for (let step = 0; step < steps; step++) await this.#step();
    for (let index = 0; index < replicas; index++) cluster.start(index);
    const whole = (): boolean => cluster.control.inSync.length === replicas;
    if (!(await cluster.until(whole, 600_000))) return ['not healthy in time'];
    await cluster.run(1_000);
    const problems: string[] = [];
    for (const [at, value] of this.#model) {
      for (const state of cluster.states) {
        const found = state.bytes[at];
        if (found !== value) {
          problems.push(`${state.identity.replicaId} has ${found} at ${at}, not ${value}`);
        }
      }
    }
    return problems;
  }

  async #step(): Promise<void> {
    const { cluster } = this;
    const dice = this.#random.next();
    const index = this.#pick(replicas);
    const id = `r-${index}`;
    const { inSync } = cluster.control;
    if (dice < 0.4) await this.#change();
    else if (dice < 0.55) {
      this.#count('rest');
      await cluster.run(500 + this.#pick(5_000));
    } else if (dice < 0.7) {
      if (inSync.includes(id) && inSync.length === 1) return;
      this.#count('leave');
      cluster.kill(index);
      await cluster.until(() => !cluster.control.inSync.includes(id), 20_000);
    } else if (dice < 0.75) {
      // its disk was replaced
      if (inSync.includes(id)) return;
      this.#count('empty');
      cluster.kill(index);
      cluster.states[index] = new MemoryReplicaState({
        replicaId: id,
        volumeId: 'v-1',
        segment: 0,
        sizeBytes,
      });
    } else if (dice < 0.93) {
      this.#count('return');
      cluster.start(index);
      if (this.#random.next() < 0.7) {
        await cluster.until(() => cluster.control.inSync.includes(id), 5_000);
      } else await cluster.run(this.#pick(800));
    } else {
      this.#count('primary');
      if (this.#random.next() < 0.3) await cluster.run(this.#pick(400));
      cluster.kill(diskless);
      cluster.start(diskless);
      await this.#attach();
    }
  }

  async #attach(): Promise<void> {
    this.#volume = await this.cluster.wait(this.cluster.attach(diskless));
  }

  async #change(): Promise<void> {
    const { cluster } = this;
    const at = spots[this.#pick(spots.length)] ?? 0;
    const value = this.#pick(3);
    if (!this.#volume) return;
    const changed =
      value === 0
        ? request(this.#volume, 'writeZeroes', at, chunkBytes, null)
        : request(this.#volume, 'write', at, blockBytes, Buffer.alloc(blockBytes, value));
    const error = await cluster.wait(changed);
    if (error) throw error;
    this.#count(value === 0 ? 'zero' : 'write');
    this.#model.set(at, value);
  }
}

t.test('nobody forgets what changed while others were away', async (t) => {
  const counts: Record<string, number> = {};
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const absences = new Absences(seed);
    const problems = await absences.run(120);
    t.same(problems, [], `seed ${seed}`);
    for (const [what, n] of Object.entries(absences.counts)) counts[what] = (counts[what] ?? 0) + n;
  }
  t.comment(JSON.stringify(counts));
  for (const what of ['leave', 'return', 'empty', 'primary', 'zero', 'write']) {
    t.ok((counts[what] ?? 0) > seeds, `${what} happened often enough`);
  }
});
