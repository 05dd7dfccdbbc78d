import {
  LevelRaftStorage,
  RaftError,
  RaftNode,
  type Entry,
  type MemberChange,
  type RaftStateMachine,
} from '../src/index.ts';
import {
  isLinearizable,
  ManualClock,
  MemoryKeyValueDisk,
  registerModel,
  seededRandom,
  type CalledOperation,
  type RegisterOperation,
} from '../src/testing/index.ts';
import { textOf } from './cluster.ts';
import { FaultyNetwork, ProcessClock } from './world-parts.ts';

const voters = ['a', 'b', 'c'];
const ids = [...voters, 'd', 'e'];
const keys = ['x', 'y'];
/** how much faster one clock may run than another, which the members are told */
const leaseClockDrift = 0.5;

interface Command {
  key: string;
  value: string;
  /** undefined: whatever is there */
  expected?: string | null;
}

/** A few keys; the result of a compare-and-set that was not done is what was there. */
class KeyValues implements RaftStateMachine {
  values = new Map<string, string>();

  apply(entries: Entry[]): unknown[] {
    return entries.map(({ data }) => {
      const command = JSON.parse(new TextDecoder().decode(data)) as Command;
      const { key, value, expected } = command;
      const seen = this.values.get(key) ?? null;
      if (expected !== undefined && expected !== seen) return { seen };
      this.values.set(key, value);
      return null;
    });
  }

  /** in small pieces, while the values change */
  *snapshot(): Iterable<Uint8Array> {
    const bytes = new TextEncoder().encode(JSON.stringify([...this.values]));
    for (let at = 0; at < bytes.length; at += 15) yield bytes.subarray(at, at + 15);
  }

  async restore(pieces: AsyncIterable<Uint8Array>): Promise<void> {
    this.values = new Map(JSON.parse(await textOf(pieces)) as [string, string][]);
  }
}

type Call = CalledOperation<RegisterOperation>;

/** One caller: it waits for its answer, up to a time, before it asks again. */
interface Caller {
  waitsUntilMs: number;
}

/** how long a caller waits (ms) */
const patienceMs = 800;

interface Member {
  id: string;
  node: RaftNode;
  machine: KeyValues;
  clock: ProcessClock;
}

export interface KeyValueWorldOptions {
  seed: number;
  steps: number;
  /** the members change */
  changes?: boolean;
}

/**
 * Callers of nodes whose members are cut off, paused, killed, lose power and pieces of their disks,
 * run on clocks of different speed and change; every call and its answer is noted.
 */
export class KeyValueWorld {
  readonly clock = new ManualClock();
  readonly histories = new Map<string, Call[]>(keys.map((key) => [key, []]));
  readonly stats = {
    gets: 0,
    leaseGets: 0,
    unknown: 0,
    changes: 0,
    kills: 0,
    losses: 0,
    faults: 0,
  };
  readonly #options: KeyValueWorldOptions;
  readonly #random: () => number;
  readonly #network: FaultyNetwork;
  readonly #members = new Map<string, Member>();
  readonly #disks = new Map<string, MemoryKeyValueDisk>();
  readonly #rates = new Map<string, number>();
  readonly #broken = new Set<string>();
  readonly #starting = new Set<string>();
  /** too much is lost there to go on */
  readonly #lost = new Set<string>();
  readonly #callers: Caller[] = Array.from({ length: 4 }, () => ({ waitsUntilMs: 0 }));
  #time = 0;
  #value = 0;

