import t from 'tap';
import {
  membershipOf,
  MemoryRaftStorage,
  inOnePiece,
  RaftError,
  RaftNode,
  type RaftMessage,
  type RaftStorage,
  type SaveBatch,
} from '../src/index.ts';
import { ManualClock } from '../src/testing/index.ts';
import { bytes, Cluster, ListMachine } from './cluster.ts';

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A store whose saves wait until told, and which can break. */
class SlowStorage extends MemoryRaftStorage {
  saves: SaveBatch[] = [];
  hold = false;
  broken = false;
  #release: (() => void)[] = [];

  override async save(batch: SaveBatch): Promise<void> {
    this.saves.push(batch);
    if (this.hold) await new Promise<void>((resolve) => this.#release.push(resolve));
    if (this.broken) throw new Error('the disk is on fire');
    await super.save(batch);
  }

  release(): void {
    for (const resolve of this.#release.splice(0)) resolve();
  }
}

t.test('three members: replicate, lose the leader, restart from disk', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], t.testdir());
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const first = await cluster.untilLeader();
  t.same(await first.node.propose(bytes('one')), { index: 2, result: 1 });
  const two = await Promise.all(['two', 'three'].map((x) => first.node.propose(bytes(x))));
  t.same(two, [
    { index: 3, result: 2 },
    { index: 4, result: 3 },
  ]);
  await cluster.stop(first.node.id);

  const second = await cluster.untilLeader();
  t.not(second.node.id, first.node.id);
  t.ok(second.node.status().term > 1);
  await second.node.propose(bytes('four'));
  await cluster.start(first.node.id);
  const all = ['one', 'two', 'three', 'four'];
  const everybodyHasAll = () => {
    return [...cluster.members.values()].every(({ machine }) => machine.items.length === 4);
  };
  await cluster.until('all members have all', everybodyHasAll);
  await cluster.stopAll();
  await cluster.startAll();
  await cluster.untilLeader();
  await cluster.until('all members have all again', everybodyHasAll);
  for (const { machine } of cluster.members.values()) t.same(machine.items, all);
});

t.test('log snapshots: a member that was away gets one, and restarts from it', async (t) => {
  const path = t.testdir();
  const cluster = new Cluster(['a', 'b', 'c'], path, { snapshotEntries: 20, trailingEntries: 5 });
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node: leader } = await cluster.untilLeader();
  const away = ['a', 'b', 'c'].find((id) => id !== leader.id) ?? '';
  await cluster.stop(away);
  for (let i = 0; i < 100; i++) await leader.propose(bytes(`item ${i}`));
  const back = await cluster.start(away);
  await cluster.until('it has caught up', () => back.machine.items.length === 100);
  t.equal(back.machine.restores, 1);
  t.same(back.machine.items, cluster.get(leader.id).machine.items);

  await cluster.stop(leader.id);
  const again = await cluster.start(leader.id);
  t.equal(again.machine.restores, 1, 'its own disk begins with a snapshot');
  const { node: next } = await cluster.untilLeader();
  await next.propose(bytes('last'));
  await cluster.until('all have the last', () =>
    [...cluster.members.values()].every(({ machine }) => machine.items.length === 101),
  );
  const stored = await again.storage.load();
  t.ok((stored?.entries.length ?? 0) < 50, 'the log is kept short');
});

/** A store in which one log snapshot is damaged. */
class RottenStorage extends MemoryRaftStorage {
  rotten = -1;

  override async readSnapshot(
    ...at: Parameters<RaftStorage['readSnapshot']>
  ): ReturnType<RaftStorage['readSnapshot']> {
    if (at[0].index === this.rotten) throw new RaftError('CORRUPT', 'a piece is damaged');
    return super.readSnapshot(...at);
  }
}

t.test('a damaged log snapshot is made anew, when a follower needs it', async (t) => {
  const ids = ['a', 'b', 'c'];
  const cluster = new Cluster(ids, null, { snapshotEntries: 20, trailingEntries: 5 });
  t.teardown(() => cluster.stopAll());
  const stores = new Map(ids.map((id) => [id, new RottenStorage()]));
  const start = (id: string) => cluster.start(id, { storage: stores.get(id) as RottenStorage });
  for (const id of ids) await start(id);
  const { node: leader, machine, fatal } = await cluster.untilLeader();
  const away = ids.find((id) => id !== leader.id) ?? '';
  await cluster.stop(away);
  for (let i = 0; i < 50; i++) await leader.propose(bytes(`item ${i}`));
  const storage = stores.get(leader.id) as RottenStorage;
  const newest = async () => (await storage.load())?.snapshot.index ?? 0;
  await cluster.until('the second one', async () => (await newest()) >= 40);
  storage.rotten = await newest();
  const back = await start(away);
  await leader.propose(bytes('one more'));
  await cluster.until('it has caught up', () => back.machine.items.length === 51);
  t.same(back.machine.items, machine.items);
  t.ok((await newest()) > storage.rotten, 'another one');
  t.same(fatal, []);
  t.equal(leader.status().role, 'leader');
});

