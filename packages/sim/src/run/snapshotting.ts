import { regionBytes } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';

import type { SnapshotChecker } from '../checkers/snapshot-checker.ts';
import type { SimVolume } from '../cluster/sim-cluster.ts';
import type { SimNode } from '../cluster/sim-node.ts';
import { callOf, type FaultCall, type FaultScene, type Noticed } from '../faults/fault-scene.ts';
import { burstMs } from '../faults/kinds/pace.ts';
import { cutAllPower, kill, pause, power } from '../faults/kinds/processes.ts';
import type { VolumeRun } from './volume-run.ts';

/** Between two orders of an operator about snapshots (ms). */
const minPauseMs = 300;
const maxPauseMs = 9_000;
/** Orders that may be under way at once. */
const maxOrders = 3;
/** So many of one volume are kept; then some are deleted. */
const maxKept = 5;
/** In peace a snapshot is taken within this (ms). */
const peaceMs = 60_000;

/** Clients of a volume that is to be rolled back come to rest within this, or it is left (ms). */
const stillMs = 20_000;
/** An order that must be carried out is given again after this (ms). */
const againMs = 500;
/** An order that nobody answered is carried out or forgotten by then (ms). */
const lateOrderMs = 3_000;
/** A volume grows by less than this at once, and never beyond so much more than it was made with (bytes). */
const maxGrowthBytes = regionBytes;
const maxAddedBytes = 4 * regionBytes;

interface SnapshottingOptions {
  scene: FaultScene;
  runs: readonly VolumeRun[];
  checker: SnapshotChecker;
  seed: number;
  violation: (checker: string, detail: string) => void;
}

/**
 * Snapshots beside all faults: an operator takes and deletes them, of one volume or of all at one
 * instant, rolls volumes back to them and grows volumes, while primaries move and members are lost; often something dies in the middle of it.
 */
export class Snapshotting {
  readonly #options: SnapshottingOptions;
  readonly #random: SeededRandom;
  readonly #orders = new Set<Promise<void>>();
  /** the volume is rolled back to them: they are not deleted meanwhile */
  readonly #pinned = new Set<string>();
  readonly #rollingBack = new Set<VolumeRun>();
  readonly #added = new Map<SimVolume, number>();
  #names = 0;
  #isOver = false;

