import type { Fault, FaultKind } from './fault-plan.ts';
import { callOf, type FaultKindRun, type FaultScene } from './fault-scene.ts';
import { absence } from './kinds/absence.ts';
import { alone } from './kinds/alone.ts';
import { discard } from './kinds/discards.ts';
import { diskError, slowDisk } from './kinds/disks.ts';
import { homecoming, powerOnSlowJoin, powerUnflushed, resyncBurst } from './kinds/joins.ts';
import { fenceInZero, operatorFence, stalledSplit } from './kinds/fences.ts';
import { controlCut, cut, isolate, oneWay, partition, slowLink } from './kinds/links.ts';
import { move, split } from './kinds/moves.ts';
import { orderMovePrimary, orderMoveReplica, orderUpdate } from './kinds/orders.ts';
import { burstMs } from './kinds/pace.ts';
import {
  doubleKill,
  kill,
  killAll,
  killInWrite,
  pause,
  power,
  powerAll,
  powerInWrite,
  powerOnJoin,
} from './kinds/processes.ts';
import { restore } from './kinds/restore.ts';
import { lostAnswer, lostMember } from './kinds/sets.ts';
import { powerAtRest, wake } from './kinds/wake.ts';
import { fenceOnJoin, powerReturn, slowTakeover } from './kinds/takeovers.ts';

const kinds: Record<FaultKind, FaultKindRun> = {
  kill,
  'kill-in-write': killInWrite,
  'kill-all': killAll,
  power,
  'power-in-write': powerInWrite,
  'power-all': powerAll,
  pause,
  cut,
  partition,
  'one-way': oneWay,
  isolate,
  'control-cut': controlCut,
  'slow-link': slowLink,
  'slow-disk': slowDisk,
  'disk-error': diskError,
  move,
  'double-kill': doubleKill,
  split,
  'power-on-join': powerOnJoin,
  'lost-answer': lostAnswer,
  'lost-member': lostMember,
  wake,
  'power-at-rest': powerAtRest,
  absence,
  'resync-burst': resyncBurst,
  'power-on-slow-join': powerOnSlowJoin,
  homecoming,
  'power-unflushed': powerUnflushed,
  'operator-fence': operatorFence,
  'stalled-split': stalledSplit,
  'fence-in-zero': fenceInZero,
  'slow-takeover': slowTakeover,
  'power-return': powerReturn,
  'fence-on-join': fenceOnJoin,
  'order-update': orderUpdate,
  'order-move-replica': orderMoveReplica,
  'order-move-primary': orderMovePrimary,
  restore,
  discard,
  alone,
};

/** Carries out a plan; never more at once than the promises cover. Counts what really happened. */
export class FaultRunner {
  readonly #scene: FaultScene;

  constructor(scene: FaultScene) {
    this.#scene = scene;
  }

  async run(faults: readonly Fault[]): Promise<void> {
    const { cluster, load } = this.#scene;
    const { scheduler } = cluster;
    const beginMs = scheduler.nowMs;
    const lengthMs = faults.at(-1)?.atMs ?? 0;
    // a fault that needs the others to wait shifts them all
    let lateMs = 0;
    for (const fault of faults) {
      if (scheduler.nowMs - beginMs > lengthMs) return;
      const atMs = beginMs + lateMs + fault.atMs;
      await scheduler.sleep(atMs - burstMs - scheduler.nowMs);
      load.burst(burstMs * 2);
      await scheduler.sleep(atMs - scheduler.nowMs);
      await this.#apply(fault);
      lateMs += Math.max(0, scheduler.nowMs - atMs - burstMs);
    }
  }

  /** All faults end, and what operators ordered is taken back. */
  async heal(): Promise<void> {
    this.#scene.isOver = true;
    const { nodes, network } = this.#scene.cluster;
    network.heal();
    for (const node of nodes) {
      node.files.cancelCrash();
      node.files.hook = () => null;
      node.slowDiskMs = 0;
      node.slowSyncMs = 0;
      node.resume();
      node.start();
    }
    for (const end of this.#scene.atHeal.values()) await end();
  }

  async #apply(fault: Fault): Promise<void> {
    const call = callOf(this.#scene, fault);
    const { node, volume } = call;
    this.#scene.say(
      `FAULT ${fault.kind} on ${node.host} (${fault.target} of ${volume.name}), ${fault.forMs} ms`,
    );
    await kinds[fault.kind](call);
  }
}
