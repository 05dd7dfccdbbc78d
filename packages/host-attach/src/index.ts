export type * from './device/device-processes.ts';
export * from './device/system-device-processes.ts';
export type { HostTls } from './export-addresses.ts';
export type { AllocationProbe, HostTools, MountPlace } from './host-tools.ts';
export * from './host-volumes.ts';
export { NbdAllocation } from './nbd-allocation.ts';
export { SystemHostVolumes, type SystemHostVolumesOptions } from './system-host-volumes.ts';
export { systemHostTools } from './tools/system-host-tools.ts';
export type * from './volume-port.ts';
