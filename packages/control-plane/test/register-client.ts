import { hasCode } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import type { ClusterStore } from '../src/cluster-store.ts';
import type { RegisterOperation } from './embedded-register-history.ts';

const decode = (value: Uint8Array): string => new TextDecoder().decode(value);

/** The members that are open at the moment. */
export interface StoreGroup {
  stores(): ClusterStore[];
}

export function operation(fields: Partial<RegisterOperation>): RegisterOperation {
  return {
    type: 'read',
    seen: null,
    next: null,
    succeeded: null,
    calledAt: 0,
    answeredAt: 1,
    ...fields,
  };
}

/** One client: random operations on random members, each noted with its times. */
export class RegisterClient {
  readonly history = new Map<string, RegisterOperation[]>();
  readonly #name: string;
  readonly #random: SeededRandom;
  readonly #cluster: StoreGroup;
  readonly #tick: () => number;
  /** of writes that were answered */
  readonly revisions: number[] = [];
  unknown = 0;
  done = 0;

  constructor(name: string, seed: number, cluster: StoreGroup, tick: () => number) {
    this.#name = name;
    this.#random = new SeededRandom(seed);
    this.#cluster = cluster;
    this.#tick = tick;
  }

  async run(keys: string[], operations: number): Promise<void> {
    for (let i = 0; i < operations; i++) {
      const key = keys[Math.floor(this.#random.next() * keys.length)] as string;
      const stores = this.#cluster.stores();
      const store = stores[Math.floor(this.#random.next() * stores.length)];
      if (store) await this.#operate(store, key, `${this.#name}.${i}`);
    }
  }

  async #operate(store: ClusterStore, key: string, value: string): Promise<void> {
    const options = { timeoutMs: 500 };
    const read = operation({ calledAt: this.#tick() });
    let modRevision: number;
    try {
      const item = await store.get(key, options);
      read.seen = item && decode(item.value);
      modRevision = item?.modRevision ?? 0;
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE')) return;
      throw error;
    }
    this.#note(key, read);
    const blind = this.#random.next() < 0.3;
    const write = operation({
      type: blind ? 'write' : 'compareAndSet',
      seen: read.seen,
      next: value,
      calledAt: this.#tick(),
    });
    try {
      const { succeeded, revision } = await store.transact(
        {
          compare: blind ? [] : [{ key, modRevision }],
          operations: [{ type: 'put', key, value: new TextEncoder().encode(value) }],
        },
        options,
      );
      write.succeeded = succeeded;
      this.#note(key, write);
      if (succeeded) this.revisions.push(revision);
      this.done++;
    } catch (error) {
      // UNAVAILABLE promises that nothing has happened: the history must be right without it
      if (hasCode(error, 'UNAVAILABLE')) return;
      if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      this.unknown++;
      this.#note(key, write, Infinity);
    }
  }

  #note(key: string, one: RegisterOperation, answeredAt = this.#tick()): void {
    one.answeredAt = answeredAt;
    const list = this.history.get(key);
    if (list) list.push(one);
    else this.history.set(key, [one]);
  }
}
