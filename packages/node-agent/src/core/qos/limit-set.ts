import { qosLimitNames, type QosLimitName, type QosSpec } from '@stor/protocol';
import { TokenBucket } from './token-bucket.ts';

interface Limit {
  bucket: TokenBucket;
  /** it counts bytes, not requests */
  isBytes: boolean;
}

const concerns: Record<QosLimitName, { reads: boolean; writes: boolean; isBytes: boolean }> = {
  readIops: { reads: true, writes: false, isBytes: false },
  writeIops: { reads: false, writes: true, isBytes: false },
  iops: { reads: true, writes: true, isBytes: false },
  readBps: { reads: true, writes: false, isBytes: true },
  writeBps: { reads: false, writes: true, isBytes: true },
  bps: { reads: true, writes: true, isBytes: true },
};

/** The limits of a volume, a tenant or a class: a request goes when all that concern it let it. */
export class LimitSet {
  readonly #buckets = new Map<QosLimitName, TokenBucket>();
  #reads: Limit[] = [];
  #writes: Limit[] = [];

  get isEmpty(): boolean {
    return this.#buckets.size === 0;
  }

  /** What is limited from now on; buckets that stay keep what they have. */
  update(spec: QosSpec, nowMs: number): void {
    this.#reads = [];
    this.#writes = [];
    for (const name of qosLimitNames) {
      const rate = spec[name];
      if (rate === undefined || !(rate > 0)) {
        this.#buckets.delete(name);
        continue;
      }
      let bucket = this.#buckets.get(name);
      if (bucket) bucket.change(rate, spec.burst, nowMs);
      else {
        bucket = new TokenBucket(rate, spec.burst, nowMs);
        this.#buckets.set(name, bucket);
      }
      const { reads, writes, isBytes } = concerns[name];
      if (reads) this.#reads.push({ bucket, isBytes });
      if (writes) this.#writes.push({ bucket, isBytes });
    }
  }

  /** 0: a request may go now. Else the time until the next may (ms). */
  waitMs(isRead: boolean, nowMs: number): number {
    let wait = 0;
    for (const { bucket } of isRead ? this.#reads : this.#writes) {
      wait = Math.max(wait, bucket.waitMs(nowMs));
    }
    return wait;
  }

  /** Those that have nothing left now. */
  usedUp(nowMs: number): QosLimitName[] {
    const buckets = [...this.#buckets];
    return buckets.filter(([, bucket]) => bucket.waitMs(nowMs) > 0).map(([name]) => name);
  }

  take(isRead: boolean, bytes: number): void {
    for (const { bucket, isBytes } of isRead ? this.#reads : this.#writes) {
      bucket.take(isBytes ? bytes : 1);
    }
  }

  /** Credits of the bucket that has the least, as part of what may be saved; null without bursts. */
  credits(nowMs: number): number | null {
    let least: number | null = null;
    for (const bucket of this.#buckets.values()) {
      const credits = bucket.credits(nowMs);
      if (credits !== null) least = Math.min(least ?? 1, credits);
    }
    return least;
  }

  /** Tokens of one bucket; null when that is not limited. */
  tokens(name: QosLimitName, nowMs: number): number | null {
    return this.#buckets.get(name)?.tokens(nowMs) ?? null;
  }
}
