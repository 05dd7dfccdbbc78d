import { SeededRandom } from '@stor/runtime/testing';

import type { SimNode } from '../cluster/sim-node.ts';
import type { FaultScene } from '../faults/fault-scene.ts';

/** Between two orders of an operator about nodes (ms). */
const minPauseMs = 3_000;
const maxPauseMs = 30_000;
/** Longest maintenance (ms); the product's shortest is a second. */
const maintenanceMs = 60_000;
/** An order that takes others back is tried so often, with a pause between (ms). */
const cancelTries = 60;
const cancelPauseMs = 500;
/** An order that nobody answered is carried out or forgotten by then (ms). */
const lateOrderMs = 3_000;
/** As few nodes keep three replicas and three voters when one has left. */
const leastNodesToLeave = 4;

const verbs = ['cordon', 'drain', 'evacuate', 'maintenance', 'decommission'] as const;

/**
 * An operator cordons, drains, evacuates and decommissions nodes beside all faults, safe or not, and takes
 * it back; once in a run of a larger cluster a node may leave for good, when its plan is safe. Nothing of
 * that may lose a write, and in the end all is healthy on the nodes that are left.
 */
export class NodeOrders {
  readonly #scene: FaultScene;
  readonly #random: SeededRandom;
  #isOver = false;
  #leaver: SimNode | null = null;
  #underWay: Promise<unknown> = Promise.resolve();

  constructor(scene: FaultScene, seed: number) {
    this.#scene = scene;
    this.#random = new SeededRandom(seed * 15_485_863 + 11);
    // before the orders on volumes, whose replicas need nodes that take them
    scene.atHeal.set('orders on nodes', () => this.#end());
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
    if (!node || node === this.#leaver) return;
    const dice = this.#random.next();
    if (dice < 0.35) {
      await this.#takeBack(node, 1);
      return;
    }
    if (dice < 0.45 && !this.#leaver && nodes.length >= leastNodesToLeave) {
      await this.#leave(node);
      return;
    }
    const verb = verbs[Math.floor(this.#random.next() * verbs.length)] ?? 'cordon';
    // one that is forced must not end with a node less: what it holds stays where it is
    const force = this.#random.next() < 0.5 && verb !== 'decommission';
    const forMs = Math.floor(1_000 + this.#random.next() * (maintenanceMs - 1_000));
    if (verb === 'decommission') {
      await this.#give(node, { verb });
      await this.#takeBack(node, cancelTries);
    } else await this.#give(node, { verb, force, ...(verb === 'maintenance' ? { forMs } : {}) });
  }

  /** Safe by its plan, or refused. Whether it has left is seen in the end. */
  async #leave(node: SimNode): Promise<void> {
    this.#leaver = node;
    const isTaken = await this.#give(node, { verb: 'decommission' });
    if (!isTaken) await this.#takeBack(node, cancelTries);
    if (!isTaken) this.#leaver = null;
  }

  async #give(
    node: SimNode,
    order: { verb: string; force?: boolean; cancel?: boolean; forMs?: number },
  ): Promise<boolean> {
    const { cluster } = this.#scene;
    const isDone = await cluster.order('OrderNode', { name: node.host, ...order });
    if (isDone) this.#scene.count(`order-${order.verb}`);
    return isDone;
  }

  /** The node takes everything again; false when that was not answered. */
  async #takeBack(node: SimNode, tries: number): Promise<boolean> {
    const name = node.host;
    const { cluster } = this.#scene;
    for (const order of [
      { verb: 'decommission', cancel: true },
      { verb: 'uncordon' },
      { verb: 'maintenance', cancel: true },
    ]) {
      for (let left = tries; ; left--) {
        const error = await cluster.tryOrder('OrderNode', { name, ...order });
        // it has left for good
        if (error?.code === 'NOT_FOUND') return true;
        if (error === null) break;
        if (left <= 1) return false;
        await cluster.scheduler.sleep(cancelPauseMs);
      }
    }
    return true;
  }

  async #end(): Promise<void> {
    this.#isOver = true;
    const { cluster } = this.#scene;
    await this.#underWay;
    for (let twice = 0; twice < 2; twice++) {
      for (const node of cluster.nodes) {
        const error = await cluster.tryOrder('GetNode', { name: node.host });
        if (error?.code !== 'NOT_FOUND') await this.#takeBack(node, cancelTries);
        else if (twice > 0) this.#scene.count('node-left');
      }
      // what a process that was stopped had been asked for may be done after that
      await cluster.scheduler.sleep(lateOrderMs);
    }
  }
}
