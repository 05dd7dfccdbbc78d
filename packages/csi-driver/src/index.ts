export type { CsiApi } from './csi-api.ts';
export { CsiDriver } from './csi-driver.ts';
export type { CsiDriverOptions, CsiEndpoints } from './csi-driver.ts';
export { loadCsiServices } from './csi-services.ts';
export type { Bind, BindOrder, HostBinds } from './host-binds.ts';
export { defaultDriverName, isDriverName } from './core/driver-info.ts';
export { SystemHostBinds } from './system-host-binds.ts';
export { KubernetesClient } from './node-loss/kubernetes-client.ts';
export { NodeLossWatch } from './node-loss/node-loss-watch.ts';
