export * from './agent-port.ts';
export * from './cluster-store.ts';
export * from './control-plane.ts';
export type { NodeIdentity } from './agent/node-session.ts';
export type { SnapshotExport } from './core/volume/export-snapshot.ts';
export * from './embedded/index.ts';
export * from './etcd/index.ts';
export * from './rpc/grpc-transport.ts';
export * from './rpc/rpc-transport.ts';