t.test('a log snapshot is taken for bytes, too', async (t) => {
  const cluster = new Cluster(['a'], null, {
    limits: { snapshotLogBytes: 10_000, trailingBytes: 3000 },
  });
  t.teardown(() => cluster.stopAll());
  const { node, storage } = await cluster.start('a');
  await cluster.untilLeader();
  for (let i = 0; i < 30; i++) await node.propose(new Uint8Array(1000));
  await cluster.until('a snapshot', async () => ((await storage.load())?.snapshot.index ?? 0) > 20);
  const stored = await storage.load();
  t.ok((stored?.snapshot.index ?? 0) > 5);
  t.ok((stored?.entries.length ?? 99) <= 15);
});

t.test(
  'a read sees what was committed before it, and an isolated leader confirms none',
  async (t) => {
    const cluster = new Cluster(['a', 'b', 'c'], null);
    t.teardown(() => cluster.stopAll());
    await cluster.startAll();
    const old = await cluster.untilLeader();
    const { index } = await old.node.propose(bytes('x'));
    const reads = await Promise.all([old.node.readIndex(), old.node.readIndex()]);
    t.ok(reads.every((read) => read >= index));
    const follower = [...cluster.members.values()].find(({ node }) => node !== old.node);
    t.ok(follower);
    await t.rejects(Promise.resolve(follower?.node.readIndex()), {
      code: 'NOT_LEADER',
      details: { leaderId: old.node.id },
    });

    cluster.network.isolate(old.node.id);
    let confirmed = false;
    const read = old.node.readIndex().then(() => (confirmed = true));
    const lost = old.node.propose(bytes('lost'));
    void lost.catch(() => undefined);
    void read.catch(() => undefined);
    const next = await cluster.until('another leader', () => {
      return cluster.leader?.node.id === old.node.id ? undefined : cluster.leader;
    });
    await next.node.propose(bytes('y'));
    await cluster.until('the old one steps down', () => old.node.status().role !== 'leader');
    await t.rejects(read, { code: 'NOT_LEADER' });
    await t.rejects(lost, { code: 'OUTCOME_UNKNOWN' });
    t.notOk(confirmed);
    cluster.network.heal();
    await cluster.until('the old one follows', () => old.machine.items.length === 2);
    t.same(old.machine.items, ['x', 'y']);
  },
);

t.test('what comes during a save goes into the next one, as one group', async (t) => {
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const storage = new SlowStorage();
  const { node, machine } = await cluster.start('a', { storage });
  await cluster.untilLeader();
  storage.saves = [];
  storage.hold = true;
  const first = node.propose(bytes('first'));
  await turn();
  const rest = Array.from({ length: 50 }, (_, i) => node.propose(bytes(`${i}`)));
  await turn();
  t.equal(storage.saves.length, 1, 'one save at a time');
  storage.release();
  await first;
  storage.hold = false;
  await turn();
  storage.release();
  await Promise.all(rest);
  const sizes = storage.saves.map(({ entries }) => entries.length);
  t.same(sizes, [1, 50]);
  t.equal(machine.groups.at(-1), 50);
});

t.test('a store that fails stops the node: nothing is said, nothing is accepted', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  const storage = new SlowStorage();
  const sent: RaftMessage[] = [];
  await cluster.start('b');
  await cluster.start('c');
  const network = cluster.network.transport('a');
  const a = await cluster.start('a', {
    storage,
    transport: {
      send: (to, messages) => {
        sent.push(...messages);
        network.send(to, messages);
      },
    },
    // the quickest to stand
    random: () => 0,
    electionTicks: 5,
  });
  await cluster.until('a leads', () => cluster.leader === a);
  storage.broken = true;
  const proposal = a.node.propose(bytes('x'));
  const wait = a.node.waitApplied(1000);
  await t.rejects(proposal, { code: 'OUTCOME_UNKNOWN' });
  await t.rejects(wait, { code: 'CLOSED' });
  t.match(a.fatal, [{ code: 'STORAGE_FAILED', message: /the disk is on fire/ }]);
  const before = sent.length;
  t.match(a.node.status(), { role: 'follower', leaderId: null }, 'it leads no more');
  const other = await cluster.until('another leads', () => cluster.leader);
  t.not(other.node.id, 'a');
  t.equal(sent.length, before, 'a is silent');
  await t.rejects(a.node.propose(bytes('y')), { code: 'CLOSED' });
  await t.rejects(a.node.readIndex(), { code: 'CLOSED' });
  await t.rejects(a.node.waitApplied(0), { code: 'CLOSED' });
  await other.node.propose(bytes('z'));
});

