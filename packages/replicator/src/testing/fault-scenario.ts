import { blockBytes } from '@stor/protocol';
import type { Logger, Random } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';

import type { PrimaryVolume } from '../primary/primary-volume.ts';
import { LiveChanges } from './live-changes.ts';
import { RegisterHistory } from './register-history.ts';
import type { ProcessClock } from './sim-clock.ts';
import { SimCluster, request } from './sim-cluster.ts';

export interface ScenarioOptions {
  seed: number;
  /** simulated time under faults */
  faultMs?: number;
  /** a fourth node without a replica, so that some primaries are diskless */
  diskless?: boolean;
  /** nothing but primaries that are cut off and replaced at once */
  splitsOnly?: boolean;
  /** the volume has three segments, each on its own three of four nodes */
  segments?: boolean;
  /** replicas come, go and move, and the policy changes, meanwhile */
  changes?: boolean;
  logger?: Logger;
}

export interface ScenarioResult {
  problems: string[];
  acknowledgedWrites: number;
  reads: number;
  attaches: number;
  faults: Record<string, number>;
}

const sizeBytes = 12 * 1024 * 1024;
/** Few blocks, so that operations meet; spread over chunks and regions. */
const contested = [0, 1, 2, 63, 64, 65, 1024, 1025, 2048, 2900];

/**
 * A cluster under random load and faults, then healed. Checks: every block's history is
 * linearizable (so no acknowledged write is lost, no read goes back, no two primaries both serve),
 * no request fails while its primary lives, the set is never empty, and in the end the replicas are
 * equal byte for byte with sums that verify.
 */
export class FaultScenario {
  readonly cluster: SimCluster;
  readonly result: ScenarioResult = {
    problems: [],
    acknowledgedWrites: 0,
    reads: 0,
    attaches: 0,
    faults: {},
  };
  readonly #random: Random;
  readonly #histories = new Map<number, RegisterHistory>();
  /** primaries that believe in themselves, and the process that each lives in */
  readonly #serving: { volume: PrimaryVolume; process: ProcessClock }[] = [];
  readonly #options: ScenarioOptions;
  readonly #changes: LiveChanges | null;
  #time = 0;
  #value = 0;
  #busy = 0;
  #quiet = false;
  #attaching = false;
  #cleanStopping = false;
  #isSplit = false;

