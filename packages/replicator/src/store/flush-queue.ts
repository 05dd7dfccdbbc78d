import type { StorError } from '@stor/protocol';
import type { StoreDone } from '../replica-store.ts';

export interface FlushTarget {
  /** id of the newest slow call; a flush covers all up to it */
  lastCallId(): number;
  /** id of the oldest writing slow call under way, Infinity when there is none */
  oldestWriteId(): number;
  /** the cut that all writes made until now belong to */
  cut(): number;
  /** Makes data, checksums and every appended record durable. Rejects with a StorError. */
  sync(): Promise<void>;
}

/**
 * Coalesces flushes: one sync runs, what comes meanwhile joins the next. A flush waits for the slow
 * writes made before it, and holds up nobody.
 */
export class FlushQueue {
  readonly #target: FlushTarget;
  #waiting: { barrier: number; done: StoreDone }[] = [];
  #running: Promise<void> | null = null;
  #syncedCut = -1;

  constructor(target: FlushTarget) {
    this.#target = target;
  }

  /** All writes made before this cut was taken are durable. */
  get syncedCut(): number {
    return this.#syncedCut;
  }

  add(done: StoreDone): void {
    this.#waiting.push({ barrier: this.#target.lastCallId(), done });
    this.pump();
  }

  /** To be called when a slow call has finished. */
  pump(): void {
    if (this.#running || this.#waiting.length === 0) return;
    const oldest = this.#target.oldestWriteId();
    const ready = this.#waiting.filter((flush) => flush.barrier < oldest);
    if (ready.length === 0) return;
    this.#waiting = this.#waiting.filter((flush) => flush.barrier >= oldest);
    // a write still under way counts as used after the cut, because it notes its use at its end
    const cut = this.#target.cut();
    this.#running = this.#target.sync().then(
      () => {
        this.#syncedCut = Math.max(this.#syncedCut, cut);
        this.#finish(ready, null);
      },
      (error: unknown) => {
        this.#finish(ready, error as StorError);
      },
    );
  }

  #finish(flushes: { done: StoreDone }[], error: StorError | null): void {
    this.#running = null;
    for (const flush of flushes) flush.done(error);
    this.pump();
  }

  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }
}
