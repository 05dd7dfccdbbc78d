export * from './clock.ts';
export * from './crc32.ts';
export * from './logger.ts';
export * from './metrics.ts';
export * from './random.ts';
export * from './sockets.ts';
export * from './yaml.ts';