t.test('a state machine that throws stops the node', async (t) => {
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  class Throws extends ListMachine {
    override apply(): unknown[] {
      throw new Error('cannot apply');
    }
  }
  const { node, fatal } = await cluster.start('a', { stateMachine: new Throws() });
  await cluster.untilLeader();
  await t.rejects(node.propose(bytes('x')), { code: 'OUTCOME_UNKNOWN' });
  t.match(fatal, [{ code: 'INTERNAL', message: /cannot apply/ }]);
});

t.test('a member that lost its disk is noticed when the leader counts on it', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node: leader } = await cluster.untilLeader();
  await leader.propose(bytes('x'));
  await cluster.until('all have it', () =>
    [...cluster.members.values()].every(({ machine }) => machine.items.length === 1),
  );
  const victim = ['a', 'b', 'c'].find((id) => id !== leader.id) ?? '';
  await cluster.stop(victim);
  const wiped = await cluster.start(victim, { storage: new MemoryRaftStorage() });
  await cluster.until('it stops', () => wiped.fatal.length > 0);
  t.match(wiped.fatal, [{ code: 'INTERNAL', message: /acknowledged are lost/ }]);
});

t.test('limits and mistakes are refused before anything happens', async (t) => {
  const cluster = new Cluster(['a'], null, {
    limits: { uncommittedBytes: 300, pendingReads: 1, pendingWaits: 1 },
  });
  t.teardown(() => cluster.stopAll());
  const storage = new SlowStorage();
  const { node, machine } = await cluster.start('a', { storage });
  await cluster.untilLeader();
  await node.readIndex();
  storage.hold = true;
  const first = node.propose(new Uint8Array(200));
  await t.rejects(node.propose(new Uint8Array(200)), { code: 'TOO_BUSY' });
  await t.rejects(node.propose(new Uint8Array((8 << 20) + 1)), { code: 'INVALID_ARGUMENT' });
  await turn();
  await t.rejects(node.propose(new Uint8Array(200)), { code: 'TOO_BUSY' });
  const read = node.readIndex();
  await t.rejects(node.readIndex(), { code: 'TOO_BUSY' });
  const wait = node.waitApplied(2);
  await t.rejects(node.waitApplied(2), { code: 'TOO_BUSY' });
  storage.hold = false;
  storage.release();
  await Promise.all([first, read, wait]);
  t.equal(machine.items.length, 1);
  await node.propose(bytes('there is room again'));
});

t.test('an abort before the append undoes, after it leaves the outcome unknown', async (t) => {
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const storage = new SlowStorage();
  const { node, machine } = await cluster.start('a', { storage });
  await cluster.untilLeader();
  await node.propose(bytes('zero'));
  storage.hold = true;
  const appended = new AbortController();
  const first = node.propose(bytes('one'), { signal: appended.signal });
  await turn();
  const queued = new AbortController();
  const second = node.propose(bytes('two'), { signal: queued.signal });
  const wait = node.waitApplied(99, { signal: queued.signal });
  await turn();
  queued.abort();
  appended.abort();
  await t.rejects(second, { code: 'ABORTED' });
  await t.rejects(wait, { code: 'ABORTED' });
  await t.rejects(first, { code: 'OUTCOME_UNKNOWN' });
  const signal = AbortSignal.abort();
  await t.rejects(node.propose(bytes('three'), { signal }), { code: 'ABORTED' });
  await t.rejects(node.readIndex({ signal }), { code: 'ABORTED' });
  storage.hold = false;
  storage.release();
  await node.propose(bytes('four'));
  t.same(machine.items, ['zero', 'one', 'four']);
});

t.test('an abort ends a read', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node } = await cluster.untilLeader();
  cluster.network.isolate(node.id);
  const controller = new AbortController();
  const read = node.readIndex({ signal: controller.signal });
  await turn();
  controller.abort();
  await t.rejects(read, { code: 'ABORTED' });
});

