export * from './agent-port.ts';
export * from './cluster-store.ts';
