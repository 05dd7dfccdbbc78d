export * from './memory-block-device.ts';
export * from './lane-in-thread.ts';
export * from './fake-block-devices.ts';
