import type { ClusterStore } from '@stor/control-plane';
import { hasCode, StorError } from '@stor/protocol';
import type { KvWorld } from './kv-world.ts';

const ttlMs = 1_500;
const renewMs = 300;
const timeoutMs = 1_000;
/** The clocks of two hosts differ by up to 2 %. */
const clockDrift = 0.021;

/**
 * Holds a lease with a key, renews it, and takes a new one when it has ended. Whatever fails, the key
 * must not go before the time is over that the last answered renewal promised; and one that is not
 * renewed any more must go.
 */
export class KvLeaseHolder {
  readonly #world: KvWorld;
  /** until when each key is promised (virtual ms) */
  readonly #promised = new Map<string, number>();
  readonly #deleted = new Set<string>();
  #count = 0;

  constructor(world: KvWorld) {
    this.#world = world;
    world.onDeleted = (key) => {
      this.#onDeleted(key);
    };
  }

  async run(): Promise<void> {
    const { scheduler } = this.#world;
    while (!this.#world.isOver) {
      await Promise.race([this.#hold(), scheduler.sleep(20_000)]);
      await scheduler.sleep(100);
    }
    const isGone = () => [...this.#promised.keys()].every((key) => this.#deleted.has(key));
    if (!(await scheduler.until(isGone, 30_000))) {
      const left = [...this.#promised.keys()].filter((key) => !this.#deleted.has(key));
      this.#world.history.fail(`leases that nobody renews do not end: ${left.join()}`);
    }
  }

  async #hold(): Promise<void> {
    const { scheduler } = this.#world;
    const key = `/lease/${this.#count++}`;
    try {
      let calledMs = scheduler.nowMs;
      const leaseId = await this.#grant();
      if (leaseId === null) return;
      const put = { type: 'put', key, value: new Uint8Array(1), leaseId } as const;
      await this.#store().transact({ compare: [], operations: [put] }, { timeoutMs });
      this.#promise(key, calledMs);
      const times = Math.floor(this.#world.chance() * 20);
      for (let i = 0; i < times && !this.#world.isOver; i++) {
        await scheduler.sleep(renewMs);
        calledMs = scheduler.nowMs;
        await this.#store().renewLease(leaseId, { timeoutMs });
        this.#promise(key, calledMs);
        this.#world.count('renewals');
      }
    } catch (error) {
      const expected = [
        'UNAVAILABLE',
        'PERMISSION_DENIED',
        'OUTCOME_UNKNOWN',
        'NOT_FOUND',
      ] as const;
      if (!expected.some((code) => hasCode(error, code))) throw error;
    }
  }

  #store(): ClusterStore {
    const store = this.#world.anyStore();
    if (!store) throw new StorError('UNAVAILABLE', 'no member is up');
    return store;
  }

  async #grant(): Promise<string | null> {
    const store = this.#world.anyStore();
    if (!store) return null;
    const { leaseId } = await store.grantLease(ttlMs, { timeoutMs });
    return leaseId;
  }

  #promise(key: string, calledMs: number): void {
    // a key that went before the answer arrived has kept nobody's promise, but none was read either
    const untilMs = calledMs + ttlMs * (1 - clockDrift);
    if (this.#deleted.has(key) && this.#world.scheduler.nowMs < untilMs) {
      this.#world.history.fail(`${key} was renewed after it had gone`);
    }
    this.#promised.set(key, untilMs);
  }

  #onDeleted(key: string): void {
    if (this.#deleted.has(key)) return;
    this.#deleted.add(key);
    const untilMs = this.#promised.get(key);
    const { nowMs } = this.#world.scheduler;
    if (untilMs !== undefined && nowMs < untilMs) {
      this.#world.history.fail(`${key} went ${Math.round(untilMs - nowMs)} ms too early`);
    }
    this.#world.count('leases ended');
  }
}
