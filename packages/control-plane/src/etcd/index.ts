export { EtcdClusterStore } from './etcd-cluster-store.ts';
export type { EtcdStoreOptions } from './etcd-cluster-store.ts';
export { openEtcdKeys } from './open-etcd.ts';
export type { EtcdFiles } from './open-etcd.ts';
export { parseEtcdAddress } from '../core/etcd/etcd-address.ts';
export type { EtcdPin } from './etcd-history.ts';
export type { SeenEtcd } from '../core/etcd/judge-history.ts';
