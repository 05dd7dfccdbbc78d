import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import t from 'tap';
import { EtcdClusterStore } from '../src/etcd/index.ts';
import {
  clusterStoreComplianceSuite,
  EtcdServers,
  needsEtcd,
  type ComplianceTarget,
} from '../src/testing/index.ts';
import { etcdLimits } from '../src/core/etcd/etcd-values.ts';
import { until } from './embedded-cluster.ts';

if (needsEtcd(t)) {
  // one etcd for all: each test has a prefix of its own, as clusters that share an etcd have
  const servers = await EtcdServers.start(t);
  let clusters = 0;
  const open: ComplianceTarget['open'] = async (t) => {
    const address = servers.address(`cluster-${++clusters}`);
    const members = ['n1', 'n2', 'n3'].map((id) =>
      EtcdClusterStore.open({
        id,
        address,
        clock: systemClock,
        random: systemRandom,
        logger: silentLogger,
      }),
    );
    const [one, two, three] = await Promise.all(members);
    const stores = [one, two, three] as [EtcdClusterStore, EtcdClusterStore, EtcdClusterStore];
    t.teardown(() => Promise.all(stores.map((store) => store.close())));
    await until(() => {
      const leaders = new Set(stores.map((store) => store.status().leaderId));
      return leaders.size === 1 && !leaders.has(null);
    });
    return stores;
  };
  clusterStoreComplianceSuite(t, {
    open,
    maxTransactionItems: etcdLimits.maxTransactionItems,
    forget: () => servers.compact(),
  });
}
