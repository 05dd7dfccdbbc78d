import { SeededRandom } from '@stor/runtime/testing';

import type { FaultScene } from '../faults/fault-scene.ts';

/** Between two orders of an operator about disks (ms). */
const minPauseMs = 4_000;
const maxPauseMs = 25_000;
/** An order that takes another back is tried so often, with a pause between (ms). */
const cancelTries = 60;
const cancelPauseMs = 500;
/** An order that nobody answered is carried out or forgotten by then (ms). */
const lateOrderMs = 3_000;

const disks = ['d1', 'd2'];

/**
 * An operator has disks emptied beside all faults, and takes it back: replicas move between the disks of
 * a node, which are those of two lanes. Nothing of that may lose a write.
 */
export class DiskOrders {
  readonly #scene: FaultScene;
  readonly #random: SeededRandom;
  #isOver = false;
  #underWay: Promise<unknown> = Promise.resolve();

  constructor(scene: FaultScene, seed: number) {
    this.#scene = scene;
    this.#random = new SeededRandom(seed * 32_452_843 + 7);
    scene.atHeal.set('orders on disks', () => this.#end());
  }

  async run(): Promise<void> {
    for (;;) {
      const pauseMs = minPauseMs + this.#random.next() * (maxPauseMs - minPauseMs);
      await this.#scene.cluster.scheduler.sleep(pauseMs);
      if (this.#isOver) return;
      this.#underWay = this.#order();
      await this.#underWay;
    }
  }

  async #order(): Promise<void> {
    const { nodes } = this.#scene.cluster;
    const node = nodes[Math.floor(this.#random.next() * nodes.length)];
    const path = disks[Math.floor(this.#random.next() * disks.length)] ?? 'd1';
    if (!node) return;
    const cancel = this.#random.next() < 0.4;
    const isDone = await this.#evacuate(node.host, path, cancel);
    if (isDone && !cancel) this.#scene.count('order-empty-disk');
  }

  #evacuate(host: string, name: string, cancel: boolean): Promise<boolean> {
    const disk = `${host}:/data/disks/${name}`;
    return this.#scene.cluster.order('EvacuateDisk', { disk, cancel, force: !cancel });
  }

  async #end(): Promise<void> {
    this.#isOver = true;
    await this.#underWay;
    const { nodes, scheduler } = this.#scene.cluster;
    for (let twice = 0; twice < 2; twice++) {
      for (const { host } of nodes) {
        for (const disk of disks) {
          for (let left = cancelTries; left > 0; left--) {
            if (await this.#evacuate(host, disk, true)) break;
            await scheduler.sleep(cancelPauseMs);
          }
        }
      }
      // what a process that was stopped had been asked for may be done after that
      await scheduler.sleep(lateOrderMs);
    }
  }
}
