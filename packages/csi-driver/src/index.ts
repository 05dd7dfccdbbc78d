export type { CsiApi } from './csi-api.ts';
export { CsiDriver } from './csi-driver.ts';
export type { CsiDriverOptions, CsiEndpoints } from './csi-driver.ts';
export { loadCsiServices } from './csi-services.ts';
export type { Bind, BindOrder, HostBinds } from './host-binds.ts';
export { defaultDriverName, isDriverName } from './core/driver-info.ts';
export { SystemHostBinds } from './system-host-binds.ts';
