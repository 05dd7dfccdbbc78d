import type { Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';

import type { MemoryJudge } from '../checkers/memory-judge.ts';
import type { CommittedSet, SimCluster, SimVolume } from '../cluster/sim-cluster.ts';
import type { SimNode } from '../cluster/sim-node.ts';
import type { Request } from '../workload/choose-request.ts';
import type { Fault } from './fault-plan.ts';

/** What the load can be asked for. */
export interface FaultLoad {
  /** hosts of clients: an isolated node may keep or lose them */
  clientHosts: string[];
  /** the clients of a volume go to another node */
  move: (volume: SimVolume, node: number) => void;
  /**
   * One client of the volume goes to that node; the others stay and only look for so long (ms), or
   * write on when `bothWrite` and nobody sends again what was not answered. Null: it has one client.
   */
  split: (volume: SimVolume, node: number, forMs: number, bothWrite?: boolean) => string | null;
  /** All clients hurry for so long (ms), so that the fault meets requests under way. */
  burst: (ms: number) => void;
  /** All clients begin nothing for so long (ms), so that regions come to rest. */
  hush: (ms: number) => void;
  /** All clients only read for so long (ms). */
  look: (ms: number) => void;
  /** No client reads for so long (ms): those that write do so instead. */
  change: (ms: number) => void;
  /** Writes to every chunk of the volume, then discards all of it. */
  sweep: (volume: SimVolume) => Promise<void>;
  /** One client that may write does all of this at once, hushed or not; resolves when it is over. */
  ask: (volume: SimVolume, requests: readonly Request[]) => Promise<void>;
  /** All clients mostly ask for one kind over borders of regions for so long (ms). */
  borders: (ms: number, kind: 'read' | 'write' | 'zero') => void;
}

export interface FaultSceneOptions {
  cluster: SimCluster;
  judges: Map<string, MemoryJudge>;
  load: FaultLoad;
  /** for who reads along */
  say: (text: string) => void;
}

/** A log message of the product with its fields, and the host that wrote it. */
export interface Noticed {
  host: string;
  message: string;
  fields: {
    readonly volume?: string;
    readonly epoch?: number;
    readonly replica?: string;
    readonly inSync?: readonly string[];
  };
}

/** Everything that faults share in one run: what was done, what is broken, who waits for what. */
export class FaultScene {
  readonly counts: Record<string, number> = {};
  readonly cluster: SimCluster;
  readonly load: FaultLoad;
  readonly say: (text: string) => void;
  /** the node whose disk has failed; at most one in a run */
  broken = -1;
  isOver = false;
  /** what is done when all faults end, by volume: orders that must be taken back */
  readonly atHeal = new Map<string, () => Promise<void>>();
  /** the control plane has gone back, and not all volumes are served again: nothing else breaks */
  isRestoring = false;
  /** orders that are not answered yet */
  readonly orders = new Set<Promise<unknown>>();
  readonly #judges: Map<string, MemoryJudge>;
  readonly #noticers = new Set<(noticed: Noticed) => void>();
  readonly #committers = new Set<(set: CommittedSet) => void>();

  constructor({ cluster, judges, load, say }: FaultSceneOptions) {
    this.cluster = cluster;
    this.load = load;
    this.say = say;
    this.#judges = judges;
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Not when faults have ended by then. */
  after(ms: number, run: () => void): void {
    this.cluster.scheduler.at(ms, () => {
      if (!this.isOver) run();
    });
  }

  /** Directed ends, from host to host or to a port of it, for so long. */
  block(forMs: number, ends: readonly [string, string][]): void {
    const { network } = this.cluster;
    for (const [from, to] of ends) network.block(from, to);
    this.after(forMs, () => {
      for (const [from, to] of ends) network.unblock(from, to);
    });
  }

  noticed(noticed: Noticed): void {
    for (const noticer of [...this.#noticers]) noticer(noticed);
  }

  committed(set: CommittedSet): void {
    for (const committer of [...this.#committers]) committer(set);
  }

  /**
   * Once, in the very event in which a process logs what `isMeant` accepts; never after `withinMs`
   * (null: until faults end).
   */
  onNotice(
    isMeant: (noticed: Noticed) => boolean,
    then: (noticed: Noticed) => void,
    withinMs: number | null = null,
  ): void {
    this.#once(this.#noticers, isMeant, then, withinMs);
  }

  /** Once, in the very event in which the first node applies a set that `isMeant` accepts. */
  onCommit(
    isMeant: (set: CommittedSet) => boolean,
    then: (set: CommittedSet) => void,
    withinMs: number | null = null,
  ): void {
    this.#once(this.#committers, isMeant, then, withinMs);
  }

  #once<T>(
    listeners: Set<(value: T) => void>,
    isMeant: (value: T) => boolean,
    then: (value: T) => void,
    withinMs: number | null,
  ): void {
    const listener = (value: T): void => {
      if (this.isOver || !isMeant(value)) return;
      listeners.delete(listener);
      then(value);
    };
    listeners.add(listener);
    if (withinMs !== null) this.after(withinMs, () => listeners.delete(listener));
  }

  judge(volume: SimVolume): MemoryJudge {
    const judge = this.#judges.get(volume.name);
    if (!judge) throw new Error(`no judge for ${volume.name}`);
    return judge;
  }

  membersBut(volume: SimVolume, node: number): number {
    const { members } = this.judge(volume);
    return members.filter((id) => this.cluster.nodeOfReplica(id) !== node).length;
  }

  /** Every volume has a member elsewhere. */
  hasOthers(node: number): boolean {
    return this.cluster.volumes.every((volume) => this.membersBut(volume, node) > 0);
  }

  /** False while a member sits on the disk that failed: the others must keep their memory. */
  mayLosePower(): boolean {
    if (this.isRestoring) return false;
    if (this.broken < 0) return true;
    const { cluster } = this;
    return !cluster.volumes.some((volume) =>
      this.judge(volume).members.some((id) => cluster.nodeOfReplica(id) === this.broken),
    );
  }
}

/** One fault, when its time has come: whom it hits and with which chance. */
export interface FaultCall {
  readonly scene: FaultScene;
  readonly fault: Fault;
  readonly random: Random;
  readonly volume: SimVolume;
  readonly node: SimNode;
}

/** Carries it out. What it waits for shifts the faults after it. */
export type FaultKindRun = (call: FaultCall) => void | Promise<void>;

/** Whom the fault hits now. */
export function callOf(scene: FaultScene, fault: Fault): FaultCall {
  const random = new SeededRandom(fault.seed);
  const { volumes } = scene.cluster;
  const volume = volumes[Math.floor(random.next() * volumes.length)];
  if (!volume) throw new Error('no volume');
  return { scene, fault, random, volume, node: targetOf(scene, fault, volume, random) };
}

function targetOf(scene: FaultScene, fault: Fault, volume: SimVolume, random: Random): SimNode {
  const { cluster } = scene;
  const { nodes } = cluster;
  const any = nodes[Math.floor(random.next() * nodes.length)] as SimNode;
  const holder = cluster.holderOf(volume);
  if (fault.target === 'primary') return nodes[holder] ?? any;
  if (fault.target === 'leader') return nodes[cluster.leader()] ?? any;
  if (fault.target === 'secondary') {
    const members = scene.judge(volume).members.map((id) => cluster.nodeOfReplica(id));
    const others = members.filter((node) => node !== holder);
    return nodes[others[Math.floor(random.next() * others.length)] ?? -1] ?? any;
  }
  return any;
}

export function otherThan({ scene, random }: FaultCall, node: SimNode): SimNode {
  const others = scene.cluster.nodes.filter((each) => each !== node);
  return others[Math.floor(random.next() * others.length)] ?? node;
}
