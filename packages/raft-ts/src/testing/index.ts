export { ManualClock } from './manual-clock.ts';
export { MemoryNetwork } from './memory-network.ts';
export { storageSuite, type StorageTest, type StorageUnderTest } from './storage-suite.ts';
export { seededRandom } from './seeded-random.ts';
export * from './key-value-log-suite.ts';
export * from './memory-key-value-disk.ts';
export * from './linearizability.ts';
