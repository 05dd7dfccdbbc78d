import { join } from 'node:path';
import { DockerPlugin, type VolumeApi } from '@stor/docker-plugin';
import type { HostVolumes } from '@stor/host-attach';
import type { Logger } from '@stor/runtime';
import type { Platform } from '../platform.ts';
import { dockerSocket, type DockerConfig } from './docker-config.ts';

/** Serves the host's Docker Engine; what is mounted outlives the plug-in. */
export function startDockerPlugin(options: {
  docker: DockerConfig;
  /** of the node */
  dataDir: string;
  platform: Pick<Platform, 'files' | 'clock' | 'bootId'>;
  api: VolumeApi;
  hosts: HostVolumes;
  logger: Logger;
}): Promise<DockerPlugin> {
  const { docker, dataDir, platform, api, hosts, logger } = options;
  const { specFile, defaults } = docker;
  return DockerPlugin.open({
    socket: dockerSocket(docker),
    ...(specFile === undefined ? {} : { specFile }),
    ...(defaults === undefined ? {} : { defaults }),
    dir: join(dataDir, 'docker'),
    bootId: platform.bootId(),
    files: platform.files,
    clock: platform.clock,
    api,
    hosts,
    logger: logger.child({ part: 'docker' }),
  });
}
