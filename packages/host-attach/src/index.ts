export type * from './device/device-processes.ts';
export * from './device/system-device-processes.ts';
export * from './host-volumes.ts';