t.test('close ends everything, twice', async (t) => {
  const cluster = new Cluster(['a'], null);
  const storage = new SlowStorage();
  const { node } = await cluster.start('a', { storage });
  await cluster.untilLeader();
  await node.propose(bytes('x'));
  storage.hold = true;
  const appended = node.propose(bytes('y'));
  await turn();
  const queued = node.propose(bytes('z'));
  const closing = node.close();
  await t.rejects(queued, { code: 'CLOSED' });
  await t.rejects(appended, { code: 'OUTCOME_UNKNOWN' });
  storage.hold = false;
  storage.release();
  await closing;
  await node.close();
  node.step([]);
  const stored = await storage.load();
  t.equal(stored?.entries.length, 3, 'the save under way was awaited');
});

t.test('the commit index is saved in a quiet moment', async (t) => {
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const { node, storage } = await cluster.start('a');
  await cluster.untilLeader();
  const roles: string[] = [];
  node.onRoleChange(({ role }) => roles.push(role));
  const { index } = await node.propose(bytes('x'));
  await cluster.until('it is on the disk', async () => {
    return (await storage.load())?.hardState.commit === index;
  });
  await cluster.stop('a');
  t.same(roles, ['follower'], 'a closed leader says that it is none');
  const again = await cluster.start('a');
  t.same(again.machine.items, ['x'], 'and applied before open returns');
});

t.test('changes are told', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  const { node } = await cluster.start('a', { electionTicks: 5, random: () => 0 });
  const roles: string[] = [];
  const applied: number[] = [];
  const stopRoles = node.onRoleChange(({ role }) => roles.push(role));
  node.onRoleChange(() => {
    throw new Error('a listener’s own fault');
  });
  node.onApplied(() => {
    throw new Error('a listener’s own fault');
  });
  const stopApplied = node.onApplied((index) => applied.push(index));
  await cluster.start('b');
  await cluster.start('c');
  await cluster.until('a leads', () => cluster.leader?.node.id === 'a');
  await node.waitApplied(1);
  await Promise.all([node.propose(bytes('x')), node.waitApplied(2)]);
  t.equal(roles.at(-1), 'leader');
  t.equal(applied.at(-1), 2);
  stopRoles();
  stopApplied();
  await node.propose(bytes('y'));
  t.equal(applied.at(-1), 2);
});

t.test('a transport that throws only loses messages', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.start('a');
  await cluster.start('b');
  let sends = 0;
  const { node, fatal } = await cluster.start('c', {
    transport: {
      send: (to, messages) => {
        if (++sends % 2 === 0) throw new Error('no route');
        cluster.network.transport('c').send(to, messages);
      },
    },
  });
  await cluster.untilLeader();
  await cluster.until('c applies', () => node.status().appliedIndex > 0);
  t.ok(sends > 1);
  t.same(fatal, []);
});

t.test('the stored voters count, and bad options are refused', async (t) => {
  const storage = new MemoryRaftStorage();
  const machine = new ListMachine();
  const options = {
    id: 'a',
    initialVoters: ['a'],
    storage,
    stateMachine: machine,
    transport: { send: () => {} },
    clock: new ManualClock(),
    random: () => 0,
  };
  await (await RaftNode.open(options)).close();
  const node = await RaftNode.open({ ...options, initialVoters: ['a', 'b', 'c'] });
  t.same(node.status().voters, ['a']);
  await node.close();
  const refused = [
    { initialVoters: ['b'] },
    { initialVoters: ['a', 'a'] },
    { id: '', initialVoters: [''] },
    { electionTicks: 1 },
    { tickMs: 0 },
    { snapshotEntries: 0 },
  ];
  for (const change of refused) {
    await t.rejects(RaftNode.open({ ...options, ...change }), { code: 'INVALID_ARGUMENT' });
  }
});

t.test('a state machine that cannot restore keeps the node from opening', async (t) => {
  const membership = membershipOf(['a']);
  const { snapshot } = inOnePiece({ index: 5, term: 1, membership, data: bytes('not JSON') });
  const storage = new MemoryRaftStorage({
    hardState: { term: 1, vote: 'a', commit: 5 },
    snapshot,
    content: bytes('not JSON'),
    start: { index: 5, term: 1 },
    entries: [],
  });
  const opening = RaftNode.open({
    id: 'a',
    initialVoters: ['a'],
    storage,
    stateMachine: new ListMachine(),
    transport: { send: () => {} },
    clock: new ManualClock(),
    random: () => 0,
  });
  await t.rejects(opening, { code: 'INTERNAL', message: /JSON/ });
});
