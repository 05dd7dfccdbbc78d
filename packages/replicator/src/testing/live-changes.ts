import type { FailureMode } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { SimCluster } from './sim-cluster.ts';

const modes: readonly FailureMode[] = ['hard', 'soft', 'threshold=2', 'alwayson', 'alwayson'];
const timeoutsMs = [0, 0, 0, 500, 2_000];
const maxStates = 5;

/** A controller and an operator at random: replicas come, go and move, the policy changes. */
export class LiveChanges {
  readonly #cluster: SimCluster;
  readonly #random: Random;
  readonly counts: Record<string, number> = {};
  #settledMs = 0;

  constructor(cluster: SimCluster, random: Random) {
    this.#cluster = cluster;
    this.#random = random;
  }

  step(): void {
    const { control, states, places, nodes } = this.#cluster;
    const dice = this.#random.next();
    if (dice < 0.25) {
      // now and then beside one on the same node, as when a disk is emptied onto its neighbour
      const isBeside = this.#random.next() < 0.3;
      const free = nodes
        .map((_node, index) => index)
        .filter((index) => places.includes(index) === isBeside);
      const index = free[this.#below(free.length)];
      if (index !== undefined && states.length < maxStates) {
        this.#count(isBeside ? 'add-beside' : 'add');
        this.#cluster.addReplica(index);
        control.replicas = 1 + this.#below(3);
      }
    } else if (dice < 0.5) {
      const state = states[this.#below(states.length)];
      if (state && states.length - control.leaving.size > control.replicas) {
        this.#count('leave');
        control.leaving.add(state.identity.replicaId);
      }
    } else if (dice < 0.55) {
      this.#count('stay');
      control.leaving.clear();
    } else if (dice < 0.7) {
      this.#count('policy');
      control.policy.failureMode = modes[this.#below(modes.length)] ?? 'soft';
      control.policy.onLoss = this.#random.next() < 0.7 ? 'suspend' : 'error';
      control.policy.ioTimeoutMs = timeoutsMs[this.#below(timeoutsMs.length)] ?? 0;
    } else if (dice < 0.85) this.#count('remove', this.#cluster.removeLeft().length);
    // late ones come out of order
    this.#cluster.push(this.#random.next() < 0.5 ? 0 : this.#random.next() * 2_000);
  }

  /** What the volume is to end with: three replicas at most, no requests held. */
  heal(): void {
    const { control, states, places } = this.#cluster;
    control.policy = { ...control.policy, failureMode: 'alwayson', onLoss: 'suspend' };
    control.policy.ioTimeoutMs = 0;
    const whole = states.filter(({ failure }) => failure === null);
    const staying = whole.filter(({ identity }) => !control.leaving.has(identity.replicaId));
    if (staying.length === 0) control.leaving.clear();
    const nodes = new Set(staying.map((state) => places[states.indexOf(state)]));
    control.replicas = Math.max(1, Math.min(3, nodes.size));
    this.settle();
  }

  /** What a controller does again and again, every half second. */
  settle(): void {
    const { nowMs } = this.#cluster.scheduler;
    if (nowMs < this.#settledMs + 500) return;
    this.#settledMs = nowMs;
    this.#cluster.removeLeft();
    this.#cluster.push();
  }

  #below(limit: number): number {
    return Math.floor(this.#random.next() * limit);
  }

  #count(what: string, times = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + times;
  }
}
