import t from 'tap';
import { clusterStoreComplianceSuite } from '../src/testing/index.ts';
import { EmbeddedCluster } from './embedded-cluster.ts';

clusterStoreComplianceSuite(t, {
  open: async (t) => {
    const cluster = await EmbeddedCluster.open(t);
    return [cluster.store('n1'), cluster.store('n2'), cluster.store('n3')];
  },
});
