import t from 'tap';
import { bytes, Cluster } from './cluster.ts';

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
  await cluster.until('all members have all', () =>
    [...cluster.members.values()].every(({ machine }) => machine.items.length === all.length),
  );
  await cluster.stopAll();
  await cluster.startAll();
  await cluster.untilLeader();
  await cluster.until('all members have all again', () =>
    [...cluster.members.values()].every(({ machine }) => machine.items.length === all.length),
  );
  for (const { machine } of cluster.members.values()) t.same(machine.items, all);
});