  constructor(options: SnapshottingOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 15_485_863 + 11);
  }

  /** Gives orders until `end`. */
  async run(): Promise<void> {
    const { scheduler } = this.#options.scene.cluster;
    while (!this.#isOver) {
      await scheduler.sleep(minPauseMs + this.#random.next() ** 2 * (maxPauseMs - minPauseMs));
      if (this.#isOver) return;
      if (this.#orders.size >= maxOrders) continue;
      const order = this.#order().finally(() => this.#orders.delete(order));
      this.#orders.add(order);
    }
  }

  /** When all is healthy, and clients go on: the last orders end, and one more of each volume is taken. */
  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#orders);
    const { scene, checker } = this.#options;
    for (const volume of scene.cluster.volumes) {
      const name = this.#name();
      checker.ordered(volume.name, name);
      const isReady = (): boolean =>
        scene.cluster.snapshotsOf(volume).some((each) => {
          return each.name === name && each.state === 'ready';
        });
      const { scheduler } = scene.cluster;
      const endMs = scheduler.nowMs + peaceMs;
      while (!isReady() && scheduler.nowMs < endMs) {
        await scene.cluster.order('CreateSnapshot', createOf(volume.name, name));
        await scheduler.until(isReady, 1_000, 100);
      }
      if (isReady()) continue;
      this.#options.violation('liveness', `no snapshot of ${volume.name} can be taken in peace`);
    }
  }

  async #order(): Promise<void> {
    const { scene, checker } = this.#options;
    const volume = this.#volume();
    const kept = checker.known(volume.name);
    const dice = this.#random.next();
    if (kept.length >= maxKept || (dice < 0.2 && kept.length > 0)) await this.#delete(volume);
    else if (dice < 0.35) await checker.glance(volume, this.#random.next());
    else if (dice < 0.45 && scene.cluster.volumes.length > 1) await this.#take(null);
    else if (dice < 0.53) await this.#rollBack(volume);
    else if (dice < 0.57) await this.#grow(volume);
    else await this.#take(volume);
  }

  /** Of one volume, or of all. */
  async #take(volume: SimVolume | null): Promise<void> {
    const { scene, checker } = this.#options;
    const { cluster } = scene;
    const name = this.#name();
    for (const each of volume ? [volume] : cluster.volumes) checker.ordered(each.name, name);
    scene.load.burst(burstMs * 3);
    this.#trouble(volume ?? this.#volume());
    const request = volume ? createOf(volume.name, name) : createOf('', name);
    scene.count(volume ? 'order-snapshot' : 'order-group');
    if (await cluster.order('CreateSnapshot', request)) scene.count('snapshot-answered');
  }

  async #delete(volume: SimVolume): Promise<void> {
    const { scene, checker } = this.#options;
    const kept = checker.known(volume.name).filter(({ name }) => {
      return !this.#pinned.has(`${volume.name}@${name}`);
    });
    const chosen = kept[Math.floor(this.#random.next() * kept.length)];
    if (!chosen) return;
    checker.mayGo(volume.name, chosen.name);
    if (this.#random.next() < 0.5) this.#trouble(volume);
    scene.count('order-snapshot-delete');
    await scene.cluster.order('DeleteSnapshot', { name: `${volume.name}@${chosen.name}` });
  }

  /** Nobody uses the volume meanwhile; then it is the snapshot. */
  async #rollBack(volume: SimVolume): Promise<void> {
    const { scene, checker, runs } = this.#options;
    const run = runs.find((each) => each.volume === volume);
    const kept = checker.kept(volume.name);
    const chosen = kept[Math.floor(this.#random.next() * kept.length)];
    if (!run || !chosen || this.#rollingBack.has(run)) return;
    const full = `${volume.name}@${chosen.name}`;
    this.#rollingBack.add(run);
    this.#pinned.add(full);
    const still = await Promise.all(run.clients.map((client) => client.hold(stillMs)));
    if (still.every(Boolean)) {
      checker.rollsBack(volume.name);
      const fromAt = run.history.now();
      this.#trouble(volume);
      await this.#until('RollbackVolume', volume, chosen.name);
      run.history.became(chosen.image, fromAt);
      scene.count('rollback');
      checker.rolledBack(volume.name);
    }
    for (const client of run.clients) client.goOn();
    this.#pinned.delete(full);
    this.#rollingBack.delete(run);
  }

  /** Nobody ordered that the snapshot goes, so it comes about in the end. */
  async #until(method: string, { name }: SimVolume, snapshot: string): Promise<void> {
    const { cluster } = this.#options.scene;
    const safetySnapshot = this.#random.next() < 0.3;
    const request = { name, snapshot, force: false, safetySnapshot };
    for (let tries = 1; ; tries++) {
      const error = await cluster.tryOrder(method, request);
      if (error === null) {
        // what nobody answered may be carried out once more
        if (tries > 1) await cluster.scheduler.sleep(lateOrderMs);
        return;
      }
      await cluster.scheduler.sleep(againMs);
    }
  }

  /** Clients see what is added when they connect again. */
  async #grow(volume: SimVolume): Promise<void> {
    const { scene, runs } = this.#options;
    const { cluster } = scene;
    const added = this.#added.get(volume) ?? 0;
    const bytes = 4096 * (1 + Math.floor((this.#random.next() * maxGrowthBytes) / 4096));
    if (added + bytes > maxAddedBytes) return;
    this.#added.set(volume, added + bytes);
    this.#trouble(volume);
    await cluster.order('ResizeVolume', {
      name: volume.name,
      sizeBytes: cluster.sizeOf(volume) + bytes,
    });
    if (cluster.sizeOf(volume) === volume.sizeBytes) return;
    scene.count('grown');
    volume.sizeBytes = cluster.sizeOf(volume);
    if (this.#random.next() < 0.5) return;
    for (const client of runs.find((each) => each.volume === volume)?.clients ?? []) client.leave();
  }

  /** Often something breaks while the order is carried out, or in the moment in which it is done. */
  #trouble(volume: SimVolume): void {
    const { scene } = this.#options;
    const dice = this.#random.next();
    const soonMs = this.#random.next() * (this.#random.next() < 0.7 ? 60 : 400);
    const call = this.#call(volume, dice < 0.2 ? 'primary' : 'secondary');
    if (dice < 0.3) {
      const how = [kill, power, pause][Math.floor(this.#random.next() * 3)] ?? kill;
      scene.after(soonMs, () => {
        if (scene.hasOthers(call.node.index)) how(call);
      });
    } else if (dice < 0.4) {
      const isTaken = ({ message }: Noticed): boolean => message === 'snapshot taken';
      const then = (): void => {
        scene.after(this.#random.next() * 30, () => this.#cutPower(call));
      };
      scene.onNotice(isTaken, then, 5_000);
    } else if (dice < 0.5) this.#slow(call.node, soonMs * 5);
    else if (dice < 0.56) scene.after(soonMs, () => scene.load.burst(burstMs));
  }

  #cutPower(call: FaultCall): void {
    if (!call.scene.mayLosePower()) return;
    if (this.#random.next() < 0.5) cutAllPower(call, 'power-on-snapshot');
    else power(call);
  }

  #slow(node: SimNode, forMs: number): void {
    const extraMs = [3, 10, 40][Math.floor(this.#random.next() * 3)] ?? 10;
    node.slowDiskMs = extraMs;
    this.#options.scene.after(forMs, () => {
      if (node.slowDiskMs === extraMs) node.slowDiskMs = 0;
    });
  }

  #call(volume: SimVolume, target: 'primary' | 'secondary'): FaultCall {
    const forMs = 200 + this.#random.next() * (this.#random.next() < 0.8 ? 4_000 : 15_000);
    const seed = Math.floor(this.#random.next() * 2 ** 31);
    const call = callOf(this.#options.scene, { atMs: 0, kind: 'kill', target, forMs, seed });
    return { ...call, volume };
  }

  #name(): string {
    this.#names += 1;
    return `s${this.#names}`;
  }

  #volume(): SimVolume {
    const { volumes } = this.#options.scene.cluster;
    const volume = volumes[Math.floor(this.#random.next() * volumes.length)];
    if (!volume) throw new Error('no volume');
    return volume;
  }
}

/** What every volume of a run has that takes snapshots of all. */
export const groupLabels = { group: 'all' };

function createOf(volume: string, name: string): object {
  const selector = volume === '' ? groupLabels : {};
  return { volume, selector, name, labels: {}, requestId: name };
}
