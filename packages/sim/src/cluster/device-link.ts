import type { PrimaryVolume } from '@stor/replicator';

import type { ProcessClock } from '../world/process-clock.ts';
import type { SimScheduler } from '../world/scheduler.ts';
import type { ClientLink, Io, IoOutcome } from './sim-cluster.ts';

/** A client in the same process as its primary: no wire between them. */
export class DeviceLink implements ClientLink {
  isOpen = true;
  readonly mayResend = false;
  readonly #volume: PrimaryVolume;
  readonly #clock: ProcessClock;
  readonly #scheduler: SimScheduler;
  readonly #closed: () => void;
  readonly #waiting = new Set<(outcome: IoOutcome) => void>();

  constructor(
    volume: PrimaryVolume,
    clock: ProcessClock,
    scheduler: SimScheduler,
    closed: () => void,
  ) {
    this.#volume = volume;
    this.#clock = clock;
    this.#scheduler = scheduler;
    this.#closed = closed;
  }

  get sizeBytes(): number {
    return this.#volume.sizeBytes;
  }

  submit(io: Io): Promise<IoOutcome> {
    if (!this.isOpen) return Promise.resolve('lost');
    return new Promise((resolve) => {
      const settle = (outcome: IoOutcome): void => {
        if (this.#waiting.delete(settle)) resolve(outcome);
      };
      this.#waiting.add(settle);
      this.#clock.run(() => {
        this.#issue(io, settle);
      });
    });
  }

  close(): void {
    if (!this.isOpen) return;
    this.lost();
    this.#closed();
  }

  /** The other end is gone. */
  lost(): void {
    this.isOpen = false;
    for (const settle of [...this.#waiting]) settle('lost');
  }

  #issue(io: Io, settle: (outcome: IoOutcome) => void): void {
    const volume = this.#volume;
    const { kind, offset, length, bytes, fua, noHole } = io;
    // the answer leaves the process in the turn after
    const answer = (outcome: IoOutcome): void => {
      this.#scheduler.at(0.05, () => {
        if (!this.#clock.dead) settle(outcome);
      });
    };
    if (kind === 'read' && bytes && volume.readInline(offset, length, bytes, 0)) {
      answer('done');
      return;
    }
    const method = kind === 'zero' ? 'writeZeroes' : kind;
    // the caller's memory is its own: what is given is scrambled when it is no longer promised
    const payload = kind === 'write' && bytes ? Buffer.from(bytes) : bytes;
    volume[method]({
      offset,
      length,
      bytes: payload,
      start: 0,
      retained: kind === 'read',
      fua,
      noHole,
      done: (error) => {
        if (!error) answer('done');
        else answer(isOver(error.code) ? 'lost' : { error: error.code });
      },
    });
    if (kind === 'write') payload?.fill(0xee);
  }
}

/** The primary has ended: a server would end the connection. */
function isOver(code: string): boolean {
  return code === 'STALE_EPOCH' || code === 'UNAVAILABLE' || code === 'ABORTED';
}
