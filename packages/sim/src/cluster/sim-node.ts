import type { Random } from '@stor/runtime';
import { FaultyFiles } from '@stor/runtime/testing';

import type { SimNetwork } from '../world/network.ts';
import { HostClock, ProcessClock } from '../world/process-clock.ts';
import type { SimScheduler } from '../world/scheduler.ts';

/** A step of a call in the thread pool takes about this long (ms), when the disk is not slow. */
const fileStepMs = 0.15;
/** A process that ended by itself is started again after this (ms). */
const restartMs = 1_000;

export interface SimNodeParts {
  index: number;
  scheduler: SimScheduler;
  network: SimNetwork;
  random: Random;
  seed: number;
  /** holes can be punched in its files */
  punches: boolean;
  clockRate: number;
  /** Starts the processes of the node on a clock of their own; what it throws ends them. */
  boot: (node: SimNode, clock: ProcessClock) => Promise<void>;
  /** The processes are gone. */
  ended: (node: SimNode, how: 'kill' | 'power') => void;
}

/** One host: its clock, its file system and the process that runs on it now. */
export class SimNode {
  readonly index: number;
  readonly host: string;
  readonly files: FaultyFiles;
  readonly hostClock: HostClock;
  clock: ProcessClock;
  starts = 0;
  /** how often a process of it ended by itself */
  exits = 0;
  /** more time for each step of a file call (ms) */
  slowDiskMs = 0;
  /** more time for each step of a sync, while writes go to the page cache as fast as ever (ms) */
  slowSyncMs = 0;
  /** set by a crash within a file operation */
  onCrash: (how: 'kill' | 'power') => void = () => {};
  readonly #parts: SimNodeParts;
  #isUp = false;
  #booting = false;

  constructor(parts: SimNodeParts) {
    this.#parts = parts;
    this.index = parts.index;
    this.host = `host-${parts.index}`;
    this.hostClock = new HostClock(parts.scheduler, parts.clockRate);
    this.clock = new ProcessClock(this.hostClock);
    this.clock.kill();
    this.files = new FaultyFiles({ seed: parts.seed, punches: parts.punches });
  }

  /** A process runs, or is stopped by SIGSTOP. */
  get isUp(): boolean {
    return this.#isUp;
  }
  get isPaused(): boolean {
    return this.#isUp && this.clock.paused;
  }

  /** Boots the host if need be and starts the process; does nothing when one runs. */
  start(): void {
    if (this.#isUp || this.#booting) return;
    const { scheduler, network, random, boot } = this.#parts;
    network.hostCameUp(this.host);
    this.starts += 1;
    this.#isUp = true;
    const clock = new ProcessClock(this.hostClock);
    this.clock = clock;
    const bootId = this.files.bootId;
    this.files.onCrash = () => {
      const how = this.files.bootId === bootId ? 'kill' : 'power';
      this.#ended(how);
      this.onCrash(how);
    };
    this.files.defer = (step, operation) => {
      const syncMs = operation === 'datasync' ? this.slowSyncMs : 0;
      const delayMs = random.next() * (fileStepMs + this.slowDiskMs + syncMs);
      scheduler.at(delayMs, () => clock.run(step));
    };
    this.#booting = true;
    boot(this, clock).then(
      () => {
        if (clock === this.clock) this.#booting = false;
      },
      () => {
        // it said why in its log; as any process that cannot start it is started again later
        if (clock !== this.clock) return;
        this.#booting = false;
        this.exit();
      },
    );
    if (clock.dead) this.#booting = false;
  }

  /** The process ends by itself; whatever runs it starts it again. */
  exit(): void {
    if (!this.#isUp) return;
    this.exits += 1;
    this.kill();
    const { starts } = this;
    this.#parts.scheduler.at(restartMs, () => {
      if (this.starts === starts && !this.#parts.network.isDown(this.host)) this.start();
    });
  }

  /** kill -9: the page cache stays. */
  kill(): void {
    if (!this.#isUp) return;
    this.files.kill();
    this.#ended('kill');
  }

  /** The host loses power: what was not synced is lost in part. It stays off until `start`. */
  losePower(): void {
    // without a process there is still a page cache to lose
    this.files.powerLoss();
    this.#ended('power');
  }

  pause(): void {
    this.clock.pause();
  }

  resume(): void {
    this.clock.resume();
  }

  #ended(how: 'kill' | 'power'): void {
    this.#isUp = false;
    this.#booting = false;
    this.clock.kill();
    const { network, ended } = this.#parts;
    if (how === 'power') network.hostWentDown(this.host, this.clock);
    else network.processEnded(this.clock);
    ended(this, how);
  }
}
