export * from './compliance-suite.ts';
export * from './memory-cluster.ts';
export { SocketRpcTransport, type SocketRpcOptions } from './socket-rpc.ts';
export * from './rpc-suite.ts';
