import t from 'tap';
import { RaftError } from '../src/index.ts';
import { seededRandom } from '../src/testing/index.ts';
import { bytes, Cluster, type Member } from './cluster.ts';
import { isLinearizable, type Operation } from './register-checker.ts';

/** RAFT_SEED=n runs only that one; RAFT_SEEDS=n so many. */
const only = process.env['RAFT_SEED'];
const seeds = Number(process.env['RAFT_SEEDS'] ?? 60);
const ids = ['a', 'b', 'c'];
const keys = ['x', 'y'];

t.test('the checker knows right from wrong', async (t) => {
  const put = (value: string, calledAt: number, returnedAt: number): Operation => {
    return { type: 'put', value, calledAt, returnedAt };
  };
  const get = (value: string | null, calledAt: number, returnedAt: number): Operation => {
    return { type: 'get', value, calledAt, returnedAt };
  };
  t.ok(isLinearizable([put('1', 1, 2), get('1', 3, 4)]));
  t.notOk(isLinearizable([put('1', 1, 2), get(null, 3, 4)]), 'a stale read');
  t.ok(isLinearizable([put('1', 1, 4), get(null, 2, 3)]), 'both at once');
  t.notOk(isLinearizable([put('1', 1, 9), get('1', 2, 3), get(null, 4, 5)]), 'there and back');
  t.ok(isLinearizable([put('1', 1, Infinity), get(null, 2, 3), get('1', 4, 5)]), 'late');
  t.ok(isLinearizable([put('1', 1, Infinity), get(null, 2, 3)]), 'never');
  t.notOk(isLinearizable([put('1', 1, 2), put('2', 3, 4), get('1', 5, 6)]), 'a lost write');
  t.notOk(isLinearizable([get('1', 1, 2), put('1', 3, 4)]), 'before it was written');
});

/** Callers on a cluster in which members are cut off, stopped and started again. */
class World {
  readonly cluster = new Cluster(ids, null, { leaseClockDrift: 0, snapshotEntries: 15 });
  readonly histories = new Map<string, Operation[]>(keys.map((key) => [key, []]));
  readonly #random: () => number;
  #time = 0;
  #value = 0;
  #underWay = 0;

  constructor(seed: number) {
    this.#random = seededRandom(seed);
  }

  #pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.#random() * list.length)];
  }

  async run(steps: number): Promise<void> {
    await this.cluster.startAll();
    for (let i = 0; i < steps; i++) {
      await this.#step();
      this.cluster.clock.advance(20 + Math.floor(this.#random() * 60));
      for (let n = 0; n < 3; n++) await new Promise((resolve) => setImmediate(resolve));
    }
    this.cluster.network.heal();
    for (const id of ids) if (!this.cluster.members.has(id)) await this.cluster.start(id);
    await this.cluster.until('all calls have ended', () => this.#underWay === 0);
    await this.cluster.stopAll();
  }

  async #step(): Promise<void> {
    const dice = this.#random();
    const member = this.#pick([...this.cluster.members.values()]);
    const leaders = [...this.cluster.members.values()].filter(({ node }) => {
      return node.status().role === 'leader';
    });
    const leader = this.#pick(leaders);
    if (dice < 0.04) this.cluster.network.isolate((leader ?? member)?.node.id ?? '');
    else if (dice < 0.1) this.cluster.network.heal();
    else if (dice < 0.13 && member && this.cluster.members.size > 2) {
      await this.cluster.stop(member.node.id);
    } else if (dice < 0.2) {
      const id = ids.find((each) => !this.cluster.members.has(each));
      if (id !== undefined) await this.cluster.start(id);
    } else if (dice < 0.22 && leader) {
      const to = this.#pick(ids.filter((id) => id !== leader.node.id));
      leader.node.transferLeadership(to ?? '').catch(() => undefined);
    } else if (leader) this.#call(leader);
  }

  #call(member: Member): void {
    const key = this.#pick(keys) ?? '';
    const history = this.histories.get(key) ?? [];
    const calledAt = ++this.#time;
    this.#underWay++;
    const work = this.#random() < 0.5 ? this.#put(member, key) : this.#get(member, key);
    void work
      .then((result) => {
        if (!result) return;
        const returnedAt = result.isKnown ? ++this.#time : Infinity;
        history.push({ type: result.type, value: result.value, calledAt, returnedAt });
      })
      .finally(() => this.#underWay--);
  }

  async #put(member: Member, key: string): Promise<Result | null> {
    const value = String(++this.#value);
    try {
      await member.node.propose(bytes(`${key}=${value}`));
      return { type: 'put', value, isKnown: true };
    } catch (error) {
      // any other code says that nothing happened
      if (!(error instanceof RaftError)) throw error;
      return error.code === 'OUTCOME_UNKNOWN' ? { type: 'put', value, isKnown: false } : null;
    }
  }

  async #get(member: Member, key: string): Promise<Result | null> {
    try {
      await member.node.readIndex({ lease: this.#random() < 0.5 });
    } catch (error) {
      if (error instanceof RaftError) return null;
      throw error;
    }
    const found = member.machine.items.findLast((item) => item.startsWith(`${key}=`));
    return { type: 'get', value: found?.slice(key.length + 1) ?? null, isKnown: true };
  }
}

interface Result {
  type: 'put' | 'get';
  value: string | null;
  isKnown: boolean;
}

t.test('keys and values on it are linearizable', async (t) => {
  let gets = 0;
  let unknown = 0;
  const range = only ? [Number(only)] : Array.from({ length: seeds }, (_, i) => i + 1);
  for (const seed of range) {
    const world = new World(seed);
    await world.run(160);
    for (const [key, history] of world.histories) {
      if (!isLinearizable(history)) {
        t.fail(`RAFT_SEED=${seed}, key ${key}`, { history });
      }
      gets += history.filter(({ type }) => type === 'get').length;
      unknown += history.filter(({ returnedAt }) => returnedAt === Infinity).length;
    }
  }
  t.comment(`${range.length} seeds, ${gets} gets, ${unknown} puts of unknown outcome`);
  if (!only) t.ok(gets > 20 * range.length, 'enough was read');
  if (!only) t.ok(unknown > 0, 'some outcomes were unknown');
});
