export * from './host-volumes.ts';
