import { csiError } from '../core/csi-error.ts';
import { pluginCapabilities } from '../core/driver-info.ts';

export interface Identity {
  driverName: string;
  version: string;
  /** Whether calls can be answered now: '' or what is missing. */
  problem: (signal: AbortSignal) => Promise<string>;
}

/** Who the driver is; see csi.proto. */
export class IdentityService {
  readonly #identity: Identity;

  constructor(identity: Identity) {
    this.#identity = identity;
  }

  async getPluginInfo(): Promise<object> {
    const { driverName, version } = this.#identity;
    return { name: driverName, vendorVersion: version, manifest: {} };
  }

  async getPluginCapabilities(): Promise<object> {
    return { capabilities: [...pluginCapabilities] };
  }

  /** FAILED_PRECONDITION: whoever looks after the driver may start it anew. */
  async probe(_request: object, signal: AbortSignal): Promise<object> {
    const problem = await this.#identity.problem(signal);
    if (problem !== '') throw csiError('FAILED_PRECONDITION', problem);
    return { ready: { value: true } };
  }
}
