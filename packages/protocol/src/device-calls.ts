import type { StorApi } from './api.ts';
import type { DeviceApi } from './device-api.ts';
import type { ApiCall } from './snapshot-calls.ts';

/** The methods about block devices and mounts of hosts. */
export function deviceCalls(call: ApiCall): Pick<StorApi, keyof DeviceApi> {
  return {
    attachDevice: call('attachDevice'),
    detachDevice: call('detachDevice'),
    mountVolume: call('mountVolume'),
    unmountVolume: call('unmountVolume'),
    growDevice: call('growDevice'),
    listDevices: call('listDevices'),
    checkHost: call('checkHost'),
  };
}
