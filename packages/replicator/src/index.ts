export * from './block-device.ts';
export * from './primary/primary-volume.ts';
export * from './replica-snapshots.ts';
export * from './replica-store.ts';
export * from './replication/lane-replicator.ts';
export * from './replicator-ports.ts';
export * from './store/open-disk-store.ts';
export * from './store/remove-disk-files.ts';
