export * from './fake-control.ts';
export * from './fault-scenario.ts';
export * from './live-changes.ts';
export * from './memory-replica-store.ts';
export * from './register-history.ts';
export * from './sim-clock.ts';
export * from './sim-cluster.ts';
export * from './sim-network.ts';
