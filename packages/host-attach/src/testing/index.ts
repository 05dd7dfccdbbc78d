export * from './device-processes-suite.ts';
export * from './fake-device-processes.ts';
export * from './fake-host-tools.ts';
export * from './fake-host-volumes.ts';
export * from './host-volumes-suite.ts';
export * from './memory-volumes.ts';
