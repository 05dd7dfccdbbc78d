export * from './fake-clock.ts';
export * from './seeded-random.ts';
export * from './faulty-file.ts';
export * from './faulty-files.ts';
export * from './reserve-ports.ts';
export * from './memory-network.ts';
export * from './paced-clock.ts';
export * from './test-certificates.ts';
