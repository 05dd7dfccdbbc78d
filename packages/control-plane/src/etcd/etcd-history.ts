import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { judgeHistory, type EtcdWitness, type SeenEtcd } from '../core/etcd/judge-history.ts';

/** Changes of one member are noted at most so often: one note for all that came meanwhile (ms). */
const noteGapMs = 50;
/** What was heard of others is noted at most so often (ms). */
const heardGapMs = 10_000;

/** Where a node remembers its etcd. */
export interface EtcdPin {
  /** null: it has none yet */
  known: SeenEtcd | null;
  /** Durable when it returns. */
  note(seen: SeenEtcd): void;
}

/**
 * What this node has seen of its etcd, kept beyond its own life. What it wrote itself is noted before
 * it acts on it; else an etcd that went back could let two nodes act on the same epoch.
 */
export class EtcdHistory {
  /** a key that this node may read, whether it is there or not */
  readonly anyKey: string;
  readonly #pin: EtcdPin;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #seen: SeenEtcd | null;
  #noted = 0;
  #notedMs = -Infinity;
  #noting: Promise<void> | null = null;
  #refusal = '';

  constructor(options: { pin: EtcdPin; anyKey: string; clock: Clock; logger: Logger }) {
    this.anyKey = options.anyKey;
    this.#pin = options.pin;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#seen = options.pin.known;
    this.#noted = options.pin.known?.revision ?? 0;
  }

  get seen(): SeenEtcd | null {
    return this.#seen;
  }

  /** Throws FOREIGN_DATA as `judgeHistory` says. The first one that is met is the one. */
  check(witness: EtcdWitness): void {
    const { clusterId, revision } = witness;
    if (!this.#seen) {
      this.#seen = { clusterId, revision };
      this.#note();
    }
    const refusal = judgeHistory(this.#seen, witness);
    if (!refusal) {
      this.#refusal = '';
      return;
    }
    const { code, message } = refusal;
    // each call is refused with it
    if (message !== this.#refusal) this.#logger.error({ code }, message);
    this.#refusal = message;
    throw refusal;
  }

  /** A change of somebody else. */
  heard(key: string, revision: number): void {
    this.#remember(key, revision);
    if (this.#clock.monotonicMs() - this.#notedMs > heardGapMs) this.#note();
  }

  /** A change of this node; resolves when it is noted. `key`: one that was put. */
  async wrote(key: string | null, revision: number): Promise<void> {
    this.#remember(key, revision);
    if (revision <= this.#noted) return;
    const waitMs = this.#notedMs + noteGapMs - this.#clock.monotonicMs();
    if (waitMs <= 0 && !this.#noting) {
      this.#note();
      return;
    }
    this.#noting ??= new Promise((resolve) => {
      this.#clock.after(Math.max(waitMs, 1), () => {
        this.#noting = null;
        this.#note();
        resolve();
      });
    });
    await this.#noting;
  }

  close(): void {
    this.#note();
  }

  #remember(key: string | null, revision: number): void {
    const seen = this.#seen;
    if (!seen || revision <= seen.revision) return;
    const put = key === null ? seen.put : { key, revision };
    this.#seen = { clusterId: seen.clusterId, revision, ...(put ? { put } : {}) };
  }

  /** A folder that cannot be written is told of by others; the cluster goes on without the note. */
  #note(): void {
    const seen = this.#seen;
    if (!seen || seen.revision <= this.#noted) return;
    this.#notedMs = this.#clock.monotonicMs();
    try {
      this.#pin.note(seen);
      this.#noted = seen.revision;
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.warn({ error: message }, 'what was seen of etcd cannot be noted');
    }
  }
}
