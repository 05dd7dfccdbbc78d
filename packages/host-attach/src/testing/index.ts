export * from './device-processes-suite.ts';
export * from './fake-device-processes.ts';
