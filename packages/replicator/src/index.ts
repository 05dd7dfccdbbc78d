export * from './block-device.ts';
export * from './replica-store.ts';
export * from './replicator-ports.ts';
export * from './store/open-disk-store.ts';
