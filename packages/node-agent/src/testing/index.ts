export * from './memory-block-device.ts';
