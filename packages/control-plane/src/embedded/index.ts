export { EmbeddedClusterStore } from './embedded-cluster-store.ts';
export type { EmbeddedStoreOptions } from './open-node.ts';
export * from './raft-logs.ts';
