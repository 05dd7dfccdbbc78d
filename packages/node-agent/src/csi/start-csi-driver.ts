import type { CsiEndpoints } from '@stor/csi-driver';
import type { HostVolumes } from '@stor/host-attach';
import { StorError, type ApiClient } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentConfig } from '../config.ts';
import { agentVersion } from '../version.ts';

/** What is open for orchestrators. */
export interface StartedCsi {
  /** Waits for calls that are under way. Works twice. */
  close(): Promise<void>;
}

export interface CsiDriverParts {
  config: AgentConfig;
  /** the host's; `volumes` throws when it can make no devices */
  host: { readonly api: ApiClient; readonly volumes: HostVolumes };
  clock: Clock;
  logger: Logger;
}

/**
 * The CSI driver of this agent; null: the configuration wants none. A host that can make no devices still serves
 * the cluster's side, when that has an endpoint of its own. IN_USE, FOREIGN_DATA (see CsiServer).
 */
export async function startCsiDriver(parts: CsiDriverParts): Promise<StartedCsi | null> {
  const { config, host, clock, logger } = parts;
  const { csi, nodeId, clusterId } = config;
  if (!csi) return null;
  const volumes = devicesOf(host, logger);
  const endpoints = endpointsOf(csi, volumes !== null);
  // an agent that is no driver does not load one
  const { CsiDriver, KubernetesClient, NodeLossWatch, SystemHostBinds, defaultDriverName } =
    await import('@stor/csi-driver');
  const { driverName = defaultDriverName, maxVolumesPerNode, trashKeepMs, nodeLoss } = csi;
  const common = { api: host.api, nodeId, driverName, clock, logger };
  const driver =
    endpoints &&
    (await CsiDriver.open({
      ...common,
      ...{ endpoints, clusterId, version: agentVersion, host: volumes },
      ...{ binds: new SystemHostBinds(), maxVolumesPerNode, trashKeepMs },
    }));
  const watch =
    nodeLoss &&
    new NodeLossWatch({
      ...common,
      kubernetes: new KubernetesClient(nodeLoss),
      waitMs: nodeLoss.waitMs,
    });
  watch?.start();
  return {
    close: async () => {
      await watch?.close();
      await driver?.close();
    },
  };
}

function devicesOf(host: CsiDriverParts['host'], logger: Logger): HostVolumes | null {
  try {
    return host.volumes;
  } catch (error) {
    const { message } = StorError.from(error);
    logger.error({ error: message }, 'CSI serves no volumes on this host');
    return null;
  }
}

/** Null: nothing is left to serve. */
function endpointsOf(
  { endpoint, controllerEndpoint, nodeEndpoint }: NonNullable<AgentConfig['csi']>,
  hasDevices: boolean,
): CsiEndpoints | null {
  if (hasDevices && endpoint !== undefined) return { endpoint };
  const sides = {
    ...(controllerEndpoint === undefined ? {} : { controllerEndpoint }),
    ...(hasDevices && nodeEndpoint !== undefined ? { nodeEndpoint } : {}),
  };
  return Object.keys(sides).length === 0 ? null : sides;
}
