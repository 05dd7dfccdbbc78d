import { join } from 'node:path';
import type { HostAnswer, HostOrder } from '@stor/control-plane';
import {
  NbdAllocation,
  SystemHostVolumes,
  type DeviceProcesses,
  type HostDevice,
  type HostTools,
  type HostVolumes,
} from '@stor/host-attach';
import { openApiClient, StorError, type ApiClient } from '@stor/protocol';
import type { Clock, Files, Logger } from '@stor/runtime';
import type { AgentConfig } from '../config.ts';
import { hostTls } from './host-tls.ts';
import { orderHost } from './host-orders.ts';

/** What makes devices and mounts of the host that the agent runs on. */
export interface HostPlatform {
  processes: DeviceProcesses;
  tools: HostTools;
}

export interface AgentHostOptions extends HostPlatform {
  config: AgentConfig;
  /** the agent's data folder */
  dataDir: string;
  bootId: string;
  files: Files;
  clock: Clock;
  logger: Logger;
}

/**
 * Devices and mounts of this agent's host, and a client of the API by which they, and the front-ends above
 * them, ask the control plane, as any other client does.
 */
export class AgentHost {
  readonly api: ApiClient;
  readonly #volumes: SystemHostVolumes | null;
  /** why there are none */
  readonly #trouble: StorError | null;

  private constructor(
    api: ApiClient,
    volumes: SystemHostVolumes | null,
    trouble: StorError | null,
  ) {
    this.api = api;
    this.#volumes = volumes;
    this.#trouble = trouble;
  }

  /** Never fails: without devices the node is of use all the same. */
  static async open(options: AgentHostOptions): Promise<AgentHost> {
    const { config, dataDir, logger } = options;
    const { nodeId, listen } = config;
    const api = openApiClient({ endpoints: [`${withinHost(listen.host)}:${listen.api}`] });
    const folder = join(dataDir, 'host');
    try {
      const tls = hostTls(config, folder);
      const allocation = new NbdAllocation({ volumes: api, nodeId, tls });
      const means = config.deviceMeans ?? 'auto';
      const common = { ...options, folder, nodeId, tls, allocation, means };
      return new AgentHost(api, await SystemHostVolumes.open({ ...common, volumes: api }), null);
    } catch (thrown) {
      const error = StorError.from(thrown);
      logger.error({ error: error.message }, 'this host makes no devices');
      return new AgentHost(api, null, error);
    }
  }

  /** FAILED_PRECONDITION says why there are none. */
  get volumes(): HostVolumes {
    if (this.#volumes) return this.#volumes;
    const why = this.#trouble?.message ?? '';
    throw new StorError('FAILED_PRECONDITION', `this host makes no devices: ${why}`);
  }

  get devices(): readonly HostDevice[] {
    return this.#volumes?.list() ?? [];
  }

  /** See AgentPort.orderHost. */
  async order(order: HostOrder, signal: AbortSignal): Promise<HostAnswer> {
    return orderHost(this.volumes, order, signal);
  }

  /** Waits for orders that are under way; devices and mounts stay. Works twice. */
  async close(): Promise<void> {
    await this.#volumes?.close();
    await this.api.close();
  }
}

/** A host that listens on all its addresses reaches itself by loopback. */
export function withinHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}
