import t from 'tap';
import { chooseMembers } from '../src/core/store-move/choose-members.ts';
import type { KeyValue } from '../src/cluster-store.ts';

const item = (key: string, value: object, leaseId = ''): KeyValue => ({
  key,
  value: new TextEncoder().encode(JSON.stringify(value)),
  createRevision: 1,
  modRevision: 1,
  leaseId,
});
const addressesOf = (id: string): object => ({
  api: `${id}:10`,
  http: '',
  peers: [],
  nbd: [],
  nbdUnix: [],
});
const node = (id: string, more: object = {}): KeyValue =>
  item(`/stor/nodes/${id}`, {
    id,
    name: id,
    labels: {},
    createdAtMs: 1,
    addresses: addressesOf(id),
    agentInstance: 'a',
    bootId: 'b',
    version: '1',
    ...more,
  });
const up = (id: string): KeyValue =>
  item(
    `/stor/node-leases/${id}`,
    { agentInstance: 'a', bootId: 'b', addresses: addressesOf(id) },
    'l',
  );
const member = (id: string, more: object): KeyValue =>
  item(`/stor/members/${id}`, { id, name: id, address: '', addedAtMs: 1, ...more });

function choose(items: KeyValue[]): { voters: string[]; learners: string[] } {
  const { voters, learners } = chooseMembers({ revision: 9, items });
  return { voters: voters.map(({ id }) => id), learners: learners.map(({ id }) => id) };
}

t.test('the members of an embedded store that a cluster moves to', async (t) => {
  const three = ['n1', 'n2', 'n3'];
  const four = [...three, 'n4'];
  const nodes = four.map((id) => node(id));
  t.same(choose([...nodes, ...four.map(up)]), { voters: three, learners: ['n4'] });
  t.same(choose([node('n1'), node('n2'), up('n1'), up('n2')]).voters, ['n1'], 'an odd number');
  t.same(
    choose([...three.map((id) => node(id)), up('n2'), up('n3')]).voters,
    three,
    'one that is down votes when a majority is up without it',
  );
  t.same(choose([...nodes, up('n3')]).voters, ['n3'], 'and not when none is');
  t.same(
    choose([...nodes, ...four.map(up), member('n1', { voter: 'never' })]).voters,
    ['n2', 'n3', 'n4'],
    'who was demoted stays so',
  );
  t.same(
    choose([...nodes, ...four.map(up), member('n4', { voter: 'wanted' })]).voters,
    ['n1', 'n2', 'n4'],
    'who was promoted, too',
  );
  t.same(
    choose([...nodes, ...four.map(up), member('n2', { removedAtMs: 5 })]),
    { voters: ['n1', 'n3', 'n4'], learners: [] },
    'who has left is no member',
  );
  t.same(
    choose([
      node('n1', { labels: { zone: 'a' } }),
      node('n2', { labels: { zone: 'a' } }),
      node('n3', { labels: { zone: 'a' } }),
      node('n4', { labels: { zone: 'b' } }),
      ...four.map(up),
    ]).voters,
    ['n1', 'n2', 'n4'],
    'in different zones',
  );
  const many = Array.from({ length: 64 }, (_, i) => `m${i}`);
  t.throws(() => choose(many.flatMap((id) => [node(id), up(id)])), {
    code: 'FAILED_PRECONDITION',
    message: /64 nodes, and the embedded store takes 63/,
  });
  t.throws(() => choose([node('n1')]), { message: /0 of 1 are up/ });
  t.throws(() => choose([node('n1'), up('n1'), item('/stor/nodes/n2', {})]), {
    message: /node/,
  });
});
