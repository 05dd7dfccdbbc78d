import type { Clock } from '@stor/runtime';

import {
  ForegroundMeter,
  foregroundKinds,
  longRequestBytes,
  type ForegroundKind,
} from '../core/replication/foreground-meter.ts';
import type { Foreground, ResyncPace } from '../core/replication/resync-pace.ts';

/** A request that takes longer than this is not waited for: another one is watched (ms). */
const maxWatchMs = 10_000;

interface Watched {
  kind: ForegroundKind;
  request: object | null;
  sinceMs: number;
}

/**
 * Watches one request of each kind at a time, from when the client gave it until it is answered, so
 * that resync knows what it does to clients. One is enough, and costs the others nothing.
 */
export class ForegroundProbe {
  readonly meter = new ForegroundMeter();
  /** A read was answered at once, from memory: somebody is there, how long it took says nothing. */
  sawInline = false;
  readonly #clock: Clock;
  readonly #pace: ResyncPace;
  readonly #watched: Watched[];

  constructor(clock: Clock, pace: ResyncPace) {
    this.#clock = clock;
    this.#pace = pace;
    this.#watched = foregroundKinds.map((kind) => ({ kind, request: null, sinceMs: 0 }));
  }

  begin(request: object, kind: 'read' | 'write' | 'zero', length: number): void {
    const isLong = length > longRequestBytes;
    const reads = kind === 'read';
    this.#begin(request, reads ? (isLong ? 1 : 0) : isLong ? 3 : 2);
  }

  beginFlush(request: object): void {
    this.#begin(request, 4);
  }

  #begin(request: object, index: number): void {
    const watched = this.#watched[index];
    if (!watched) return;
    if (watched.request !== null && !this.#isStale(watched)) return;
    watched.request = request;
    watched.sinceMs = this.#clock.monotonicMs();
    this.meter.asked(watched.sinceMs);
  }

  /** Answered, or called off. */
  end(request: object): void {
    for (const watched of this.#watched) {
      if (watched.request !== request) continue;
      watched.request = null;
      const nowMs = this.#clock.monotonicMs();
      const besideResync = watched.sinceMs < this.#pace.quietSinceMs;
      this.meter.sample(watched.kind, nowMs - watched.sinceMs, besideResync, nowMs);
    }
  }

  /** No client has asked for anything for a moment, nor since `look`. */
  isQuiet(nowMs: number): boolean {
    return !this.sawInline && !this.meter.isActive(nowMs);
  }

  /** What clients feel, since it was last asked. */
  look(nowMs: number): Foreground {
    const isActive = this.meter.isActive(nowMs) || this.sawInline;
    this.sawInline = false;
    return { isActive, strain: this.meter.strain(nowMs) };
  }

  #isStale(watched: Watched): boolean {
    return this.#clock.monotonicMs() - watched.sinceMs > maxWatchMs;
  }
}