  constructor(options: KeyValueWorldOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    this.#network = new FaultyNetwork(this.clock, this.#random);
    for (const id of ids) {
      const disk = new MemoryKeyValueDisk({ random: this.#random });
      disk.failWrite = () => (this.#broken.has(id) ? 'ENOSPC: no space left on device' : null);
      this.#disks.set(id, disk);
    }
    // by as much slower than the others as they were told
    this.#rates.set(this.#pick(voters) ?? '', 1 / (1 + leaseClockDrift));
  }

  #pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.#random() * list.length)];
  }

  async run(): Promise<void> {
    for (const id of this.#options.changes ? ids : voters) await this.#start(id);
    for (let i = 0; i < this.#options.steps; i++) {
      this.#step();
      await this.#pass(2 + this.#random() * 40);
    }
  }

  /** Some time goes by, and all that is due is done. */
  async #pass(ms: number): Promise<void> {
    this.clock.advance(ms);
    await new Promise((resolve) => setImmediate(resolve));
  }

  async #start(id: string): Promise<void> {
    const disk = this.#disks.get(id);
    if (!disk || this.#members.has(id) || this.#starting.has(id) || this.#lost.has(id)) return;
    this.#starting.add(id);
    const clock = new ProcessClock(this.clock, this.#rates.get(id) ?? 1);
    const machine = new KeyValues();
    try {
      const storage = await LevelRaftStorage.open('log', disk.open);
      const node = await RaftNode.open({
        id,
        initialVoters: voters.includes(id) ? voters : [],
        storage,
        stateMachine: machine,
        transport: this.#network.transport(id),
        clock,
        random: this.#random,
        tickMs: 25,
        snapshotEntries: 12,
        leaseClockDrift,
        limits: { snapshotChunkBytes: 20, inflightMessages: 4, trailingBytes: 200 },
        onFatal: () => {
          this.#kill(id);
        },
      });
      this.#members.set(id, { id, node, machine, clock });
      this.#network.join(id, (messages) => {
        clock.run(() => {
          node.step(messages);
        });
      });
    } catch (error) {
      if (!(error instanceof RaftError)) throw error;
      if (error.code === 'CORRUPT') this.#lost.add(id);
      clock.kill();
      disk.kill();
    } finally {
      this.#starting.delete(id);
    }
  }

  /** The process ends between any two writes; at times with the power of its host. */
  #kill(id: string): void {
    const member = this.#members.get(id);
    if (!member) return;
    this.stats.kills++;
    this.#network.leave(id);
    this.#members.delete(id);
    member.clock.kill();
    // what waits there is never answered
    const disk = this.#disks.get(id);
    if (this.#random() < 0.5) disk?.losePower();
    else disk?.kill();
  }

  #step(): void {
    const dice = this.#random();
    const member = this.#pick([...this.#members.values()]);
    const leaders = [...this.#members.values()].filter(
      ({ node }) => node.status().role === 'leader',
    );
    const leader = this.#pick(leaders);
    if (dice < 0.03) this.#disturb(leader, member);
    else if (dice < 0.06) this.#mend();
    else if (dice < 0.07 && member) this.#kill(member.id);
    else if (dice < 0.08) this.#loseEntries();
    else if (dice < 0.2) void this.#start(this.#pick(ids) ?? '');
    else if (dice < 0.24 && leader) {
      const to = this.#pick(leader.node.members().voters) ?? '';
      leader.node.transferLeadership(to).catch(() => undefined);
    } else if (dice < 0.28 && leader && this.#options.changes) this.#change(leader);
    for (const caller of this.#callers) {
      // also one that is deposed and does not know
      const asked = this.#pick(leaders);
      if (asked && caller.waitsUntilMs <= this.clock.monotonicMs()) this.#call(caller, asked);
    }
  }

  #disturb(leader: Member | undefined, member: Member | undefined): void {
    const victim = this.#random() < 0.6 ? (leader ?? member) : member;
    if (!victim) return;
    this.stats.faults++;
    const dice = this.#random();
    const others = ids.filter((id) => id !== victim.id);
    if (dice < 0.3) victim.clock.pause();
    else if (dice < 0.4) this.#broken.add(victim.id);
    else if (dice < 0.5) this.#network.lossRate = 0.3;
    else {
      const way = this.#random();
      for (const other of others) {
        if (way < 0.7) this.#network.block(victim.id, other);
        if (way > 0.3) this.#network.block(other, victim.id);
      }
    }
  }

  #mend(): void {
    this.#network.heal();
    this.#broken.clear();
    for (const { clock } of this.#members.values()) clock.goOn();
  }

