export { EmbeddedClusterStore } from './embedded-cluster-store.ts';
export type { EmbeddedStoreOptions } from './open-node.ts';
export * from './raft-logs.ts';
export * from './make-anew.ts';
export * from './make-first.ts';
export { claimFolder } from './store-identity.ts';
export * from './backup-file.ts';
