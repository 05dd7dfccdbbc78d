export * from './compliance-suite.ts';
export * from './memory-cluster.ts';
