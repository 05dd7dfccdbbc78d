import { EmbeddedClusterStore, type ClusterStore } from '@stor/control-plane';
import { SocketRpcTransport } from '@stor/control-plane/testing';
import { loadServices, StorError, type Services } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';
import type { MemberChange } from 'raft-ts';
import { MemoryKeyValueDisk } from 'raft-ts/testing';

import { SimNode } from '../cluster/sim-node.ts';
import { SimNetwork } from '../world/network.ts';
import type { ProcessClock } from '../world/process-clock.ts';
import { SimScheduler } from '../world/scheduler.ts';
import { KvClient } from './kv-client.ts';
import { KvHistory } from './kv-history.ts';
import { KvLeaseHolder } from './kv-lease-holder.ts';

export interface KvRunOptions {
  seed: number;
  /** of virtual time under faults (ms) @default 20_000 */
  durationMs?: number;
  /** the members of the store change meanwhile @default true */
  changes?: boolean;
}

export interface KvReport {
  seed: number;
  violations: string[];
  counts: Record<string, number>;
}

const clusterId = 'c-0000000000000001';
const port = 1;
const firstMembers = 3;
const nodeCount = 5;
/** hosts that stand by for those whose disk is lost */
const standbyCount = 3;
/** a voter whose disk is lost is replaced within this, with all else in order (ms) */
const replaceMs = 30_000;
const clientCount = 4;
/** a short tick, so that many elections fit into little time */
const tickMs = 20;
/** Nothing fails any more: the store answers within this (ms). */
const healMs = 60_000;

let services: Promise<Services> | null = null;

/**
 * The embedded cluster store of whole processes over the simulated network and disks: its members
 * are cut off, stopped, killed, lose power, find their disks full, lose them for good and are replaced,
 * and are added and removed, while clients read, write, watch and hold leases. Everything comes from the
 * seed.
 */
export class KvWorld {
  readonly scheduler = new SimScheduler();
  readonly history = new KvHistory();
  readonly counts: Record<string, number> = {};
  readonly random: SeededRandom;
  readonly #options: KvRunOptions;
  readonly #network: SimNetwork;
  readonly #nodes: SimNode[] = [];
  readonly #disks: MemoryKeyValueDisk[] = [];
  /** hosts that take part, or might; the first of the others stands by */
  #inUse = nodeCount;
  /** their disks are lost: they never come back, as nobody may have their names again */
  readonly #gone = new Set<SimNode>();
  /** one of them that is a member still: no other disk may be lost meanwhile */
  #toReplace: SimNode | null = null;
  readonly #stores = new Map<SimNode, EmbeddedClusterStore>();
  #services!: Services;
  readonly #waitsForRoom: boolean;
  #isOver = false;

  constructor(options: KvRunOptions) {
    this.#options = options;
    this.random = new SeededRandom(options.seed);
    this.#network = new SimNetwork(this.scheduler, this.random);
    for (let index = 0; index < nodeCount + standbyCount; index++) this.#addNode(index);
    // a full disk stops the process of some, and others wait for room
    this.#waitsForRoom = this.random.next() < 0.5;
  }

