import { hasCode } from '@stor/protocol';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import {
  MemoryCluster,
  MemoryClusterStore,
  clusterStoreComplianceSuite,
} from '../src/testing/index.ts';

clusterStoreComplianceSuite(t, {
  open: async (t) => {
    const cluster = new MemoryCluster({ ids: ['n1', 'n2', 'n3'] });
    t.teardown(() => {
      cluster.close();
    });
    return [cluster.store('n1'), cluster.store('n2'), cluster.store('n3')];
  },
});

t.test('leases run by the clock that is given', async (t) => {
  const clock = new FakeClock();
  const store = MemoryClusterStore.open({ clock, random: new SeededRandom(1) });
  const { leaseId } = await store.grantLease(1_000);
  const value = new Uint8Array([1]);
  await store.transact({ compare: [], operations: [{ type: 'put', key: 'a', value, leaseId }] });
  clock.advance(900);
  await store.renewLease(leaseId);
  clock.advance(900);
  t.ok(await store.get('a'));
  clock.advance(200);
  t.equal(await store.get('a'), null);
  await store.close();
});

t.test('without a leader calls fail; a new leader gives leases their full time', async (t) => {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['n1', 'n2'], clock, random: new SeededRandom(2) });
  const [one, two] = [cluster.store('n1'), cluster.store('n2')];
  const { leaseId } = await one.grantLease(1_000);
  const seen: string[] = [];
  one.onLeadership((isLeader) => seen.push(`n1 ${isLeader}`));
  two.onLeadership((isLeader) => seen.push(`n2 ${isLeader}`));
  cluster.setLeader(null);
  const error: unknown = await two.get('a').catch((reason: unknown) => reason);
  t.ok(hasCode(error, 'UNAVAILABLE'));
  t.equal(await two.get('a', { local: true }), null);
  clock.advance(5_000);
  cluster.setLeader('n2');
  t.same(seen, ['n1 false', 'n2 true']);
  clock.advance(900);
  await one.renewLease(leaseId);
  clock.advance(1_200);
  await t.rejects(one.renewLease(leaseId), { code: 'NOT_FOUND' });
  await two.close();
  t.equal(one.status().isLeader, true, 'the next open member leads');
  await one.close();
});
