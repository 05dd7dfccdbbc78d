import { SeededRandom } from '@stor/runtime/testing';

import { compareReplicas } from '../checkers/compare-replicas.ts';
import type { SimCluster, SimVolume } from '../cluster/sim-cluster.ts';
import { rotOneByte } from '../faults/bit-rot.ts';
import type { Noticed } from '../faults/fault-scene.ts';

/** Between two orders of an operator about scrubs (ms). */
const minPauseMs = 2_000;
const maxPauseMs = 20_000;
/** A scrub in peace, of a volume of some MiB, has ended within this (ms). */
const scrubMs = 120_000;
/** Blocks that rot in one replica, once all is quiet. */
const rotten = 6;

interface ScrubbingOptions {
  cluster: SimCluster;
  seed: number;
  violation: (checker: string, detail: string) => void;
  count: (what: string) => void;
}

/**
 * Scrubs beside all faults: begun, paused and ended by an operator, while primaries move and members
 * are lost. Until something rots they must find nothing: members in sync verify and are equal, or
 * replication is wrong. What rots in the end is gone after one more scrub that nobody reads beside.
 */
export class Scrubbing {
  readonly #options: ScrubbingOptions;
  readonly #random: SeededRandom;
  readonly #finished = new Set<string>();
  #mayFind = false;
  #isOver = false;

  constructor(options: ScrubbingOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 104_729 + 5);
  }

  /** Gives orders until `end`. */
  async run(): Promise<void> {
    const { cluster, count } = this.#options;
    for (;;) {
      const pauseMs = minPauseMs + this.#random.next() * (maxPauseMs - minPauseMs);
      await cluster.scheduler.sleep(pauseMs);
      if (this.#isOver) return;
      const { name: volume } = this.#volume();
      const dice = this.#random.next();
      count('order-scrub');
      if (dice < 0.6) await cluster.order('StartScrub', { volume });
      else if (dice < 0.75) await cluster.order('PauseScrub', { volume, paused: true });
      else if (dice < 0.95) await cluster.order('PauseScrub', { volume, paused: false });
      else await cluster.order('StopScrub', { volume });
    }
  }

  end(): void {
    this.#isOver = true;
  }

  /** What the product logs. */
  noticed({ host, message, fields }: Noticed & { fields: object }): void {
    if (message !== 'a scrub has read the whole segment') return;
    const of = fields as { volume?: string; run?: string; found?: number; diverged?: number };
    this.#options.count('scrub-finished');
    this.#finished.add(of.run ?? '');
    const wrong = (of.diverged ?? 0) + (this.#mayFind ? 0 : (of.found ?? 0));
    if (wrong === 0) return;
    const found = JSON.stringify(fields);
    this.#options.violation('scrub', `${host} found what nobody had broken: ${found}`);
  }

  /** When all is healthy and quiet: every replica in sync verifies and is equal afterwards. */
  async inTheEnd(touchedOf: (volume: SimVolume) => Set<number>): Promise<void> {
    const { cluster, violation } = this.#options;
    this.#mayFind = true;
    for (const volume of cluster.volumes) {
      this.#rot(volume, touchedOf(volume));
      if (!(await this.#scrub(volume))) {
        violation('scrub', `a scrub of ${volume.name} does not come to its end`);
        return;
      }
      for (const problem of await compareReplicas(cluster, volume, false)) {
        violation('scrub', `${volume.name} after a scrub: ${problem}`);
      }
    }
  }

  /** Only one replica, and only where another one has the truth. */
  #rot(volume: SimVolume, touched: Set<number>): void {
    const { cluster, count } = this.#options;
    const { inSync } = cluster.committed(volume);
    const replica = inSync[Math.floor(this.#random.next() * inSync.length)];
    const node = replica === undefined ? undefined : cluster.nodes[cluster.nodeOfReplica(replica)];
    if (replica === undefined || !node || inSync.length < 2) return;
    const path = `${cluster.diskPath}/lineages/${replica}/data`;
    if (!node.files.process().exists(path)) return;
    for (let i = 0; i < rotten; i++) {
      if (rotOneByte(node.files, path, touched, this.#random)) count('bit-rot-unread');
    }
  }

  async #scrub(volume: SimVolume): Promise<boolean> {
    const { cluster } = this.#options;
    const request = { volume: volume.name };
    // one that has begun before may be past what has rotted
    await cluster.order('StopScrub', request);
    await cluster.scheduler.sleep(3_000);
    this.#finished.clear();
    await cluster.order('StartScrub', request);
    return cluster.scheduler.until(() => this.#finished.size > 0, scrubMs, 250);
  }

  #volume(): SimVolume {
    const { volumes } = this.#options.cluster;
    const volume = volumes[Math.floor(this.#random.next() * volumes.length)];
    if (!volume) throw new Error('no volume');
    return volume;
  }
}
