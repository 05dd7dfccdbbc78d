export * from './compliance-suite.ts';
export * from './memory-cluster.ts';
export { SocketRpcTransport, type SocketRpcOptions } from './socket-rpc.ts';
export * from './rpc-suite.ts';
// for who puts a member back to what a backup holds
export { encodeSnapshot } from '../core/kv/kv-snapshot.ts';
// the model of the Raft log, for those who know nothing of raft-ts
export { MemoryKeyValueDisk } from 'raft-ts/testing';
export * from './etcd-servers.ts';
export * from './certificates.ts';
