export { EtcdClusterStore } from './etcd-cluster-store.ts';
export type { EtcdStoreOptions, EtcdTls } from './etcd-cluster-store.ts';
export { parseEtcdAddress } from '../core/etcd/etcd-address.ts';
