import { createHash } from 'node:crypto';

import { blockBytes, chunkBytes, type SnapshotId } from '@stor/protocol';
import type { Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';
import {
  request,
  type FakeControl,
  type SimNetwork,
  type SimScheduler,
} from '@stor/replicator/testing';
import type { PrimaryVolume, ReplicaStore } from '../src/index.ts';
import { snapshotsOf } from '../src/replication/snapshots-of.ts';

/** A cluster of one volume, on replicas in memory or on disks. */
export interface SnapshotCluster {
  readonly scheduler: SimScheduler;
  readonly network: SimNetwork;
  readonly control: FakeControl;
  readonly nodes: number;
  readonly replicas: number;
  sizeBytes: number;
  nodeId(index: number): string;
  isUp(index: number): boolean;
  replica(index: number): ReplicaStore | null;
  attach(index: number): Promise<PrimaryVolume>;
  start(index: number): Promise<void>;
  kill(index: number): void;
  cutPower(index: number): void;
  /** whether a replica may have lost what was not flushed */
  mayHaveLost(index: number): boolean;
  push(): void;
  run(ms: number): Promise<void>;
  until(condition: () => boolean, ms: number): Promise<boolean>;
  wait<T>(promise: Promise<T>, ms?: number): Promise<T>;
}

interface Written {
  value: number;
  block: number;
  /** it made the block zeros */
  isZero: boolean;
  state: 'started' | 'acknowledged' | 'maybe';
}

/** One client: it has blocks of its own, and one write at a time. */
interface Client {
  readonly blocks: readonly number[];
  /** its blocks are alone in their chunks, which it gives back now and then */
  readonly hasChunks: boolean;
  writes: Written[];
  /** what its blocks held before `writes` */
  base: Map<number, number>;
}

interface Taken {
  readonly id: SnapshotId;
  readonly sizeBytes: number;
  /** of its whole content, as the first replica that was looked at had it */
  readonly hash: string;
  readonly values: ReadonlyMap<number, number>;
}

const clients = 4;
const blocksEach = 7;

/**
 * Random writes, snapshots, deletions, rollbacks and growth under faults. A stupid model says what each
 * client's blocks may hold at each cut; whatever a snapshot held once it must hold for ever, on
 * every replica that says it is ready, and in the end all replicas are equal.
 */
export class SnapshotScenario {
  readonly problems: string[] = [];
  readonly counts: Record<string, number> = {};
  readonly #cluster: SnapshotCluster;
  readonly #random: Random;
  readonly #clients: Client[] = [];
  readonly #taken = new Map<SnapshotId, Taken>();
  #volume: PrimaryVolume | null = null;
  #holder = -1;
  #attaching = false;
  #value = 0;
  #busy = 0;
  #quiet = false;
  #isOrdering = false;
  #nextId: number;
  /** which of their blocks clients write now: some chunks change between two snapshots only */
  #from = 0;
  #to = blocksEach;

  constructor(cluster: SnapshotCluster, seed: number) {
    this.#cluster = cluster;
    this.#random = new SeededRandom(seed * 104729 + 7);
    this.#nextId = seed * 1_000;
    cluster.control.snapshots = new Map();
    const blocks = cluster.sizeBytes / blockBytes;
    for (let c = 0; c < clients; c++) {
      const own = Array.from({ length: blocksEach }, (_, i) => {
        const chunk = Math.floor((i * blocks) / blocksEach / 64);
        // neighbours in a chunk, and a chunk here and there
        return chunk * 64 + c * 3 + (i % 2);
      });
      this.#add(own, false);
    }
    const apart = Array.from({ length: blocksEach }, (_, i) => {
      return (Math.floor((i * blocks) / blocksEach / 64) + 2) * 64 + 5;
    });
    this.#add(apart, true);
  }

  #add(blocks: readonly number[], hasChunks: boolean): void {
    const base = new Map(blocks.map((at) => [at, 0]));
    this.#clients.push({ blocks, hasChunks, writes: [], base });
  }

  async run(faultMs: number): Promise<string[]> {
    const cluster = this.#cluster;
    this.#attach(0);
    for (const client of this.#clients) this.#loop(client);
    const end = cluster.scheduler.nowMs + faultMs;
    while (cluster.scheduler.nowMs < end && this.problems.length === 0) {
      await cluster.run(50 + this.#random.next() * 700);
      if (!this.#volume) this.#attach(this.#pick(cluster.nodes));
      else if (this.#random.next() < 0.45) this.#fault();
      if (!this.#isOrdering) void this.#order();
    }
    if (this.problems.length === 0) await this.#heal();
    return this.problems;
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }
  #problem(text: string): void {
    this.problems.push(text);
  }

  // faults

  #fault(): void {
    const cluster = this.#cluster;
    const index = this.#pick(cluster.replicas);
    const dice = this.#random.next();
    const other = (index + 1) % cluster.nodes;
    if (dice < 0.4) {
      this.#count('kill');
      this.#down(index, false);
    } else if (dice < 0.5) this.#power(index);
    else if (dice < 0.65) {
      this.#count('cut');
      cluster.network.cut(cluster.nodeId(index), cluster.nodeId(other));
    } else if (dice < 0.75) {
      this.#count('partition');
      cluster.network.block(cluster.nodeId(index), cluster.nodeId(other));
      cluster.scheduler.at(this.#random.next() * 4_000, () => {
        cluster.network.heal();
      });
    } else if (dice < 0.9) this.#attach(this.#pick(cluster.nodes));
    else this.#count('none');
  }

  #power(index: number): void {
    const cluster = this.#cluster;
    const ids = cluster.control.inSync;
    const others = [...Array(cluster.replicas).keys()].filter((each) => each !== index);
    // somebody in the set keeps what was acknowledged
    const kept = others.some((each) => {
      const replica = cluster.replica(each);
      return replica && ids.includes(replica.replicaId) && !cluster.mayHaveLost(each);
    });
    if (!kept || others.some((each) => cluster.mayHaveLost(each))) return;
    this.#count('power');
    this.#down(index, true);
  }

  #down(index: number, power: boolean): void {
    const cluster = this.#cluster;
    if (!cluster.isUp(index)) return;
    if (power) cluster.cutPower(index);
    else cluster.kill(index);
    if (this.#holder === index) this.#volume = null;
    cluster.scheduler.at(200 + this.#random.next() * 3_000, () => {
      void cluster.start(index);
    });
  }

  #attach(index: number): void {
    const cluster = this.#cluster;
    if (this.#attaching || !cluster.isUp(index)) return;
    this.#attaching = true;
    this.#count('attach');
    const over = (): void => {
      this.#attaching = false;
    };
    cluster.scheduler.at(8_000, over);
    cluster.attach(index).then((volume) => {
      over();
      if (!cluster.isUp(index)) return;
      this.#volume = volume;
      this.#holder = index;
      volume.onStopped(() => {
        if (this.#volume === volume) this.#volume = null;
      });
    }, over);
  }

  // load

  #loop(client: Client): void {
    const { scheduler } = this.#cluster;
    const next = (): void => {
      if (this.#quiet || !this.#volume) {
        scheduler.at(30, next);
        return;
      }
      const volume = this.#volume;
      const holder = this.#holder;
      const block = client.blocks[this.#from + this.#pick(this.#to - this.#from)] ?? 0;
      const isZero = this.#random.next() < 0.1;
      const written: Written = { value: ++this.#value, block, isZero, state: 'started' };
      client.writes.push(written);
      this.#busy += 1;
      let open = true;
      const over = (acknowledged: boolean): void => {
        if (!open) return;
        open = false;
        this.#busy -= 1;
        written.state = acknowledged ? 'acknowledged' : 'maybe';
        if (acknowledged) this.#count(isZero ? 'zero' : 'write');
        scheduler.at(this.#random.next() * 20, next);
      };
      const watch = (): void => {
        if (this.#volume !== volume || !this.#cluster.isUp(holder)) over(false);
        else if (open) scheduler.at(40, watch);
      };
      scheduler.at(40, watch);
      void submit(volume, client, written).then((error) => {
        over(error === null);
      });
    };
    scheduler.at(1, next);
  }

  // orders

  async #order(): Promise<void> {
    const volume = this.#volume;
    if (!volume) return;
    this.#isOrdering = true;
    // a primary whose process dies never answers
    const giveUp = new Promise<void>((resolve) => {
      const look = (): void => {
        if (this.#volume === volume) this.#cluster.scheduler.at(50, look);
        else resolve();
      };
      look();
    });
    const dice = this.#random.next();
    this.#from = this.#random.next() < 0.5 ? 0 : this.#pick(blocksEach);
    this.#to = this.#from === 0 ? blocksEach : Math.min(blocksEach, this.#from + 2);
    try {
      if (dice < 0.6) await this.#take(volume, giveUp);
      else if (dice < 0.8) await this.#delete(volume, giveUp);
      else if (dice < 0.9) await this.#rollback(volume);
      else await Promise.race([this.#grow(volume), giveUp]);
    } catch (error) {
      this.#count(`order ${(error as { code?: string }).code ?? String(error)}`);
    }
    this.#isOrdering = false;
  }

  async #take(volume: PrimaryVolume, giveUp: Promise<void>): Promise<void> {
    const { control } = this.#cluster;
    const known = control.snapshots;
    const n = this.#nextId++;
    const id = `s-${n.toString(16).padStart(16, '0')}`;
    known?.set(id, 'creating');
    const token = `take ${n}`;
    const { sizeBytes } = volume;
    let lower: number[] = [];
    const upper = this.#clients.map(({ writes }) => writes.at(-1)?.value ?? 0);
    const steps = async (): Promise<boolean> => {
      await volume.hold({ token, holdMs: 100 });
      lower = this.#clients.map(lastAcknowledged);
      await volume.prepareSnapshot({ token, snapshotId: id });
      if (!volume.release(token).intact) return false;
      await volume.sealSnapshot(id);
      return true;
    };
    let isSealed = false;
    try {
      isSealed = await Promise.race([steps(), giveUp.then(() => false)]);
    } catch (error) {
      this.#count(`take ${(error as { code?: string }).code ?? String(error)}`);
    }
    // the record changes only while this primary is the one that is attached
    if (!isSealed || control.epoch !== volume.epoch) {
      known?.set(id, 'deleting');
      volume.dropSnapshot(id).catch(() => {});
      return;
    }
    known?.set(id, 'ready');
    this.#count('snapshot');
    if (this.#random.next() < 0.7) volume.confirmSnapshot(id).catch(() => {});
    if (this.#random.next() < 0.5) this.#cluster.push();
    await this.#pin(id, sizeBytes, lower, upper);
  }

  /** What it holds from now on, as some in-sync replica says; and whether that may be. */
  async #pin(id: SnapshotId, sizeBytes: number, lower: number[], upper: number[]): Promise<void> {
    const cluster = this.#cluster;
    for (let tries = 0; tries < 40; tries++) {
      for (let index = 0; index < cluster.replicas; index++) {
        const replica = cluster.replica(index);
        if (!replica || !cluster.control.inSync.includes(replica.replicaId)) continue;
        const image = await this.#read(index, id, false);
        if (!image || !cluster.control.inSync.includes(replica.replicaId)) continue;
        const values = this.#valuesOf(image);
        this.#clients.forEach((client, c) => {
          const problem = misfit(client, values, lower[c] ?? 0, upper[c] ?? 0);
          if (problem) this.#problem(`${id} on ${replica.replicaId}: ${problem}`);
        });
        this.#taken.set(id, { id, sizeBytes, hash: hashOf(image, sizeBytes), values });
        return;
      }
      await later(cluster, 200);
    }
    this.#count('not pinned');
  }

  async #delete(volume: PrimaryVolume, giveUp: Promise<void>): Promise<void> {
    const { control } = this.#cluster;
    const ids = [...this.#taken.keys()];
    const id = ids[this.#pick(ids.length)];
    if (id === undefined) return;
    this.#taken.delete(id);
    control.snapshots?.set(id, 'deleting');
    this.#count('delete');
    // a node drops by itself what its record says is going
    for (let index = 0; index < this.#cluster.replicas; index++) {
      const replica = this.#cluster.replica(index);
      if (replica && this.#random.next() < 0.5) snapshotsOf(replica)?.dropSnapshot(id, () => {});
    }
    this.#cluster.push();
    if (this.#random.next() < 0.5) await Promise.race([volume.dropSnapshot(id), giveUp]);
  }

  async #rollback(first: PrimaryVolume): Promise<void> {
    const cluster = this.#cluster;
    const all = [...this.#taken.values()];
    const taken = all[this.#pick(all.length)];
    if (!taken) return;
    this.#quiet = true;
    await condition(cluster, () => this.#busy === 0);
    let volume: PrimaryVolume | null = first;
    if (this.#random.next() < 0.5) await this.#safety(volume);
    for (let tries = 0; ; tries++) {
      volume = this.#volume;
      if (volume && (await this.#tryRollback(volume, taken.id))) break;
      if (tries > 300) {
        this.#problem(`rollback to ${taken.id} never succeeded`);
        break;
      }
      await later(cluster, 200);
    }
    this.#count('rollback');
    for (const client of this.#clients) {
      client.writes = [];
      client.base = new Map(client.blocks.map((at) => [at, taken.values.get(at) ?? 0]));
    }
    this.#quiet = false;
  }

  /** What the volume is before it is rolled back is kept. */
  async #safety(volume: PrimaryVolume): Promise<void> {
    this.#count('safety');
    const over = condition(this.#cluster, () => this.#volume !== volume);
    await this.#take(volume, over);
  }

  async #tryRollback(volume: PrimaryVolume, id: SnapshotId): Promise<boolean> {
    const over = condition(this.#cluster, () => this.#volume !== volume).then(() => false);
    // the primary may not have heard yet that it is recorded
    const rolledBack = volume.confirmSnapshot(id).then(() => volume.rollback(id));
    const done = rolledBack.then(
      () => true,
      () => false,
    );
    return Promise.race([done, over]);
  }

  async #grow(volume: PrimaryVolume): Promise<void> {
    const cluster = this.#cluster;
    const larger =
      cluster.sizeBytes + (1 + this.#pick(3)) * chunkBytes + this.#pick(3) * blockBytes;
    if (volume.sizeBytes !== cluster.sizeBytes) return;
    await volume.resize(larger);
    if (cluster.control.epoch !== volume.epoch) return;
    this.#count('grow');
    cluster.sizeBytes = larger;
    cluster.control.sizeBytes = larger;
    cluster.push();
  }

  // looking

  /** The whole image of a snapshot at one replica; null when it has none, or is not ready there. */
  async #read(index: number, id: SnapshotId, onlyReady: boolean): Promise<Buffer | null> {
    const replica = this.#cluster.replica(index);
    const store = replica && snapshotsOf(replica);
    const state = store?.snapshots().find((each) => each.snapshotId === id)?.state;
    if (!store || state === undefined || (onlyReady && state !== 'ready')) return null;
    const view = store.view(id);
    if (!view) return null;
    const bytes = Buffer.alloc(Math.ceil(view.sizeBytes / blockBytes) * blockBytes);
    const isRead = new Promise<boolean>((resolve) => {
      view.read(0, bytes.length, bytes, 0, (error) => {
        if (error?.code === 'CHECKSUM_MISMATCH') {
          this.#problem(`${id} on ${store.replicaId}: ${error.message}`);
        }
        resolve(error === null);
      });
    });
    const isGone = condition(this.#cluster, () => this.#cluster.replica(index) !== replica);
    return (await Promise.race([isRead, isGone.then(() => false)])) ? bytes : null;
  }

  #valuesOf(image: Buffer): Map<number, number> {
    const values = new Map<number, number>();
    for (const { blocks } of this.#clients) {
      for (const block of blocks) {
        const at = block * blockBytes;
        if (at >= image.length) continue;
        const value = valueOf(image.subarray(at, at + blockBytes), block);
        if (value === null) this.#problem(`block ${block} is torn or of another place`);
        values.set(block, value ?? -1);
      }
    }
    return values;
  }

  async #check(id: SnapshotId, index: number): Promise<void> {
    const taken = this.#taken.get(id);
    const image = taken && (await this.#read(index, id, true));
    if (!image || !this.#taken.has(id)) return;
    this.#count('check');
    if (hashOf(image, taken.sizeBytes) === taken.hash) return;
    const found = this.#valuesOf(image);
    const differ = [...taken.values].filter(([block, value]) => found.get(block) !== value);
    const what = differ.map(
      ([block, value]) => `block ${block}: ${found.get(block)}, was ${value}`,
    );
    this.#problem(`${id} is another one on replica ${index}: ${what.join('; ')}`);
  }

  async #heal(): Promise<void> {
    const cluster = this.#cluster;
    await cluster.until(() => !this.#isOrdering, 60_000);
    this.#quiet = true;
    cluster.network.heal();
    await cluster.run(6_000);
    for (let index = 0; index < cluster.nodes; index++) await cluster.wait(cluster.start(index));
    const whole = (): boolean =>
      cluster.control.inSync.length === cluster.replicas &&
      this.#volume?.status().segments[0]?.settleBytesRemaining === 0;
    for (let tries = 0; tries < 6 && !whole(); tries++) {
      this.#volume = null;
      this.#attaching = false;
      this.#attach(tries % cluster.nodes);
      await cluster.until(whole, 30_000);
    }
    if (!whole() || !this.#volume) {
      this.#problem(`not healthy in time: ${JSON.stringify(this.#volume?.status())}`);
      return;
    }
    cluster.push();
    await cluster.run(3_000);
    for (const id of [...this.#taken.keys()]) {
      for (let index = 0; index < cluster.replicas; index++) {
        await cluster.wait(this.#check(id, index));
      }
    }
    this.#compareLists();
    await this.#compareLive(this.#volume);
  }

  #compareLists(): void {
    const cluster = this.#cluster;
    const recorded = [...(cluster.control.snapshots ?? [])];
    const wanted = recorded.filter(([, state]) => state === 'ready').map(([id]) => id);
    for (let index = 0; index < cluster.replicas; index++) {
      const replica = cluster.replica(index);
      const found = (replica && snapshotsOf(replica)?.snapshots()) ?? [];
      const has = found.map(({ snapshotId, state }) => `${snapshotId} ${state}`).sort();
      const expected = wanted.map((id) => `${id} ready`).sort();
      if (has.join() === expected.join()) continue;
      this.#problem(`replica ${index} has ${has.join()}, not ${expected.join()}`);
    }
  }

  async #compareLive(volume: PrimaryVolume): Promise<void> {
    const cluster = this.#cluster;
    const images: Buffer[] = [];
    for (let index = 0; index < cluster.replicas; index++) {
      const replica = cluster.replica(index);
      if (!replica) continue;
      const bytes = Buffer.alloc(Math.ceil(replica.sizeBytes / blockBytes) * blockBytes);
      await cluster.wait(
        new Promise<void>((resolve) => {
          replica.read(0, bytes.length, bytes, 0, (error) => {
            if (error) this.#problem(`replica ${index}: ${error.message}`);
            resolve();
          });
        }),
      );
      images.push(bytes.subarray(0, Math.ceil(cluster.sizeBytes / blockBytes) * blockBytes));
    }
    images.forEach((image, index) => {
      const first = images[0] ?? image;
      if (first.equals(image)) return;
      const at = image.findIndex((byte, i) => byte !== first[i]);
      const place = `block ${Math.floor(at / blockBytes)}`;
      this.#problem(`the live images differ: ${place} of replica ${index}`);
    });
    for (const client of this.#clients) {
      const bytes = Buffer.alloc(blockBytes);
      const values = new Map<number, number>();
      for (const block of client.blocks) {
        const read = request(volume, 'read', block * blockBytes, blockBytes, bytes);
        const error = await cluster.wait(read);
        if (error) this.#problem(`block ${block}: ${error.message}`);
        values.set(block, valueOf(bytes, block) ?? -1);
      }
      const problem = misfit(client, values, lastAcknowledged(client), Infinity);
      if (problem) this.#problem(`live: ${problem}`);
    }
  }
}

function lastAcknowledged({ writes }: Client): number {
  return writes.findLast(({ state }) => state === 'acknowledged')?.value ?? 0;
}

/** What each of a client's blocks may hold: all up to `lower` that was acknowledged, none above `upper`. */
function misfit(
  client: Client,
  values: ReadonlyMap<number, number>,
  lower: number,
  upper: number,
): string | null {
  for (const [block, found] of values) {
    if (!client.blocks.includes(block)) continue;
    const allowed: number[] = [];
    let isDecided = false;
    for (const write of client.writes.toReversed()) {
      if (write.block !== block || write.value > upper || isDecided) continue;
      allowed.push(write.isZero ? 0 : write.value);
      isDecided = write.state === 'acknowledged' && write.value <= lower;
    }
    if (!isDecided) allowed.push(client.base.get(block) ?? 0);
    if (!allowed.includes(found)) {
      return `block ${block} holds ${found}, not one of ${allowed.join()} (${lower} to ${upper})`;
    }
  }
  return null;
}

function submit(
  volume: PrimaryVolume,
  { hasChunks }: Client,
  { value, block, isZero }: Written,
): Promise<Error | null> {
  const at = block * blockBytes;
  if (!isZero) return request(volume, 'write', at, blockBytes, blockOf(value, block));
  if (!hasChunks) return request(volume, 'writeZeroes', at, blockBytes, null);
  return request(volume, 'trim', Math.floor(at / chunkBytes) * chunkBytes, chunkBytes, null);
}

function blockOf(value: number, block: number): Buffer {
  const bytes = Buffer.alloc(blockBytes);
  for (let at = 0; at < blockBytes; at += 8) {
    bytes.writeUInt32LE(value, at);
    bytes.writeUInt32LE(block, at + 4);
  }
  return bytes;
}

function valueOf(bytes: Buffer, block: number): number | null {
  const value = bytes.readUInt32LE(0);
  const expected = value === 0 ? Buffer.alloc(blockBytes) : blockOf(value, block);
  return bytes.equals(expected) ? value : null;
}

/** Of what belongs to the volume: a replica may be larger, when a growth was broken off. */
function hashOf(image: Buffer, sizeBytes: number): string {
  const length = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  return createHash('sha256').update(image.subarray(0, length)).digest('hex');
}

/** Simulated time passes; whoever runs the cluster makes it. */
function later(cluster: SnapshotCluster, ms: number): Promise<void> {
  return new Promise((resolve) => {
    cluster.scheduler.at(ms, resolve);
  });
}

async function condition(cluster: SnapshotCluster, holds: () => boolean): Promise<void> {
  while (!holds()) await later(cluster, 40);
}
