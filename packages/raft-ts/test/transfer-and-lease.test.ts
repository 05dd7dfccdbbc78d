import t from 'tap';
import { bytes, Cluster } from './cluster.ts';
import { ProcessClock } from './world-parts.ts';

t.test('leadership is handed over, with all that was proposed', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const old = await cluster.untilLeader();
  await old.node.propose(bytes('x'));
  const to = ['a', 'b', 'c'].find((id) => id !== old.node.id) ?? '';
  const { term } = old.node.status();
  await cluster.during(old.node.transferLeadership(to));
  t.equal(old.node.status().leaderId, to);
  t.equal(cluster.get(to).node.status().term, term + 1, 'by one election');
  await t.rejects(old.node.transferLeadership(to), { code: 'NOT_LEADER' });
  await cluster.get(to).node.propose(bytes('y'));
  t.same(cluster.get(to).machine.items, ['x', 'y']);
});

t.test('one that is away cannot take over: proposals wait, then the leader goes on', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node } = await cluster.untilLeader();
  const [to = '', other = ''] = ['a', 'b', 'c'].filter((id) => id !== node.id);
  cluster.network.isolate(to);
  await node.propose(bytes('x'));
  const transfer = node.transferLeadership(to);
  void transfer.catch(() => undefined);
  await t.rejects(node.propose(bytes('y')), { code: 'TOO_BUSY' });
  await t.rejects(node.transferLeadership(other), { code: 'CHANGE_PENDING' });
  await t.rejects(cluster.during(transfer), { code: 'TIMED_OUT' });
  await node.propose(bytes('y'));
  await t.rejects(node.transferLeadership(node.id), { code: 'INVALID_ARGUMENT' });
});

t.test('a lease read asks nobody, until the lease is over', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null, { leaseClockDrift: 0.05 });
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const old = await cluster.untilLeader();
  await old.node.propose(bytes('x'));
  await cluster.during(old.node.readIndex({ lease: true }));
  cluster.network.isolate(old.node.id);
  t.equal(await old.node.readIndex({ lease: true }), 2, 'at once, and alone');
  // 8 ticks of 100 ms, less 5 %, from when the round began, which was a little before
  cluster.clock.advance(600);
  t.equal(await old.node.readIndex({ lease: true }), 2);
  cluster.clock.advance(160);
  let isAnswered = false;
  const read = old.node.readIndex({ lease: true }).then(() => (isAnswered = true));
  void read.catch(() => undefined);
  await cluster.until('another leads', () => {
    return cluster.leader?.node === old.node ? undefined : cluster.leader;
  });
  t.notOk(isAnswered, 'it must ask, and nobody answers');
});

t.test(
  'a lease read after a transfer was begun asks, and without a bound it is refused',
  async (t) => {
    const cluster = new Cluster(['a', 'b', 'c'], null, { leaseClockDrift: 0 });
    t.teardown(() => cluster.stopAll());
    await cluster.startAll();
    const { node } = await cluster.untilLeader();
    await cluster.during(node.readIndex({ lease: true }));
    const to = ['a', 'b', 'c'].find((id) => id !== node.id) ?? '';
    await cluster.during(node.readIndex({ lease: true }));
    cluster.network.isolate(node.id);
    void node.transferLeadership(to).catch(() => undefined);
    let isAnswered = false;
    const read = node.readIndex({ lease: true }).then(() => (isAnswered = true));
    void read.catch(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    t.notOk(isAnswered);
    const plain = new Cluster(['a'], null);
    t.teardown(() => plain.stopAll());
    const alone = await plain.start('a');
    await t.rejects(alone.node.readIndex({ lease: true }), { code: 'INVALID_ARGUMENT' });
  },
);

t.test('with lease reads no vote is given right after a start', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null, { leaseClockDrift: 0.01, electionTicks: 10 });
  t.teardown(() => cluster.stopAll());
  await cluster.start('a');
  await cluster.start('b');
  // its lease is over, it stands again and again; b has just started again
  await cluster.until('a leader', () => cluster.leader);
  await cluster.stop('b');
  const again = await cluster.start('b');
  const { term } = again.node.status();
  again.node.step([
    {
      type: 'vote',
      from: 'c',
      to: 'b',
      term: term + 5,
      lastIndex: 99,
      lastTerm: 99,
      isTransfer: false,
    },
  ]);
  t.equal(again.node.status().term, term, 'the vote was not even looked at');
});

t.test('a lease ends in time on the slowest clock that was stated', async (t) => {
  const leaseClockDrift = 0.5;
  const cluster = new Cluster(['a', 'b', 'c'], null, { leaseClockDrift });
  t.teardown(() => cluster.stopAll());
  // the others stand as early as they may, and one after the other
  await cluster.start('b', { random: () => 0 });
  await cluster.start('c', { random: () => 0.1 });
  const clock = new ProcessClock(cluster.clock, 1 / (1 + leaseClockDrift));
  const { node, machine } = await cluster.start('a', { clock });
  const first = await cluster.untilLeader();
  if (first.node !== node) await cluster.during(first.node.transferLeadership('a'));
  await cluster.during(node.propose(bytes('old')));
  await cluster.during(node.readIndex());
  cluster.network.isolate('a');
  const next = await cluster.until('another leader', () => {
    return cluster.leader?.node === node ? undefined : cluster.leader;
  });
  await cluster.during(next.node.propose(bytes('new')));
  t.equal(node.status().role, 'leader', 'it does not know yet');
  let isAnswered = false;
  node.readIndex({ lease: true }).then(
    () => (isAnswered = true),
    () => undefined,
  );
  await new Promise((resolve) => setImmediate(resolve));
  t.notOk(isAnswered, `what it would have read is ${machine.items.join()}`);
});

t.test('who hears a leader says so to who would stand', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node } = await cluster.untilLeader();
  const [follower, other] = ['a', 'b', 'c'].filter((id) => id !== node.id);
  const { term } = node.status();
  let isGranted = false;
  cluster.network.join(other ?? '', (messages) => {
    isGranted ||= messages.some((each) => each.type === 'preVoteResponse' && !each.rejected);
  });
  const ask = { from: other ?? '', to: follower ?? '', term: term + 1, isTransfer: false };
  cluster
    .get(follower ?? '')
    .node.step([{ ...ask, type: 'preVote', lastIndex: 1_000, lastTerm: term }]);
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  t.notOk(isGranted);
});
