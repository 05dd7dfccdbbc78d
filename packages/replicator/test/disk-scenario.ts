import type { StorError } from '@stor/protocol';
import { blockBytes } from '@stor/protocol';
import type { Logger, Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';
import { request, type ProcessClock } from '@stor/replicator/testing';
import type { PrimaryVolume } from '../src/index.ts';
import { DiskCluster } from './disk-cluster.ts';
import { payloadOf, sectorBytes, SectorModel } from './sector-model.ts';

export interface DiskScenarioOptions {
  seed: number;
  faultMs?: number;
  capacityBytes?: number;
  /** a node without a replica, so that some primaries are diskless */
  diskless?: boolean;
  logger?: Logger;
}

const mib = 1024 * 1024;
/** Its last chunk is a part of one. */
const sizeBytes = 29 * mib + 3 * blockBytes;
const clients = 6;

interface Zone {
  from: number;
  to: number;
}

/** Random load on a cluster of real disk stores under faults; then healed and compared. */
export class DiskScenario {
  readonly cluster: DiskCluster;
  readonly problems: string[] = [];
  readonly counts: Record<string, number> = {};
  readonly #random: Random;
  readonly #options: DiskScenarioOptions;
  readonly #model = new SectorModel(sizeBytes);
  /** whose page cache may lack what was acknowledged and not flushed */
  readonly #lost = new Set<string>();
  #serving: { volume: PrimaryVolume; process: ProcessClock } | null = null;
  #attaching = false;
  #quiet = false;
  #busy = 0;
  #value = 0;
  #changes = 0;
  #broken = -1;

  constructor(options: DiskScenarioOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 7919 + 1);
    this.cluster = new DiskCluster({
      seed: options.seed,
      sizeBytes,
      nodes: options.diskless ? 4 : 3,
      replicas: 3,
      ...(options.capacityBytes === undefined ? {} : { capacityBytes: options.capacityBytes }),
      ...(options.logger ? { logger: options.logger } : {}),
    });
    this.cluster.onPowerLoss = (index) => {
      this.#lost.add(this.cluster.node(index).replicaId);
      this.#judgeMemory();
    };
    this.cluster.onStep = () => {
      this.#followSet();
    };
  }

  async run(): Promise<string[]> {
    const { cluster } = this;
    await cluster.create();
    this.#attach(0);
    for (let client = 0; client < clients; client++) this.#client(client);
    cluster.control.unknown = 0.1;
    cluster.control.unavailable = 0.1;
    const end = cluster.scheduler.nowMs + (this.#options.faultMs ?? 12_000);
    while (cluster.scheduler.nowMs < end && this.problems.length === 0) {
      await cluster.run(100 + this.#random.next() * 1_200);
      this.#fault();
    }
    if (this.problems.length === 0) await this.#heal();
    cluster.end();
    return this.problems.map((problem) => `seed ${this.#options.seed}: ${problem}`);
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }

  // what may be lost

  #followSet(): void {
    const { history } = this.cluster.control;
    while (this.#changes < history.length) {
      const before = history[this.#changes - 1]?.inSync ?? [];
      const now = history[this.#changes]?.inSync ?? [];
      this.#changes += 1;
      // who joins has everything
      if (this.#changes > 1) {
        for (const id of now) if (!before.includes(id)) this.#lost.delete(id);
      }
      this.#judgeMemory();
    }
  }

  #judgeMemory(): void {
    const { control } = this.cluster;
    const gone = (id: string): boolean => this.#lost.has(id) || id === this.#brokenId();
    if (!control.inSync.every(gone)) return;
    this.#count('memory lost');
    this.#model.memoryLost();
  }

  #brokenId(): string | null {
    return this.#broken < 0 ? null : this.cluster.node(this.#broken).replicaId;
  }

  // faults

  #fault(): void {
    const { cluster } = this;
    const index = this.#pick(3);
    const dice = this.#random.next();
    if (!this.#serving && !this.#attaching) {
      // often there where something may be missing: it must not be the truth
      const suspect = cluster.nodes.find((node) => node.lane && this.#lost.has(node.replicaId));
      const chosen = this.#random.next() < 0.5 ? suspect : undefined;
      this.#attach(chosen?.index ?? this.#pick(cluster.nodes.length));
      return;
    }
    if (dice < 0.2) this.#kill(index);
    else if (dice < 0.38) this.#crash(index, 'kill');
    else if (dice < 0.5) this.#powerOne(this.#random.next() < 0.6 ? this.#primary(index) : index);
    else if (dice < 0.58) this.#powerAll();
    else if (dice < 0.68) {
      this.#count('cut');
      cluster.network.cut(cluster.node(index).id, cluster.node((index + 1) % 3).id);
    } else if (dice < 0.76) {
      this.#count('partition');
      cluster.network.block(cluster.node(index).id, cluster.node((index + 1) % 3).id);
      cluster.scheduler.at(this.#random.next() * 4_000, () => {
        cluster.network.heal();
      });
    } else if (dice < 0.86) this.#attach(this.#pick(cluster.nodes.length));
    else if (dice < 0.94) this.#stopCleanly();
    else this.#breakDisk(index);
  }

  /** The node of the primary, when it holds a replica. */
  #primary(otherwise: number): number {
    const { nodes, control } = this.cluster;
    const found = nodes.findIndex(({ id }) => id === control.holder);
    return found >= 0 && found < 3 ? found : otherwise;
  }

  #restart(index: number, withinMs: number): void {
    this.cluster.scheduler.at(100 + this.#random.next() * withinMs, () => {
      void this.cluster.start(index);
    });
  }

  #kill(index: number): void {
    this.#count('kill');
    this.cluster.kill(index);
    this.#restart(index, 4_000);
  }

  /** In the middle of whatever operation of the disk comes then. */
  #crash(index: number, kind: 'kill' | 'power'): void {
    const { cluster } = this;
    if (cluster.node(index).clock.dead) return;
    this.#count(`crash ${kind}`);
    cluster.node(index).files.crashAfter(1 + this.#pick(60), kind);
    cluster.scheduler.at(3_000, () => {
      cluster.node(index).files.cancelCrash();
    });
    this.#restart(index, 6_000);
  }

  /** With a dead disk in the set and no memory anywhere else the volume rightly waits for ever. */
  #mayCutPower(): boolean {
    const broken = this.#brokenId();
    return broken === null || !this.cluster.control.inSync.includes(broken);
  }

  #powerOne(index: number): void {
    if (!this.#mayCutPower()) return;
    const { inSync } = this.cluster.control;
    const id = this.cluster.node(index).replicaId;
    const others = inSync.filter((each) => each !== id && !this.#lost.has(each));
    if (inSync.includes(id) && others.length === 0 && this.#random.next() < 0.7) return;
    if (this.#random.next() < 0.5) {
      this.#crash(index, 'power');
      return;
    }
    this.#count('power');
    this.cluster.cutPower(index);
    this.#restart(index, 700);
  }

  #powerAll(): void {
    if (!this.#mayCutPower()) return;
    this.#count('power of all');
    for (const { index } of this.cluster.nodes) {
      this.cluster.cutPower(index);
      this.#restart(index, 1_500);
    }
  }

  /** At most one disk, and never the last member's. */
  #breakDisk(index: number): void {
    const { cluster } = this;
    const { inSync } = cluster.control;
    if (this.#broken >= 0 || inSync.length < 3 || this.#lost.size > 0) return;
    if (cluster.nodes.some(({ files }) => files.crashPending)) return;
    this.#broken = index;
    this.#count('disk');
    const what = ['/data', '/sums', '/journal', '/slots', ''][this.#pick(5)] ?? '';
    const operation = this.#random.next() < 0.5 ? 'write' : 'datasync';
    cluster.node(index).files.hook = (each, path) =>
      each === operation && path.includes(what) ? 'EIO' : null;
    cluster.scheduler.at(3_000 + this.#random.next() * 3_000, () => {
      cluster.node(index).files.hook = () => null;
    });
  }

  #attach(index: number): void {
    const { cluster } = this;
    const node = cluster.node(index);
    if (this.#attaching || !node.lane) return;
    this.#attaching = true;
    this.#count('attach');
    const process = node.clock;
    const over = (): void => {
      this.#attaching = false;
    };
    const cancel = cluster.scheduler.at(35_000, over);
    const watch = (): void => {
      if (process.dead) over();
      else if (this.#attaching) cluster.scheduler.at(50, watch);
    };
    watch();
    cluster.attach(index).then(
      (volume) => {
        cancel();
        over();
        if (process.dead) return;
        this.#count('attached');
        // what it found is the state now
        for (const id of cluster.control.inSync) this.#lost.delete(id);
        const serving = { volume, process };
        this.#serving = serving;
        volume.onStopped(() => {
          if (this.#serving === serving) this.#serving = null;
        });
      },
      () => {
        cancel();
        over();
      },
    );
  }

  #stopCleanly(): void {
    const serving = this.#serving;
    if (!serving) return;
    this.#count('stop');
    this.#serving = null;
    this.#attaching = true;
    const { volume, process } = serving;
    const over = (): void => {
      if (!process.dead) this.cluster.control.released(volume.epoch);
      this.#attaching = false;
    };
    const watch = (): void => {
      if (process.dead) over();
      else if (this.#attaching) this.cluster.scheduler.at(50, watch);
    };
    watch();
    volume.stop().then(over, over);
  }

  // load

  #zone(client: number): Zone {
    const sectors = this.#model.sectors;
    // neighbours share a block at the border
    const border = (n: number): number =>
      n === clients ? sectors : Math.floor((sectors / clients) * n) | 3;
    return { from: client === 0 ? 0 : border(client), to: border(client + 1) };
  }

  #client(client: number): void {
    const zone = this.#zone(client);
    const next = (): void => {
      if (this.#quiet) return;
      // most regions are at rest for a while, so that checkpoints clear their marks
      const phase = Math.floor(this.cluster.scheduler.nowMs / 2_500);
      if ((client + phase) % clients > 1) {
        this.cluster.scheduler.at(100, next);
        return;
      }
      const serving = this.#serving;
      if (serving?.process.dead === true) this.#serving = null;
      if (!serving || serving.process.dead) {
        this.cluster.scheduler.at(20, next);
        return;
      }
      this.#busy += 1;
      let open = true;
      const again = (): void => {
        if (!open) return;
        open = false;
        this.#busy -= 1;
        this.cluster.scheduler.at(this.#random.next() * 15, next);
      };
      const watch = (): void => {
        if (serving.process.dead) again();
        else if (open) this.cluster.scheduler.at(50, watch);
      };
      watch();
      this.#operation(serving, zone).then(again, (error: unknown) => {
        this.problems.push(String(error));
      });
    };
    this.cluster.scheduler.at(1, next);
  }

  async #operation(
    serving: { volume: PrimaryVolume; process: ProcessClock },
    zone: Zone,
  ): Promise<void> {
    const dice = this.#random.next();
    // rarely, or little would be there for a power cut to take
    if (dice < 0.02) {
      const error = await request(serving.volume, 'flush', 0, 0, null);
      if (error || serving.process.dead) return;
      this.#count('flushes');
      this.#model.flushed(zone.from, zone.to);
      return;
    }
    const { from, to } = this.#range(zone);
    if (dice < 0.3) await this.#read(serving, from, to);
    else await this.#change(serving, from, to, dice);
  }

  /** Often small, sometimes a megabyte; often where others were. */
  #range(zone: Zone): Zone {
    const dice = this.#random.next();
    const longest = dice < 0.45 ? 8 : dice < 0.75 ? 64 : dice < 0.93 ? 600 : 2_048;
    const length = 1 + this.#pick(longest);
    const span = zone.to - zone.from;
    const spot =
      this.#random.next() < 0.6 ? this.#pick(4) * Math.floor(span / 5) : this.#pick(span);
    let from = zone.from + spot;
    let to = Math.min(zone.to, from + length);
    if (this.#random.next() < 0.3) {
      from = Math.max(zone.from, Math.floor(from / 512) * 512);
      to = Math.min(zone.to, Math.max(from + 1, Math.ceil(to / 512) * 512));
    }
    return { from, to };
  }

  async #change(
    serving: { volume: PrimaryVolume; process: ProcessClock },
    from: number,
    to: number,
    dice: number,
  ): Promise<void> {
    const { volume, process } = serving;
    const fua = this.#random.next() < 0.02;
    const offset = from * sectorBytes;
    const length = (to - from) * sectorBytes;
    const isZero = dice > 0.82;
    const isTrim = dice > 0.91;
    const perBlock = blockBytes / sectorBytes;
    // a trim leaves what is no whole block as it is
    const first = isTrim ? Math.min(to, Math.ceil(from / perBlock) * perBlock) : from;
    const last = isTrim ? Math.max(first, Math.floor(to / perBlock) * perBlock) : to;
    const value = isZero ? 0 : ++this.#value;
    this.#model.started(first, last, value);
    const retained = this.#random.next() < 0.5;
    const noHole = this.#random.next() < 0.5;
    const kind = isTrim ? 'trim' : isZero ? 'writeZeroes' : 'write';
    const bytes = isZero ? null : payloadOf(from, to, value);
    const error = await request(volume, kind, offset, length, bytes, { fua, retained, noHole });
    if (process.dead) return;
    if (!error) {
      this.#count(kind);
      this.#model.acknowledged(first, last, value, fua);
    } else this.#count(`${kind} ${error.code}`);
  }

  async #read(
    serving: { volume: PrimaryVolume; process: ProcessClock },
    from: number,
    to: number,
  ): Promise<void> {
    const bytes = Buffer.alloc((to - from) * sectorBytes, 0xee);
    const offset = from * sectorBytes;
    if (serving.volume.holeBytes?.(offset, bytes.length) === bytes.length) {
      this.#count('reads of holes');
      const problem = this.#model.read(from, to, Buffer.alloc(bytes.length));
      if (problem) this.problems.push(problem);
    }
    const inline =
      this.#random.next() < 0.5 && serving.volume.readInline(offset, bytes.length, bytes, 0);
    const error = inline
      ? null
      : await request(serving.volume, 'read', offset, bytes.length, bytes);
    if (serving.process.dead) return;
    if (error) {
      this.#count(`read ${error.code}`);
      if (error.code === 'CHECKSUM_MISMATCH') this.problems.push(error.message);
      return;
    }
    this.#count('reads');
    const problem = this.#model.read(from, to, bytes);
    if (problem) this.problems.push(problem);
  }

  // the end

  async #heal(): Promise<void> {
    const { cluster } = this;
    this.#quiet = true;
    cluster.network.heal();
    cluster.control.unknown = 0;
    cluster.control.unavailable = 0;
    await cluster.run(8_000);
    for (const { index, files } of cluster.nodes) {
      files.cancelCrash();
      files.hook = () => null;
      await cluster.wait(cluster.start(index));
    }
    const volume = await this.#healthy();
    if (!volume) return;
    await this.#readAll(volume, 'in the end');
    const error = await cluster.wait(request(volume, 'flush', 0, 0, null));
    if (error) this.problems.push(`the last flush: ${error.message}`);
    else this.#model.flushed(0, this.#model.sectors);
    await cluster.wait(volume.stop());
    cluster.control.released(volume.epoch);
    await this.#compareReplicas(true);
    // all that was flushed must survive this
    for (const { index } of cluster.nodes) cluster.cutPower(index);
    for (const { index } of cluster.nodes) await cluster.wait(cluster.start(index));
    const again = await this.#healthy();
    if (!again) return;
    await this.#readAll(again, 'after the last power cut');
    await this.#compareReplicas(false);
  }

  async #healthy(): Promise<PrimaryVolume | null> {
    const { cluster } = this;
    for (let attempt = 0; attempt < 4; attempt++) {
      try {
        const index = this.#pick(cluster.nodes.length);
        const volume = await cluster.wait(cluster.attach(index), 40_000);
        this.#serving = { volume, process: cluster.node(index).clock };
        const whole = cluster.nodes.filter(({ index: i }) => this.#isWhole(i)).length;
        const isHealthy = (): boolean =>
          cluster.control.inSync.length === whole &&
          volume.status().segments[0]?.settleBytesRemaining === 0 &&
          volume.status().segments[0]?.inSync.length === whole;
        if (await cluster.until(isHealthy, 40_000)) return volume;
        this.problems.push(`not healthy in time: ${JSON.stringify(volume.status())}`);
        return null;
      } catch (error) {
        if (attempt < 3) continue;
        const { inSync } = cluster.control;
        this.problems.push(`never attached again, ${inSync.join()}: ${String(error)}`);
      }
    }
    return null;
  }

  #isWhole(index: number): boolean {
    const replica = this.cluster.replica(index);
    return replica !== null && replica.failure === null;
  }

  async #readAll(volume: PrimaryVolume, when: string): Promise<void> {
    const step = 2_048;
    for (let from = 0; from < this.#model.sectors; from += step) {
      const to = Math.min(this.#model.sectors, from + step);
      const bytes = Buffer.alloc((to - from) * sectorBytes);
      const read = request(volume, 'read', from * sectorBytes, bytes.length, bytes);
      const error = await this.cluster.wait(read);
      const problem = error?.message ?? this.#model.read(from, to, bytes);
      if (problem) this.problems.push(`${when}: ${problem}`);
    }
  }

  /** Byte for byte, and every checksum. */
  async #compareReplicas(stopped: boolean): Promise<void> {
    let first: Buffer | null = null;
    for (const { index, id } of this.cluster.nodes) {
      const replica = this.cluster.replica(index);
      if (!replica || !this.#isWhole(index)) continue;
      if (stopped && replica.markedCount > 0) this.problems.push(`${id} has marks after a stop`);
      if (stopped && !replica.keptMemory) this.problems.push(`${id} is still suspect`);
      const bytes = Buffer.alloc(sizeBytes);
      const valid = new Uint8Array(sizeBytes / blockBytes);
      const error = await this.cluster.wait(
        new Promise<StorError | null>((resolve) => {
          replica.readUnverified(0, sizeBytes, bytes, 0, valid, resolve);
        }),
      );
      if (error) this.problems.push(`${id}: ${error.message}`);
      const bad = valid.indexOf(0);
      if (bad >= 0) this.problems.push(`${id}: block ${bad} does not verify`);
      first ??= bytes;
      if (first.equals(bytes)) continue;
      const at = bytes.findIndex((byte, i) => byte !== first?.[i]);
      this.problems.push(`${id} differs at block ${Math.floor(at / blockBytes)}`);
    }
  }
}
