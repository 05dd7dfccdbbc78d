import { hasCode } from '@stor/protocol';
import type { ClusterStore } from '@stor/control-plane';
import type { KvWorld } from './kv-world.ts';

const keys = ['/k/0', '/k/1', '/k/2', '/k/3'];
/** How long one call may take, and after which a member that died with it is given up (ms). */
const timeoutMs = 1_500;
const patienceMs = 4_000;

const decode = (value: Uint8Array): string => new TextDecoder().decode(value);

/** One caller of any member, one call after the other: reads, writes, compare-and-sets. */
export class KvClient {
  readonly #world: KvWorld;
  readonly #name: string;
  #values = 0;

  constructor(world: KvWorld, name: string) {
    this.#world = world;
    this.#name = name;
  }

  async run(): Promise<void> {
    const { scheduler } = this.#world;
    while (!this.#world.isOver) {
      await scheduler.sleep(20 + this.#world.chance() * 150);
      const store = this.#world.anyStore();
      // a member that is killed never answers
      if (store) await Promise.race([this.#operate(store), scheduler.sleep(patienceMs)]);
    }
  }

  async #operate(store: ClusterStore): Promise<void> {
    const key = this.#world.pick(keys) ?? '';
    const read = await this.#read(store, key);
    if (!read || this.#world.chance() < 0.3) return;
    await this.#write(store, key, read);
  }

  async #read(
    store: ClusterStore,
    key: string,
  ): Promise<{ seen: string | null; modRevision: number } | null> {
    const { history } = this.#world;
    const call = history.called(key, { type: 'read', seen: null });
    try {
      const item = await store.get(key, { timeoutMs });
      const seen = item && decode(item.value);
      call.operation = { type: 'read', seen };
      call.returnedAt = history.now();
      this.#world.count('reads');
      return { seen, modRevision: item?.modRevision ?? 0 };
    } catch (error) {
      history.forget(key, call);
      if (!saysNothingHappened(error)) throw error;
      return null;
    }
  }

  async #write(
    store: ClusterStore,
    key: string,
    { seen, modRevision }: { seen: string | null; modRevision: number },
  ): Promise<void> {
    const { history } = this.#world;
    const value = `${this.#name}.${this.#values++}`;
    const isBlind = this.#world.chance() < 0.3;
    const call = history.called(
      key,
      isBlind
        ? { type: 'write', value }
        : { type: 'compareAndSet', expected: seen, value, succeeded: null },
    );
    try {
      const { succeeded, revision } = await store.transact(
        {
          compare: isBlind ? [] : [{ key, modRevision }],
          operations: [{ type: 'put', key, value: new TextEncoder().encode(value) }],
        },
        { timeoutMs },
      );
      if (!isBlind) call.operation = { type: 'compareAndSet', expected: seen, value, succeeded };
      call.returnedAt = history.now();
      if (succeeded) history.wrote(revision, key, value);
      this.#world.count('writes');
    } catch (error) {
      if (hasCode(error, 'OUTCOME_UNKNOWN')) {
        this.#world.count('unknown outcomes');
        return;
      }
      history.forget(key, call);
      // this promises that nothing has happened: the history must be right without it
      if (!saysNothingHappened(error)) throw error;
    }
  }
}

/** Without a quorum, or by a member that was removed. */
function saysNothingHappened(error: unknown): boolean {
  return hasCode(error, 'UNAVAILABLE') || hasCode(error, 'PERMISSION_DENIED');
}
