export * from './memory-cluster.ts';