  /** The newest entries of a store whose member is down are gone. One store in all its time. */
  #loseEntries(): void {
    const id = ids.find((each) => !this.#members.has(each) && !this.#starting.has(each));
    const disk = id === undefined ? undefined : this.#disks.get(id);
    if (!disk?.exists('log') || this.stats.losses > 0) return;
    this.stats.losses++;
    const entries = [...disk.copy('log').keys()].filter((key) => key.startsWith('e')).sort();
    const count = Math.floor(this.#random() * (entries.length + 1));
    for (const key of entries.slice(entries.length - count)) {
      disk.damage('log', Uint8Array.from(Buffer.from(key, 'latin1')), null);
    }
  }

  #change({ node }: Member): void {
    const count = 1 + Math.floor(this.#random() * 2);
    const changes = Array.from({ length: count }, (): MemberChange => {
      const type = this.#pick<MemberChange['type']>([
        'addVoter',
        'addVoter',
        'addLearner',
        'remove',
      ]);
      return { type: type ?? 'addVoter', id: this.#pick(ids) ?? '' };
    });
    // a cluster of one or two stops too easily to be worth anything
    const gone = changes.filter(({ type }) => type !== 'addVoter').map(({ id }) => id);
    const left = node.members().voters.filter((id) => !gone.includes(id));
    if (left.length < 3) return;
    node.changeMembership(changes).then(
      () => this.stats.changes++,
      () => undefined,
    );
  }

  #call(caller: Caller, member: Member): void {
    const key = this.#pick(keys) ?? '';
    const history = this.histories.get(key) ?? [];
    const untilMs = this.clock.monotonicMs() + patienceMs;
    caller.waitsUntilMs = untilMs;
    const work = this.#random() < 0.5 ? this.#read : this.#write;
    void work.call(this, member, key, history).then(() => {
      if (caller.waitsUntilMs === untilMs) caller.waitsUntilMs = 0;
    });
  }

  async #write({ node, machine, clock }: Member, key: string, history: Call[]): Promise<void> {
    const value = String(++this.#value);
    const expected = machine.values.get(key) ?? null;
    const isBlind = this.#random() < 0.5;
    const command: Command = isBlind ? { key, value } : { key, value, expected };
    // until there is an answer it has none, and there may never be one
    const call: Call = {
      operation: isBlind
        ? { type: 'write', value }
        : { type: 'compareAndSet', expected, value, succeeded: null },
      calledAt: ++this.#time,
      returnedAt: Infinity,
    };
    history.push(call);
    try {
      const { result } = await node.propose(new TextEncoder().encode(JSON.stringify(command)));
      clock.run(() => {
        const failed = result as { seen: string | null } | null;
        if (failed) call.operation = { type: 'read', seen: failed.seen };
        else if (!isBlind) {
          call.operation = { type: 'compareAndSet', expected, value, succeeded: true };
        }
        call.returnedAt = ++this.#time;
      });
    } catch (error) {
      if (!(error instanceof RaftError)) throw error;
      // any other code says that nothing happened
      if (error.code === 'OUTCOME_UNKNOWN') this.stats.unknown++;
      else history.splice(history.indexOf(call), 1);
    }
  }

  async #read({ node, machine, clock }: Member, key: string, history: Call[]): Promise<void> {
    const lease = this.#random() < 0.5;
    const calledAt = ++this.#time;
    try {
      await node.readIndex({ lease });
    } catch (error) {
      if (error instanceof RaftError) return;
      throw error;
    }
    const seen = machine.values.get(key) ?? null;
    clock.run(() => {
      this.stats[lease ? 'leaseGets' : 'gets']++;
      history.push({ operation: { type: 'read', seen }, calledAt, returnedAt: ++this.#time });
    });
  }

  /** The keys whose history has no order; `null`: the checker gave up. */
  wrong(): { key: string; verdict: boolean | null }[] {
    return [...this.histories]
      .map(([key, history]) => ({ key, verdict: isLinearizable(pruned(history), registerModel) }))
      .filter(({ verdict }) => verdict !== true);
  }
}

/**
 * Without the writes of unknown outcome whose value nobody saw: whether they happened makes no
 * difference to anybody, and each would double the search.
 */
function pruned(history: Call[]): Call[] {
  const seen = new Set<string | null>();
  for (const { operation, returnedAt } of history) {
    if (operation.type === 'read') seen.add(operation.seen);
    // one without an answer counts too: it may have been done
    if (operation.type === 'compareAndSet') seen.add(operation.expected);
    if (operation.type === 'write' && returnedAt < Infinity) seen.add(operation.value);
  }
  return history.filter(({ operation, returnedAt }) => {
    return returnedAt < Infinity || operation.type === 'read' || seen.has(operation.value);
  });
}
