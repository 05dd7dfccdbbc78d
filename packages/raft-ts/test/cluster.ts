import {
  LevelRaftStorage,
  MemoryRaftStorage,
  RaftNode,
  type RaftError,
  type Entry,
  type RaftNodeOptions,
  type RaftStateMachine,
  type RaftStorage,
  type SaveBatch,
  type StoredState,
} from '../src/index.ts';
import { ManualClock, MemoryNetwork } from '../src/testing/index.ts';

/** Keeps every proposal, as text; a result is the number of proposals so far. */
export class ListMachine implements RaftStateMachine {
  items: string[] = [];
  /** sizes of the groups in which entries came */
  groups: number[] = [];
  restores = 0;

  apply(entries: Entry[]): unknown[] {
    this.groups.push(entries.length);
    return entries.map(({ data }) => this.items.push(new TextDecoder().decode(data)));
  }

  snapshot(): Uint8Array[] {
    return [new TextEncoder().encode(JSON.stringify(this.items))];
  }

  async restore(pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const items = JSON.parse(await textOf(pieces)) as string[];
    this.restores++;
    this.items = items;
  }
}

/** All pieces of a snapshot, as text. */
export async function textOf(pieces: AsyncIterable<Uint8Array>): Promise<string> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all).toString();
}

export interface Member {
  node: RaftNode;
  machine: ListMachine;
  storage: RaftStorage;
  fatal: RaftError[];
}

/** Counts saves under way, so that time can stand still meanwhile. */
class CountedStorage implements RaftStorage {
  readonly inner: RaftStorage;
  readonly #count: (change: number) => void;

  constructor(inner: RaftStorage, count: (change: number) => void) {
    this.inner = inner;
    this.#count = count;
  }

  load(): Promise<StoredState | null> {
    return this.inner.load();
  }

  async save(batch: SaveBatch): Promise<void> {
    this.#count(1);
    try {
      await this.inner.save(batch);
    } finally {
      this.#count(-1);
    }
  }

  async readSnapshot(
    ...at: Parameters<RaftStorage['readSnapshot']>
  ): ReturnType<RaftStorage['readSnapshot']> {
    this.#count(1);
    try {
      return await this.inner.readSnapshot(...at);
    } finally {
      this.#count(-1);
    }
  }
}

/** Members on one clock and one network in this process, on LevelDB or in memory. */
export class Cluster {
  readonly clock = new ManualClock();
  readonly network = new MemoryNetwork();
  readonly members = new Map<string, Member>();
  #saves = 0;
  readonly #stores = new Map<string, MemoryRaftStorage>();
  readonly #ids: string[];
  readonly #path: string | null;
  readonly #options: Partial<RaftNodeOptions>;

  constructor(ids: string[], path: string | null, options: Partial<RaftNodeOptions> = {}) {
    this.#ids = ids;
    this.#path = path;
    this.#options = options;
  }

  async start(id: string, options: Partial<RaftNodeOptions> = {}): Promise<Member> {
    const machine = new ListMachine();
    const inner = options.storage ?? (await this.#storage(id));
    const storage = new CountedStorage(inner, (change) => {
      this.#saves += change;
    });
    const fatal: RaftError[] = [];
    const node = await RaftNode.open({
      id,
      initialVoters: this.#ids,
      stateMachine: machine,
      transport: this.network.transport(id),
      clock: this.clock,
      random: () => ((id.charCodeAt(0) - 97 + 0.5) / 5) % 1,
      onFatal: (error) => fatal.push(error),
      ...this.#options,
      ...options,
      storage,
    });
    const member = { node, machine, storage: inner, fatal };
    this.network.join(id, (messages) => {
      node.step(messages);
    });
    this.members.set(id, member);
    return member;
  }

  async startAll(): Promise<void> {
    for (const id of this.#ids) await this.start(id);
  }

  async #storage(id: string): Promise<RaftStorage> {
    if (this.#path !== null) return LevelRaftStorage.open(`${this.#path}/${id}`);
    const storage = this.#stores.get(id) ?? new MemoryRaftStorage();
    this.#stores.set(id, storage);
    return storage;
  }

  async stop(id: string): Promise<void> {
    const member = this.get(id);
    this.network.leave(id);
    this.members.delete(id);
    await member.node.close();
    if (member.storage instanceof LevelRaftStorage) await member.storage.close();
  }

  async stopAll(): Promise<void> {
    for (const id of [...this.members.keys()]) await this.stop(id);
  }

  get(id: string): Member {
    const member = this.members.get(id);
    if (!member) throw new Error(`${id} does not run`);
    return member;
  }

  /** The leader that a majority follows. */
  get leader(): Member | undefined {
    const all = [...this.members.values()];
    return all.find(({ node }) => {
      const { role, term } = node.status();
      const followers = all.filter(({ node: other }) => {
        const status = other.status();
        return status.leaderId === node.id && status.term === term;
      });
      return role === 'leader' && followers.length * 2 > node.members().voters.length;
    });
  }

  /**
   * Lets time pass, as long as the condition needs. It stands still while a disk works: a slow
   * machine must not look like a dead leader.
   */
  async until<T>(
    what: string,
    condition: () => Promise<T | undefined | false> | T | undefined | false,
  ): Promise<T> {
    // a disk may take as long as it likes
    let waits = 0;
    for (let round = 0; round - waits < 20_000; round++) {
      const value = await condition();
      if (value !== undefined && value !== false) return value;
      if (this.#saves > 0) waits += 1;
      else if (round % 4 === 0) this.clock.advance(25);
      await new Promise((resolve) => setImmediate(resolve));
    }
    throw new Error(`it never came to be: ${what}`);
  }

  /** Lets time pass until the promise settles. */
  async during<T>(promise: Promise<T>): Promise<T> {
    let isSettled = false;
    const settle = () => {
      isSettled = true;
    };
    promise.then(settle, settle);
    await this.until('a promise that settles', () => isSettled);
    return promise;
  }

  untilLeader(): Promise<Member> {
    return this.until('a leader', () => this.leader);
  }
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