  static async run(options: KvRunOptions): Promise<KvReport> {
    services ??= loadServices();
    const world = new KvWorld(options);
    world.#services = await services;
    try {
      await world.scheduler.drive(() => world.#run());
    } catch (error) {
      world.history.fail(String(error instanceof Error ? error.stack : error));
    }
    const violations = world.history.violations();
    world.count('calls', world.history.callCount);
    return { seed: options.seed, violations, counts: world.counts };
  }

  count(name: string, by = 1): void {
    this.counts[name] = (this.counts[name] ?? 0) + by;
  }

  chance(): number {
    return this.random.next();
  }

  pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.random.next() * list.length)];
  }

  /** A member that runs, or stands still and will answer later. */
  anyStore(): ClusterStore | undefined {
    return this.pick([...this.#stores.values()]);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  #addNode(index: number): void {
    const { scheduler, random } = this;
    const { seed } = this.#options;
    const node = new SimNode({
      index,
      scheduler,
      network: this.#network,
      random,
      seed: seed * 31 + index,
      punches: false,
      clockRate: 1 + (random.next() - 0.5) * 0.02,
      boot: (each, clock) => this.#boot(each, clock),
      ended: (each, how) => {
        this.#stores.delete(each);
        if (how === 'power') this.#disks[index]?.losePower();
        else this.#disks[index]?.kill();
      },
    });
    this.#nodes.push(node);
    this.#disks.push(
      new MemoryKeyValueDisk({
        random: () => random.next(),
        schedule: (run) => {
          if (node.isUp) node.clock.after(random.next() * (0.4 + node.slowDiskMs), run);
          else queueMicrotask(run);
        },
      }),
    );
  }

  async #boot(node: SimNode, clock: ProcessClock): Promise<void> {
    const rpc = new SocketRpcTransport({
      network: this.#network.of(node.host, clock),
      clock,
      services: this.#services,
    });
    const disk = this.#disks[node.index];
    if (!disk) throw new Error('no disk for the Raft log');
    const { open, exists } = disk;
    const logs = { open, exists, needsBallast: this.#waitsForRoom };
    const server = await rpc.createServer();
    const members = this.#nodes.map(({ index, host }) => ({
      id: idOf(index),
      address: `${host}:${port}`,
    }));
    const first = members.slice(0, firstMembers);
    const isFirst = node.index < firstMembers;
    const store = await EmbeddedClusterStore.open({
      clusterId,
      id: idOf(node.index),
      address: `${node.host}:${port}`,
      ...(isFirst
        ? { members, voters: first.map(({ id }) => id) }
        : { members: [], voters: [], known: members }),
      dataPath: '/data/raft',
      server,
      rpc,
      files: node.files.process(),
      logs,
      clock,
      random: this.random,
      logger: silentLogger,
      tickMs,
      snapshotEntries: 25,
      onFatal: () => {
        clock.after(0, () => {
          node.exit();
        });
      },
    });
    await server.listen(node.host, port);
    if (clock.dead) return;
    this.#stores.set(node, store);
    void this.#watch(node, store);
  }

  /** Every member is watched from where its log begins. */
  async #watch(node: SimNode, store: EmbeddedClusterStore): Promise<void> {
    let { revision: after } = store.status();
    const who = `${idOf(node.index)} since ${after}`;
    const { signal } = new AbortController();
    try {
      for await (const events of store.watch('/', after, signal)) {
        after = this.history.watched(who, after, events);
        this.count('watched');
        for (const { type, key } of events) if (type === 'delete') this.onDeleted(key);
      }
    } catch (error) {
      // a log snapshot has skipped what it would see next
      if (!(error instanceof StorError) || error.code !== 'FAILED_PRECONDITION') throw error;
      this.count('watches cut off');
      if (this.#stores.get(node) === store) void this.#watch(node, store);
    }
  }

  /** A key was deleted; the first time that any member shows it counts. */
  onDeleted: (key: string) => void = () => {};

  async #run(): Promise<void> {
    const { scheduler } = this;
    for (const node of this.#hosts()) node.start();
    const isUp = () => [...this.#stores.values()].some((store) => store.status().isLeader);
    if (!(await scheduler.until(isUp, healMs))) throw new Error('no leader at first');
    const clients = Array.from({ length: clientCount }, (_, i) => new KvClient(this, `c${i}`));
    const holder = new KvLeaseHolder(this);
    const work = [...clients, holder].map((each) => each.run());
    const endMs = scheduler.nowMs + (this.#options.durationMs ?? 20_000);
    while (scheduler.nowMs < endMs) {
      await scheduler.sleep(50 + this.chance() * 700);
      this.#disturb();
    }
    await this.#heal();
    this.#isOver = true;
    await Promise.all(work);
    await this.#compare();
  }

  #leader(): [SimNode, EmbeddedClusterStore] | undefined {
    return [...this.#stores].find(([, store]) => store.status().isLeader);
  }

  #disturb(): void {
    const dice = this.chance();
    const [leader] = this.#leader() ?? [];
    const hosts = this.#hosts();
    const victim = this.chance() < 0.5 ? (leader ?? this.pick(hosts)) : this.pick(hosts);
    if (!victim) return;
    const others = hosts.filter((node) => node !== victim);
    if (dice < 0.12) victim.pause();
    else if (dice < 0.2) victim.kill();
    else if (dice < 0.26) victim.losePower();
    else if (dice < 0.42) {
      const way = this.chance();
      for (const { host } of others) {
        if (way < 0.7) this.#network.block(victim.host, host);
        if (way > 0.3) this.#network.block(host, victim.host);
      }
    } else if (dice < 0.46) {
      for (const { host } of others) this.#network.slowDown(victim.host, host, 400);
    } else if (dice < 0.5) victim.slowDiskMs = this.chance() * 300;
    else if (dice < 0.54) this.#fill(victim);
    else if (dice < 0.56) this.#loseDisk(victim);
    else if (dice < 0.64) void this.#changeMembers();
    else this.#mend();
    if (dice < 0.54) this.count('faults');
  }

  #hosts(): SimNode[] {
    return this.#nodes.slice(0, this.#inUse).filter((node) => !this.#gone.has(node));
  }

  /** No write of the log finds room, until the faults are mended. What is on the disk stays. */
  #fill(node: SimNode): void {
    const disk = this.#disks[node.index];
    if (!disk) return;
    this.count('full disks');
    disk.failWrite = () => 'ENOSPC: no space left on device';
  }

  /** For good. Another host takes its place, under a name of its own, when the others have agreed. */
  #loseDisk(node: SimNode): void {
    const standby = this.#nodes[this.#inUse];
    if (!standby || this.#toReplace || this.#options.changes === false) return;
    this.count('lost disks');
    this.#gone.add(node);
    node.losePower();
    this.#toReplace = node;
    this.#inUse += 1;
    standby.start();
    void this.#replace(node, standby);
  }

  async #replace(gone: SimNode, standby: SimNode): Promise<void> {
    const remove = { type: 'remove', id: idOf(gone.index) } as const;
    const add = { type: 'addVoter', id: idOf(standby.index) } as const;
    for (let isDone = false; !isDone;) {
      await this.scheduler.sleep(200 + this.chance() * 500);
      const [, store] = this.#leader() ?? [];
      if (!store) continue;
      const { voters, learners } = store.members.local();
      const isMember = [...voters, ...learners].includes(remove.id);
      isDone = await this.#tryChange(store, isMember ? [remove, add] : [remove], 10_000);
    }
    this.count('replaced members');
    this.#toReplace = null;
  }

  #mend(): void {
    this.#network.heal();
    for (const node of this.#hosts()) {
      const disk = this.#disks[node.index];
      if (disk) disk.failWrite = () => null;
      node.slowDiskMs = 0;
      if (node.isPaused) node.resume();
      node.start();
    }
  }

  async #changeMembers(): Promise<void> {
    const [, store] = this.#leader() ?? [];
    // with one gone for good, a majority is all that there is
    if (!store || this.#toReplace || this.#options.changes === false) return;
    const host = this.pick(this.#hosts());
    if (!host) return;
    const id = idOf(host.index);
    const { voters } = store.members.local();
    const isVoter = voters.includes(id);
    // fewer than three stop too easily to be worth anything
    if (isVoter && voters.length <= 3) return;
    const type = isVoter ? (this.chance() < 0.5 ? 'remove' : 'addLearner') : 'addVoter';
    await this.#tryChange(store, [{ type, id }], 5_000);
  }

  /** True when it is complete. */
  async #tryChange(
    store: EmbeddedClusterStore,
    changes: MemberChange[],
    withinMs: number,
  ): Promise<boolean> {
    const given = new AbortController();
    const cancel = this.scheduler.at(withinMs, () => {
      given.abort();
    });
    try {
      await store.members.change(changes, given.signal);
      this.count('changes');
      return true;
    } catch (error) {
      if (!(error instanceof StorError)) throw error;
      this.count('changes refused');
      return false;
    } finally {
      cancel();
    }
  }

  /** The store must answer again, through every member of it. */
  async #heal(): Promise<void> {
    this.#mend();
    const { scheduler } = this;
    const hasLeader = () => this.#leader() !== undefined;
    if (!(await scheduler.until(hasLeader, healMs))) throw new Error('no leader after all faults');
    const isReplaced = () => this.#toReplace === null;
    if (!(await scheduler.until(isReplaced, replaceMs))) {
      throw new Error('a member whose disk is lost could not be replaced');
    }
    await scheduler.sleep(2_000);
  }

  /** All voters have applied the same. */
  async #compare(): Promise<void> {
    const { scheduler } = this;
    const voters = (): EmbeddedClusterStore[] => {
      const ids = this.#leader()?.[1].members.local().voters ?? [];
      return [...this.#stores].filter(([node]) => ids.includes(idOf(node.index))).map(([, s]) => s);
    };
    const isSame = () =>
      voters().length >= firstMembers &&
      new Set(voters().map((store) => store.status().revision)).size === 1;
    if (!(await scheduler.until(isSame, healMs))) {
      const seen = [...this.#stores].map(([node, store]) => [node.index, store.status()]);
      this.history.fail(`the voters do not become equal: ${JSON.stringify(seen)}`);
      return;
    }
    const texts = new Set<string>();
    for (const store of voters()) {
      const { items } = await store.list('', { local: true });
      texts.add(items.map(({ key, value }) => `${key}=${String(value)}`).join(' '));
    }
    if (texts.size > 1) this.history.fail(`the voters differ: ${[...texts].join(' | ')}`);
  }
}

function idOf(index: number): string {
  return `n${index}`;
}
