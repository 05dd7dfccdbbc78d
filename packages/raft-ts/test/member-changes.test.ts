import t from 'tap';
import { bytes, Cluster } from './cluster.ts';

const add = (id: string) => ({ type: 'addVoter', id }) as const;
const learn = (id: string) => ({ type: 'addLearner', id }) as const;
const remove = (id: string) => ({ type: 'remove', id }) as const;
const joining = { initialVoters: [] };

t.test('from one member to three, one is replaced, all on disk', async (t) => {
  const cluster = new Cluster(['a'], t.testdir(), { snapshotEntries: 20, trailingEntries: 3 });
  t.teardown(() => cluster.stopAll());
  const a = await cluster.start('a');
  await cluster.untilLeader();
  for (let i = 0; i < 50; i++) await a.node.propose(bytes(`item ${i}`));
  for (const id of ['b', 'c', 'd']) await cluster.start(id, joining);
  const grown = await cluster.during(a.node.changeMembership([add('b'), add('c')]));
  t.same(grown.voters, ['a', 'b', 'c']);
  t.same(grown.outgoing, []);
  t.equal(cluster.get('b').machine.items.length, 50, 'who became a voter had the log before');
  t.same(await a.node.changeMembership([add('b')]), grown, 'a repetition changes nothing');

  await cluster.stop('c');
  const replaced = await cluster.during(a.node.changeMembership([add('d'), remove('c')]));
  t.same(replaced.voters, ['a', 'b', 'd']);
  await a.node.propose(bytes('after'));

  // the stored members count at a restart, not those in the options
  await cluster.stopAll();
  for (const id of ['a', 'b', 'd']) await cluster.start(id, joining);
  const leader = await cluster.untilLeader();
  t.same(leader.node.members(), replaced);
  await leader.node.propose(bytes('last'));
  await cluster.until('all have it', () =>
    [...cluster.members.values()].every(({ machine }) => machine.items.at(-1) === 'last'),
  );
  t.equal(cluster.get('d').machine.items.length, 52);
});

t.test(
  'a leader that removes itself stands down, and the caller hears of the success',
  async (t) => {
    const cluster = new Cluster(['a', 'b', 'c'], null);
    t.teardown(() => cluster.stopAll());
    await cluster.startAll();
    const old = await cluster.untilLeader();
    const members = await cluster.during(old.node.changeMembership([remove(old.node.id)]));
    t.notOk(members.voters.includes(old.node.id));
    t.equal(old.node.status().role, 'follower');
    const next = await cluster.until('another leads', () => {
      return [...cluster.members.values()].find(({ node }) => node.status().role === 'leader');
    });
    t.not(next.node.id, old.node.id);
    await next.node.propose(bytes('x'));
    t.same(next.machine.items, ['x']);
  },
);

t.test(
  'a new voter that is away is waited for as a learner, until the caller gives up',
  async (t) => {
    const cluster = new Cluster(['a', 'b', 'c'], null);
    t.teardown(() => cluster.stopAll());
    await cluster.startAll();
    const { node } = await cluster.untilLeader();
    const controller = new AbortController();
    const change = node.changeMembership([add('d')], { signal: controller.signal });
    await cluster.until('it is a learner', () => node.members().learners.includes('d'));
    await t.rejects(node.changeMembership([remove('b')]), { code: 'CHANGE_PENDING' });
    await node.propose(bytes('the cluster works meanwhile'));
    controller.abort();
    await t.rejects(change, { code: 'ABORTED' });
    t.same(node.members().voters, ['a', 'b', 'c']);
    await cluster.during(node.changeMembership([remove('d')]));
    t.same(node.members().learners, []);
  },
);

t.test('a learner has the log and no vote; it is promoted, and demoted', async (t) => {
  const cluster = new Cluster(['a'], null);
  t.teardown(() => cluster.stopAll());
  const { node } = await cluster.start('a');
  await cluster.untilLeader();
  await cluster.start('b', joining);
  await cluster.during(node.changeMembership([learn('b')]));
  await node.propose(bytes('x'));
  await cluster.until('it has x', () => cluster.get('b').machine.items.length === 1);
  t.equal(cluster.get('b').node.status().role, 'follower');
  cluster.network.isolate('b');
  await node.propose(bytes('y'));
  cluster.network.heal();
  t.same((await cluster.during(node.changeMembership([add('b')]))).voters, ['a', 'b']);
  const end = await cluster.during(node.changeMembership([learn('b')]));
  t.same(end.voters, ['a']);
  t.same(end.learners, ['b']);
});

t.test(
  'who does not lead, and what cannot be, is refused; a lost leader leaves it open',
  async (t) => {
    const cluster = new Cluster(['a', 'b', 'c'], null);
    t.teardown(() => cluster.stopAll());
    await cluster.startAll();
    const { node } = await cluster.untilLeader();
    const other = [...cluster.members.values()].find((member) => member.node !== node);
    await t.rejects(Promise.resolve(other?.node.changeMembership([add('d')])), {
      code: 'NOT_LEADER',
    });
    const all = ['a', 'b', 'c'].map(remove);
    await t.rejects(node.changeMembership(all), { code: 'INVALID_ARGUMENT' });
    const signal = AbortSignal.abort();
    await t.rejects(node.changeMembership([add('d')], { signal }), { code: 'ABORTED' });
    cluster.network.isolate(node.id);
    const change = node.changeMembership([learn('d')]);
    void change.catch(() => undefined);
    await cluster.until('it stands down', () => node.status().role !== 'leader');
    await t.rejects(change, { code: 'OUTCOME_UNKNOWN' });
    await node.close();
    await t.rejects(node.changeMembership([add('d')]), { code: 'CLOSED' });
  },
);
