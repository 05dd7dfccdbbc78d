export { EmbeddedClusterStore, type EmbeddedStoreOptions } from './embedded-cluster-store.ts';