  constructor(options: ScenarioOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 7919 + 1);
    this.cluster = new SimCluster({
      seed: options.seed,
      sizeBytes,
      ...(options.segments ? { segmentBytes: sizeBytes / 3 } : {}),
      nodes: options.changes ? 5 : options.diskless || options.segments ? 4 : 3,
      replicaNodes: 3,
      // many checkpoints in little time, so that faults meet them
      checkpointPace: { everyMs: 3_000, restSeconds: 1, minMs: 500 },
      ...(options.logger ? { logger: options.logger } : {}),
    });
    this.#changes = options.changes ? new LiveChanges(this.cluster, this.#random) : null;
    for (const block of contested) this.#histories.set(block, new RegisterHistory());
  }

  async run(): Promise<ScenarioResult> {
    const { cluster } = this;
    const control = cluster.control;
    this.#attach(0);
    const end = cluster.scheduler.nowMs + (this.#options.faultMs ?? 15_000);
    for (let client = 0; client < 4; client++) this.#client(false);
    // held writes stop a client; these go on, at a primary that was replaced too
    for (let client = 0; client < 2; client++) this.#client(true);
    control.unknown = 0.2;
    control.unavailable = 0.2;
    while (cluster.scheduler.nowMs < end && this.result.problems.length === 0) {
      await cluster.run(50 + this.#random.next() * 900);
      this.#fault();
      this.#changes?.step();
      if (this.#serving.length === 0) this.#attach(this.#pick());
    }
    await this.#heal();
    Object.assign(this.result.faults, this.#changes?.counts);
    for (const history of this.#histories.values()) {
      const problem = history.check();
      if (problem) this.result.problems.push(problem);
    }
    this.#checkSets();
    for (const { identity, retiredEarly } of cluster.states) {
      if (retiredEarly.size === 0) continue;
      const what = `marks of ${[...retiredEarly].join()} cleared before their blocks were flushed`;
      this.result.problems.push(`${identity.replicaId}: ${what}`);
    }
    return this.result;
  }

  #pick(): number {
    return Math.floor(this.#random.next() * this.cluster.nodes.length);
  }

  #count(fault: string): void {
    this.result.faults[fault] = (this.result.faults[fault] ?? 0) + 1;
  }

  #fault(): void {
    const { cluster } = this;
    if (this.#options.splitsOnly) {
      if (!this.#isSplit) this.#split();
      return;
    }
    const index = this.#pick();
    const other = (index + 1 + Math.floor(this.#random.next() * 2)) % cluster.nodes.length;
    const [a, b] = [cluster.node(index).id, cluster.node(other).id];
    const dice = this.#random.next();
    if (dice < 0.2) {
      this.#count('kill');
      cluster.kill(index);
      cluster.scheduler.at(200 + this.#random.next() * 4_000, () => {
        cluster.start(index);
      });
    } else if (dice < 0.35) {
      this.#count('cut');
      cluster.network.cut(a, b);
    } else if (dice < 0.45) {
      this.#count('partition');
      cluster.network.block(a, b);
      if (this.#random.next() < 0.5) cluster.network.block(b, a);
      cluster.scheduler.at(this.#random.next() * 5_000, () => {
        cluster.network.heal();
      });
    } else if (dice < 0.6) {
      this.#count('pause');
      cluster.pause(index);
      cluster.scheduler.at(this.#random.next() * 6_000, () => {
        cluster.resume(index);
      });
    } else if (dice < 0.7) {
      this.#count('control');
      cluster.node(index).controlReachable = false;
      cluster.scheduler.at(this.#random.next() * 3_000, () => {
        cluster.node(index).controlReachable = true;
      });
    } else if (dice < 0.85) this.#attach(index);
    else if (dice < 0.9) this.#stopCleanly();
    else if (dice < 0.94) this.#split();
    else if (dice < 0.97) this.#powerCut(index);
    else if (dice < 0.98) this.#breakDisk(index);
    else this.#count('none');
  }

  /** A host loses power while others are members, so that nothing acknowledged may be lost. */
  #powerCut(index: number): void {
    const { cluster } = this;
    const own = cluster.states.filter((_state, at) => cluster.places[at] === index);
    for (const { inSync } of cluster.control.sets) {
      const isMember = own.some(({ identity }) => inSync.includes(identity.replicaId));
      if (isMember && inSync.length < 3) return;
    }
    const others = cluster.states.filter((state) => !own.includes(state));
    if (others.some((state) => !state.keptMemory || state.failure)) return;
    this.#count('power');
    cluster.cutPower(index);
    cluster.scheduler.at(200 + this.#random.next() * 4_000, () => {
      cluster.start(index);
    });
  }

  /** At most one disk, and not the last member's. */
  #breakDisk(index: number): void {
    const { cluster } = this;
    if (cluster.states.some((state) => state.failure !== null || !state.keptMemory)) return;
    if (!cluster.places.includes(index) || !cluster.node(index).lane) return;
    if (cluster.control.sets.some(({ inSync }) => inSync.length < 3)) return;
    this.#count('disk');
    cluster.store(index).fail();
  }

  /** The primary is cut off from all, control plane included, and another node takes over at once. */
  #split(): void {
    const { cluster } = this;
    const old = cluster.nodes.findIndex((node) => node.id === cluster.control.holder);
    if (old < 0) return;
    this.#count('split');
    this.#isSplit = true;
    const node = cluster.node(old);
    node.controlReachable = false;
    for (const other of cluster.nodes) {
      cluster.network.block(node.id, other.id);
      cluster.network.block(other.id, node.id);
    }
    this.#attach((old + 1) % cluster.nodes.length);
    cluster.scheduler.at(2_000 + this.#random.next() * 6_000, () => {
      this.#isSplit = false;
      node.controlReachable = true;
      cluster.network.heal();
    });
  }

  #attach(index: number): void {
    if (this.#attaching || this.#cleanStopping || !this.cluster.node(index).lane) return;
    this.#attaching = true;
    this.#count('attach');
    const process = this.cluster.node(index).clock;
    this.cluster.attach(index).then(
      (volume) => {
        this.#attaching = false;
        this.result.attaches += 1;
        const serving = { volume, process };
        this.#serving.push(serving);
        volume.onStopped(() => {
          const at = this.#serving.indexOf(serving);
          if (at >= 0) this.#serving.splice(at, 1);
        });
      },
      () => {
        this.#attaching = false;
      },
    );
    // a killed or paused attacher never answers
    this.cluster.scheduler.at(8_000, () => {
      this.#attaching = false;
    });
  }

  #stopCleanly(): void {
    const last = this.#serving[this.#serving.length - 1];
    if (!last || this.#cleanStopping || last.process.dead || last.process.paused) return;
    const { volume } = last;
    this.#count('stop');
    this.#cleanStopping = true;
    volume.stop({ checkpoint: this.#random.next() < 0.5 }).then(
      () => {
        this.#cleanStopping = false;
        this.cluster.control.released(volume.epoch);
      },
      () => {},
    );
    this.cluster.scheduler.at(12_000, () => {
      this.#cleanStopping = false;
    });
  }

  /** One request at a time, to any primary that believes in itself, old ones included. */
  #client(readsOnly: boolean): void {
    const { scheduler } = this.cluster;
    const next = (): void => {
      if (this.#quiet) return;
      const at = Math.floor(this.#random.next() * this.#serving.length);
      const serving = this.#serving[at];
      if (!serving || serving.process.dead) {
        if (serving) this.#serving.splice(at, 1);
        scheduler.at(20, next);
        return;
      }
      let open = true;
      this.#busy += 1;
      const again = (): void => {
        if (!open) return;
        open = false;
        this.#busy -= 1;
        scheduler.at(this.#random.next() * 10, next);
      };
      // the process behind it may be dead: such a client gives up and goes on elsewhere
      scheduler.at(1_500, again);
      // a stopped process gets the request when it goes on, a dead one never
      serving.process.run(() => {
        this.#operation(serving.volume, readsOnly, again);
      });
    };
    scheduler.at(1, next);
  }

  #operation(volume: PrimaryVolume, readsOnly: boolean, over: () => void): void {
    const at = contested[Math.floor(this.#random.next() * contested.length)] ?? 0;
    const history = this.#histories.get(at);
    if (!history) return;
    const dice = this.#random.next();
    if (readsOnly || dice < 0.45) this.#read(volume, at, history, over);
    else if (dice < 0.92) this.#write(volume, at, history, over);
    else {
      request(volume, 'flush', 0, 0, null).then(over, over);
    }
  }

  #read(volume: PrimaryVolume, at: number, history: RegisterHistory, over: () => void): void {
    const target = Buffer.alloc(blockBytes);
    const started = ++this.#time;
    const offset = at * blockBytes;
    const judge = (): void => {
      this.result.reads += 1;
      const value = valueOf(target);
      const problem =
        value === null ? 'a torn block was read' : history.read(value, started, ++this.#time);
      if (problem) this.result.problems.push(`block ${at}: ${problem}`);
    };
    // to be told of a hole is to read zeros
    if (volume.holeBytes?.(offset, blockBytes) === blockBytes) judge();
    if (this.#random.next() < 0.5 && volume.readInline(offset, blockBytes, target, 0)) {
      judge();
      over();
      return;
    }
    request(volume, 'read', offset, blockBytes, target).then((error) => {
      if (!error) judge();
      else if (error.code === 'CHECKSUM_MISMATCH')
        this.result.problems.push(`block ${at}: damaged`);
      over();
    }, over);
  }

  #write(volume: PrimaryVolume, at: number, history: RegisterHistory, over: () => void): void {
    const value = ++this.#value;
    history.writeStarted(value, ++this.#time);
    const fua = this.#random.next() < 0.1;
    const retained = this.#random.next() < 0.5;
    const bytes = payloadOf(value);
    request(volume, 'write', at * blockBytes, blockBytes, bytes, { fua, retained }).then(
      (error) => {
        if (!error) {
          this.result.acknowledgedWrites += 1;
          history.writeAcknowledged(value, ++this.#time);
        }
        over();
      },
      over,
    );
  }

  /** All faults end; the volume must become healthy and its replicas equal. */
  async #heal(): Promise<void> {
    const { cluster } = this;
    this.#quiet = true;
    await cluster.run(10_000);
    cluster.network.heal();
    cluster.control.unknown = 0;
    cluster.control.unavailable = 0;
    cluster.nodes.forEach((node, index) => {
      node.controlReachable = true;
      cluster.resume(index);
      cluster.start(index);
    });
    this.#changes?.heal();
    const volume = await this.#finalAttach();
    if (!volume) return;
    const healthy = (): boolean => {
      if (cluster.control.leaving.size > 0) this.#changes?.settle();
      const { segments } = volume.status();
      return (
        cluster.control.leaving.size === 0 &&
        cluster.control.sets.every((set, index) => {
          const whole = this.#wholeStates(index).length;
          const segment = segments[index];
          const inSync = segment?.members.filter((member) => member.state === 'in-sync').length;
          const isSettled = segment?.settleBytesRemaining === 0;
          return inSync === whole && isSettled && set.inSync.length === whole;
        })
      );
    };
    if (!(await cluster.until(healthy, 60_000))) {
      this.result.problems.push(`not healthy in time: ${JSON.stringify(volume.status())}`);
      return;
    }
    for (const [at, history] of this.#histories) {
      const target = Buffer.alloc(blockBytes);
      const started = ++this.#time;
      const error = await cluster.wait(
        request(volume, 'read', at * blockBytes, blockBytes, target),
      );
      const value = valueOf(target);
      const problem =
        error?.message ?? (value === null ? 'torn' : history.read(value, started, ++this.#time));
      if (problem) this.result.problems.push(`block ${at} in the end: ${problem}`);
    }
    await cluster.wait(volume.stop());
    for (const segment of cluster.control.sets.keys()) this.#compareReplicas(segment);
  }

  #wholeStates(segment: number) {
    return this.cluster.states.filter(
      ({ failure, identity }) => failure === null && identity.segment === segment,
    );
  }

  async #finalAttach(): Promise<PrimaryVolume | null> {
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        return await this.cluster.wait(this.cluster.attach(this.#pick()));
      } catch (error) {
        this.cluster.scheduler.at(1, () => {});
        if (attempt === 4) this.result.problems.push(`never attached again: ${String(error)}`);
      }
    }
    return null;
  }

  #compareReplicas(segment: number): void {
    const states = this.#wholeStates(segment);
    const [first, ...others] = states;
    for (const state of states) {
      if (state.marks.size > 0) this.result.problems.push('marks are left after a clean stop');
      for (let block = 0; block < state.blocks; block++) {
        if (state.isValid(block)) continue;
        this.result.problems.push(`${state.identity.replicaId} block ${block} does not verify`);
        break;
      }
    }
    for (const other of others) {
      if (first?.bytes.equals(other.bytes)) continue;
      const at = first?.bytes.findIndex((byte, index) => byte !== other.bytes[index]) ?? -1;
      this.result.problems.push(
        `${other.identity.replicaId} differs at block ${Math.floor(at / blockBytes)}`,
      );
    }
  }

  #checkSets(): void {
    const seen = new Set<string>();
    for (const { segment, setRevision, inSync } of this.cluster.control.history) {
      const key = `${segment} ${setRevision}`;
      if (seen.has(key)) this.result.problems.push('a set revision was used twice');
      if (inSync.length === 0) this.result.problems.push('the in-sync set became empty');
      seen.add(key);
    }
  }
}

/** A block that says which write it is, in every 8 bytes. */
function payloadOf(value: number): Buffer {
  const bytes = Buffer.alloc(blockBytes);
  for (let at = 0; at < blockBytes; at += 8) {
    bytes.writeUInt32BE(value, at);
    bytes.writeUInt32BE(at ^ value, at + 4);
  }
  return bytes;
}

/** 0 for a block never written, null for one that is no single write's. */
function valueOf(bytes: Buffer): number | null {
  const value = bytes.readUInt32BE(0);
  const expected = value === 0 ? Buffer.alloc(blockBytes) : payloadOf(value);
  return bytes.equals(expected) ? value : null;
}
