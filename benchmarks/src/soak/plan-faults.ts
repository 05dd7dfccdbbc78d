import type { Random } from '@stor/runtime';
import { faultKinds, type Fault, type FaultKind } from '../namespaces/faults.ts';

/** Whom a fault is meant for: a third of all for each. */
export const aims = ['primary', 'leader', 'anybody'] as const;
export type Aim = (typeof aims)[number];

export interface PlannedFault extends Fault {
  aim: Aim;
  /** from its beginning to its end (ms) */
  lastsMs: number;
  /** the next one begins without waiting until all volumes are healthy again */
  thenHurry: boolean;
}

/** Where everybody is when a fault is drawn; nodes by index. */
export interface Targets {
  primary: number | null;
  leader: number | null;
  /** nodes that may suffer now */
  allowed: readonly number[];
  nodes: number;
}

const hurryShare = 0.2;
/** Long enough for each to be noticed (2 s of silence, 6 s of node lease) or not, as chance wants. */
const lastsMs: Record<FaultKind, readonly [number, number]> = {
  kill: [200, 9_000],
  'kill-all': [200, 2_000],
  restart: [200, 4_000],
  pause: [500, 15_000],
  'node-death': [2_000, 12_000],
  cable: [500, 12_000],
  cut: [500, 12_000],
  'cut-from-nodes': [500, 12_000],
  deaf: [500, 12_000],
  mute: [500, 12_000],
  pair: [500, 12_000],
  loss: [3_000, 10_000],
  slow: [3_000, 10_000],
};
const slowMs = [5, 150] as const;

/** Draws faults from a seed so that kinds come equally often, and aims too. */
export class FaultPlan {
  readonly #random: Random;
  readonly #aimed = new Map<Aim, number>(aims.map((aim) => [aim, 0]));
  readonly #kinds: FaultKind[] = [];

  constructor(random: Random) {
    this.#random = random;
  }

  /** Null when no node may suffer now. */
  next(targets: Targets): PlannedFault | null {
    const aim = this.#aim(targets);
    const node = this.#node(aim, targets);
    if (node === null) return null;
    this.#aimed.set(aim, (this.#aimed.get(aim) ?? 0) + 1);
    const kind = this.#kind(targets.allowed.length === targets.nodes);
    const others = Array.from({ length: targets.nodes }, (_, index) => index).filter(
      (index) => index !== node,
    );
    return {
      kind,
      node,
      aim,
      other: this.#one(others) ?? node,
      delayMs: Math.round(this.#between(...slowMs)),
      lastsMs: Math.round(this.#between(...lastsMs[kind])),
      thenHurry: this.#random.next() < hurryShare,
    };
  }

  /** The aim that has come least often among those that can be hit. */
  #aim({ primary, leader, allowed }: Targets): Aim {
    const possible = aims.filter(
      (aim) => aim === 'anybody' || allowed.includes((aim === 'primary' ? primary : leader) ?? -1),
    );
    const fewest = Math.min(...possible.map((aim) => this.#aimed.get(aim) ?? 0));
    return this.#one(possible.filter((aim) => this.#aimed.get(aim) === fewest)) ?? 'anybody';
  }

  #node(aim: Aim, { primary, leader, allowed }: Targets): number | null {
    if (aim === 'primary') return primary;
    if (aim === 'leader') return leader;
    return this.#one(allowed);
  }

  /** Each kind once, in random order, then each again; what hits everybody only when all may. */
  #kind(mayHitAll: boolean): FaultKind {
    const possible = (): FaultKind[] =>
      this.#kinds.filter((kind) => mayHitAll || kind !== 'kill-all');
    if (possible().length === 0) this.#kinds.push(...faultKinds);
    const kind = this.#one(possible()) ?? 'kill';
    this.#kinds.splice(this.#kinds.indexOf(kind), 1);
    return kind;
  }

  #between(low: number, high: number): number {
    return low + this.#random.next() * (high - low);
  }

  #one<T>(choices: readonly T[]): T | null {
    return choices[Math.floor(this.#random.next() * choices.length)] ?? null;
  }
}
