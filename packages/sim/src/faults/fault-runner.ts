import type { Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';

import type { MemoryJudge } from '../checkers/memory-judge.ts';
import { controlHost } from '../cluster/control-model.ts';
import type { SimCluster, SimVolume } from '../cluster/sim-cluster.ts';
import type { SimNode } from '../cluster/sim-node.ts';
import type { Fault } from './fault-plan.ts';

/** A slow disk takes up to this much more for each step of a call (ms). */
const slowDiskMs = [20, 200, 3_000];
const slowLinkMs = [5, 60, 700];
/** Clients hurry for so long before and after the moment of a fault (ms). */
const burstMs = 25;
/** Both sides of a split hurry for so long at a time (ms). */
const splitBurstMs = 60;
/** A disk fails only when all is well; that is waited for so many seconds. */
const diskPatience = 15;
/** A crash that was set for a file operation, and did not come, is called off after this (ms). */
const crashPatienceMs = 4_000;

export interface FaultRunnerOptions {
  cluster: SimCluster;
  judges: Map<string, MemoryJudge>;
  /** hosts of clients: an isolated node may keep or lose them */
  clientHosts: string[];
  /** the clients of a volume go to another node */
  move: (volume: SimVolume, node: number) => void;
  /** One client of the volume goes to that node; the others stay and only look for so long (ms). */
  split: (volume: SimVolume, node: number, forMs: number) => string | null;
  /** All clients hurry for so long (ms), so that the fault meets requests under way. */
  burst: (ms: number) => void;
  /** for who reads along */
  say: (text: string) => void;
}

/** Carries out a plan; never more at once than the promises cover. Counts what really happened. */
export class FaultRunner {
  readonly counts: Record<string, number> = {};
  readonly #options: FaultRunnerOptions;
  readonly #cluster: SimCluster;
  /** the node whose disk has failed; at most one in a run */
  #broken = -1;
  #isOver = false;
  #onJoin: () => void = () => {};
  /** the volume whose new primary is awaited */
  #splitVolume = '';
  #onGranted: (volume: string) => void = () => {};

  constructor(options: FaultRunnerOptions) {
    this.#options = options;
    this.#cluster = options.cluster;
  }

  get total(): number {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }

  async run(faults: readonly Fault[]): Promise<void> {
    const { scheduler } = this.#cluster;
    const beginMs = scheduler.nowMs;
    const lengthMs = faults.at(-1)?.atMs ?? 0;
    // a fault that needs the others to wait shifts them all
    let lateMs = 0;
    for (const fault of faults) {
      if (scheduler.nowMs - beginMs > lengthMs) return;
      const atMs = beginMs + lateMs + fault.atMs;
      await scheduler.sleep(atMs - burstMs - scheduler.nowMs);
      this.#options.burst(burstMs * 2);
      await scheduler.sleep(atMs - scheduler.nowMs);
      await this.#apply(fault);
      lateMs += Math.max(0, scheduler.nowMs - atMs - burstMs);
    }
  }

  /** All faults end. */
  heal(): void {
    this.#isOver = true;
    const { nodes, network } = this.#cluster;
    network.heal();
    for (const node of nodes) {
      node.files.cancelCrash();
      node.files.hook = () => null;
      node.slowDiskMs = 0;
      node.resume();
      node.start();
    }
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  #after(ms: number, run: () => void): void {
    this.#cluster.scheduler.at(ms, () => {
      if (!this.#isOver) run();
    });
  }

  async #apply(fault: Fault): Promise<void> {
    const random = new SeededRandom(fault.seed);
    const volume = this.#volume(random);
    const node = this.#target(fault, volume, random);
    this.#options.say(
      `FAULT ${fault.kind} on ${node.host} (${fault.target} of ${volume.name}), ${fault.forMs} ms`,
    );
    switch (fault.kind) {
      case 'kill':
        this.#kill(node, fault);
        return;
      case 'double-kill':
        this.#kill(node, fault);
        this.#kill(this.#other(node, random), fault);
        return;
      case 'kill-in-write':
        this.#crash(node, fault, 'kill', random);
        return;
      case 'kill-all':
        await this.#killAll(node, fault, random);
        return;
      case 'power':
        if (this.#mayLosePower()) this.#power(node, fault);
        return;
      case 'power-in-write':
        if (this.#mayLosePower()) this.#crash(node, fault, 'power', random);
        return;
      case 'power-all':
        if (!this.#mayLosePower()) return;
        this.#powerAll('power-all', fault, random);
        return;
      case 'power-on-join':
        this.#onJoin = () => {
          this.#after(random.next() * 300, () => {
            if (this.#mayLosePower()) this.#powerAll('power-on-join', fault, random);
          });
        };
        return;
      case 'split':
        if (this.#split(volume, fault, random)) await this.#cluster.scheduler.sleep(fault.forMs);
        return;
      case 'pause':
        this.#pause(node, fault);
        return;
      case 'disk-error':
        await this.#breakDisk(node, random);
        return;
      case 'slow-disk':
        this.#count('slow-disk');
        node.slowDiskMs = slowDiskMs[Math.floor(random.next() * slowDiskMs.length)] ?? 20;
        this.#after(fault.forMs, () => {
          node.slowDiskMs = 0;
        });
        return;
      case 'move':
        this.#count('move');
        this.#options.move(volume, Math.floor(random.next() * this.#cluster.nodes.length));
        return;
      default:
        this.#network(node, fault, random);
    }
  }

  #network(node: SimNode, fault: Fault, random: Random): void {
    const { network } = this.#cluster;
    const other = this.#other(node, random);
    switch (fault.kind) {
      case 'cut':
        if (network.cut(node.host, other.host) > 0) this.#count('cut');
        return;
      case 'partition':
        this.#count('partition');
        this.#block(fault.forMs, [
          [node.host, other.host],
          [other.host, node.host],
        ]);
        return;
      case 'one-way': {
        this.#count('one-way');
        const ends: [string, string] =
          random.next() < 0.5 ? [node.host, other.host] : [other.host, node.host];
        this.#block(fault.forMs, [ends]);
        return;
      }
      case 'isolate':
        this.#isolate(node, fault, random);
        return;
      case 'control-cut': {
        this.#count('control-cut');
        const ends = this.#cluster.controlLinks(node.index);
        // one direction at times
        const isOneWay = random.next() < 0.3;
        this.#block(fault.forMs, isOneWay ? ends.filter((_, i) => i % 2 === 0) : ends);
        return;
      }
      case 'slow-link': {
        this.#count('slow-link');
        const extraMs = slowLinkMs[Math.floor(random.next() * slowLinkMs.length)] ?? 5;
        network.slowDown(node.host, other.host, extraMs);
        this.#after(fault.forMs, () => network.slowDown(node.host, other.host, 0));
        return;
      }
      default:
        return;
    }
  }

  /** Cut off from all nodes and the control plane, in one or both directions; clients stay or not. */
  #isolate(node: SimNode, fault: Fault, random: Random): void {
    this.#count('isolate');
    const dice = random.next();
    const others = this.#cluster.nodes.filter((each) => each !== node).map((each) => each.host);
    const hosts = [...others, controlHost];
    if (random.next() < 0.4) hosts.push(...this.#options.clientHosts);
    const ends: [string, string][] = [];
    for (const host of hosts) {
      if (dice < 0.8) ends.push([node.host, host]);
      if (dice > 0.2) ends.push([host, node.host]);
    }
    this.#block(fault.forMs, ends);
  }

  #block(forMs: number, ends: [string, string][]): void {
    const { network } = this.#cluster;
    for (const [from, to] of ends) network.block(from, to);
    this.#after(forMs, () => {
      for (const [from, to] of ends) network.unblock(from, to);
    });
  }

  /** A replica has become a member. */
  joined(): void {
    const then = this.#onJoin;
    this.#onJoin = () => {};
    then();
  }

  #powerAll(kind: string, fault: Fault, random: Random): void {
    this.#count(kind);
    for (const each of this.#cluster.nodes) {
      each.losePower();
      this.#after(fault.forMs * (0.5 + random.next() * 0.5), () => each.start());
    }
  }

  /**
   * The primary is cut off from all nodes, and one client goes on elsewhere, while another one still
   * asks the old primary: what that reads must not be old.
   */
  #split(volume: SimVolume, fault: Fault, random: Random): boolean {
    const { nodes } = this.#cluster;
    const old = nodes[this.#cluster.holderOf(volume)];
    if (!old?.clock.running) return false;
    const other = this.#other(old, random);
    const mover = this.#options.split(volume, other.index, fault.forMs);
    if (mover === null) return false;
    this.#count('split');
    const ends: [string, string][] = [];
    const hosts = nodes.filter((each) => each !== old).map((each) => each.host);
    for (const host of [...hosts, controlHost]) ends.push([old.host, host], [host, old.host]);
    const clientEnds: [string, string][] = [
      [old.host, mover],
      [mover, old.host],
    ];
    this.#block(fault.forMs, clientEnds);
    if (random.next() < 0.4) {
      this.#splitVolume = volume.name;
      this.#block(fault.forMs, ends);
      return true;
    }
    // first without the control plane only: replicas renew its leases until the next one fences them
    this.#block(fault.forMs, this.#cluster.controlLinks(old.index));
    const delayMs = random.next() < 0.5 ? 0 : random.next() * 3;
    this.#onGranted = (name) => {
      if (name !== volume.name) return;
      this.#onGranted = () => {};
      this.#after(delayMs, () => this.#block(fault.forMs, ends));
      this.#splitVolume = name;
    };
    return true;
  }

  /** A primary begins to serve: after a split both sides hurry, at once and a little later. */
  served(volume: string): void {
    if (this.#splitVolume !== volume) return;
    this.#splitVolume = '';
    for (const delayMs of [0, 250, 1_000, 3_000]) {
      this.#after(delayMs, () => this.#options.burst(splitBurstMs));
    }
  }

  /** A node was granted the volume. */
  granted(volume: string): void {
    this.#onGranted(volume);
  }

  #kill(node: SimNode, fault: Fault): void {
    if (!node.isUp) return;
    this.#count('kill');
    node.kill();
    this.#after(fault.forMs, () => node.start());
  }

  /** Every process at one instant; often while one disk is slow, so that much is under way there. */
  async #killAll(node: SimNode, fault: Fault, random: Random): Promise<void> {
    const { nodes, scheduler } = this.#cluster;
    const isSlow = random.next() < 0.6;
    if (isSlow) {
      node.slowDiskMs = slowDiskMs[1 + Math.floor(random.next() * 2)] ?? 200;
      await scheduler.sleep(100 + random.next() * 1_500);
      this.#options.burst(burstMs);
      await scheduler.sleep(burstMs * random.next());
    }
    this.#count('kill-all');
    for (const each of nodes) each.kill();
    node.slowDiskMs = 0;
    for (const each of nodes) {
      // often the slow one is the first that is back
      const share = isSlow && each === node && random.next() < 0.7 ? 0 : random.next();
      this.#after(50 + fault.forMs * share, () => each.start());
    }
  }

  #power(node: SimNode, fault: Fault): void {
    this.#count('power');
    node.losePower();
    this.#after(fault.forMs, () => node.start());
  }

  /** In the middle of whatever operation of the disk comes then. */
  #crash(node: SimNode, fault: Fault, how: 'kill' | 'power', random: Random): void {
    if (!node.isUp) return;
    node.onCrash = () => {
      this.#count(how === 'kill' ? 'kill-in-write' : 'power-in-write');
      this.#after(fault.forMs, () => node.start());
    };
    node.files.crashAfter(1 + Math.floor(random.next() * 60), how);
    this.#after(crashPatienceMs, () => node.files.cancelCrash());
  }

  #pause(node: SimNode, fault: Fault): void {
    if (!node.clock.running) return;
    this.#count('pause');
    const { clock } = node;
    clock.pause();
    this.#after(fault.forMs, () => clock.resume());
  }

  /**
   * At most one disk in a run, and only while every volume has two other members with their memory:
   * with a dead disk in the set and no memory anywhere else a volume rightly waits for ever.
   */
  async #breakDisk(node: SimNode, random: Random): Promise<void> {
    const { nodes } = this.#cluster;
    if (this.#broken >= 0 || !node.clock.running) return;
    if (nodes.some(({ files }) => files.crashPending)) return;
    for (let tries = 0; !(await this.#areWhole(node.index)); tries++) {
      if (tries === diskPatience) return;
      await this.#cluster.scheduler.sleep(1_000);
    }
    if (this.#broken >= 0 || !node.clock.running) return;
    this.#broken = node.index;
    this.#count('disk-error');
    const isSync = random.next() < 0.6;
    const parts = isSync
      ? ['/data', '/data', '/sums', '']
      : ['/data', '/sums', '/journal', '/map', ''];
    const what = parts[Math.floor(random.next() * parts.length)] ?? '';
    const operation = isSync ? 'datasync' : 'write';
    const { files } = node;
    files.hook = (each, path) => {
      const isMeant = each === operation && path.includes('disk') && path.endsWith(what);
      // other faults may have come since: nothing is promised when the last copy's disk fails
      return isMeant && this.#hasOthers(node.index) ? 'EIO' : null;
    };
    this.#after(4_000, () => {
      files.hook = () => null;
    });
  }

  /** Every volume has a member elsewhere. */
  #hasOthers(node: number): boolean {
    return this.#cluster.volumes.every((volume) => this.#membersBut(volume, node) > 0);
  }

  async #areWhole(butNode: number): Promise<boolean> {
    for (const volume of this.#cluster.volumes) {
      if (this.#membersBut(volume, butNode) < 2) return false;
      if ((await this.#cluster.unhealthy(volume)) !== null) return false;
    }
    return true;
  }

  #mayLosePower(): boolean {
    if (this.#broken < 0) return true;
    const cluster = this.#cluster;
    const holdsBroken = cluster.volumes.some((volume) =>
      this.#judge(volume).members.some((id) => cluster.nodeOfReplica(id) === this.#broken),
    );
    return !holdsBroken;
  }

  #membersBut(volume: SimVolume, node: number): number {
    const { members } = this.#judge(volume);
    return members.filter((id) => this.#cluster.nodeOfReplica(id) !== node).length;
  }

  #judge(volume: SimVolume): MemoryJudge {
    const judge = this.#options.judges.get(volume.name);
    if (!judge) throw new Error(`no judge for ${volume.name}`);
    return judge;
  }

  #volume(random: Random): SimVolume {
    const { volumes } = this.#cluster;
    const volume = volumes[Math.floor(random.next() * volumes.length)];
    if (!volume) throw new Error('no volume');
    return volume;
  }

  #target(fault: Fault, volume: SimVolume, random: Random): SimNode {
    const { nodes } = this.#cluster;
    const any = nodes[Math.floor(random.next() * nodes.length)] as SimNode;
    const holder = this.#cluster.holderOf(volume);
    if (fault.target === 'primary') return nodes[holder] ?? any;
    if (fault.target === 'leader') return nodes[this.#cluster.leader()] ?? any;
    if (fault.target === 'secondary') {
      const members = this.#judge(volume).members.map((id) => this.#cluster.nodeOfReplica(id));
      const others = members.filter((node) => node !== holder);
      return nodes[others[Math.floor(random.next() * others.length)] ?? -1] ?? any;
    }
    return any;
  }

  #other(node: SimNode, random: Random): SimNode {
    const others = this.#cluster.nodes.filter((each) => each !== node);
    return others[Math.floor(random.next() * others.length)] ?? node;
  }
}
