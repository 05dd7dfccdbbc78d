/** Reports of replicas, written together. */
import { hasCode } from '@stor/protocol';
import t from 'tap';
import { ReplicaReports } from '../src/agent/replica-reports.ts';
import type { ClusterStore } from '../src/cluster-store.ts';
import { replicaReportKey } from '../src/resources/keys.ts';
import { decodeReplicaReport, encodeRecord } from '../src/resources/records.ts';
import type { ReplicaReport } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';

function reportOf(n: number, state: ReplicaReport['state']): ReplicaReport {
  const replicaId = `r-${n.toString(16).padStart(16, '0')}`;
  const volumeId = 'v-0000000000000001';
  return { replicaId, volumeId, nodeId: 'n-1', state, code: '', message: '' };
}

async function stateOf(store: ClusterStore, n: number): Promise<string | null> {
  const key = replicaReportKey(reportOf(n, 'ready').replicaId);
  const item = await store.get(key, { local: true });
  return item && decodeReplicaReport(item.key, item.value).state;
}

t.test('reports that come together are written together', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const store = rig.cluster.store(rig.node(0).id);
  let transactions = 0;
  const counted: Pick<ClusterStore, 'get' | 'transact'> = {
    get: (...args) => store.get(...args),
    transact: (...args) => {
      transactions += 1;
      return store.transact(...args);
    },
  };
  const reports = new ReplicaReports(counted);
  const all = Array.from({ length: 300 }, (_, n) => reports.write(reportOf(n, 'ready')));
  await rig.during(Promise.all(all));
  t.ok(transactions <= 4, `${transactions} transactions for 300 reports`);
  for (let n = 0; n < 300; n++) t.equal(await stateOf(store, n), 'ready');
});

t.test('of one replica they keep their order, and what is for good stays', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const store = rig.cluster.store(rig.node(0).id);
  const reports = new ReplicaReports(store);
  const states = ['ready', 'failed', 'ready', 'deleted', 'failed', 'ready'] as const;
  const seen: (string | null)[] = [];
  const all = states.map((state) =>
    reports.write(reportOf(1, state)).then(async () => seen.push(await stateOf(store, 1))),
  );
  const other = reports.write(reportOf(2, 'ready'));
  await rig.during(Promise.all([...all, other]));
  t.same(seen, ['ready', 'failed', 'failed', 'deleted', 'deleted', 'deleted']);
  t.equal(await stateOf(store, 2), 'ready');
});

t.test('one that somebody else changes stands for itself', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const store = rig.cluster.store(rig.node(0).id);
  const { replicaId, ...rest } = reportOf(1, 'failed');
  const rival = { replicaId, ...rest };
  let rivals = 0;
  const raced: Pick<ClusterStore, 'get' | 'transact'> = {
    get: (...args) => store.get(...args),
    transact: async (...args) => {
      const key = replicaReportKey(replicaId);
      if (args[0].operations.some((operation) => operation.key === key) && rivals < 2) {
        rivals += 1;
        // still one that may be followed by others
        const value = encodeRecord({ ...rival, state: 'ready', message: String(rivals) });
        await store.transact({ compare: [], operations: [{ type: 'put', key, value }] });
      }
      return store.transact(...args);
    },
  };
  const reports = new ReplicaReports(raced);
  const first = reports.write(reportOf(0, 'ready'));
  const outcomes = [1, 2, 3].map((n) =>
    reports.write(reportOf(n, 'failed')).then(
      () => 'written',
      (error: unknown) => (hasCode(error, 'CONFLICT') ? 'conflict' : String(error)),
    ),
  );
  await rig.during(first);
  t.same(await rig.during(Promise.all(outcomes)), ['conflict', 'written', 'written']);
  t.equal(await stateOf(store, 2), 'failed');
  await rig.during(reports.write(reportOf(1, 'failed')));
  t.equal(await stateOf(store, 1), 'failed');
});
