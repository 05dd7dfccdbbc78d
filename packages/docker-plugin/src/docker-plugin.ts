import { mkdir, readFile, realpath, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { HostVolumes } from '@stor/host-attach';
import { StorError } from '@stor/protocol';
import type { Clock, Files, Logger } from '@stor/runtime';
import { parseVolumeOptions, type VolumeOptions } from './core/volume-options.ts';
import { DockerVolumes, type VolumeApi } from './docker-volumes.ts';
import { MountBook } from './mount-book.ts';
import { systemMountedFolders, type MountedFolders } from './mounted-folders.ts';
import { PluginCalls } from './plugin-calls.ts';
import { PluginServer } from './plugin-server.ts';

export interface DockerPluginOptions {
  /** absolute; `/run/docker/plugins/NAME.sock` makes NAME the driver's name */
  socket: string;
  /** where dockerd is told of a socket elsewhere: `/etc/docker/plugins/NAME.spec`; absent: nowhere */
  specFile?: string;
  /** as with `-o`, for what `-o` does not say when a volume is made */
  defaults?: Readonly<Record<string, string>>;
  /** folder of the plug-in: its table, and below `mounts/` the volumes */
  dir: string;
  /** changes with each boot of the host */
  bootId: string;
  api: VolumeApi;
  hosts: HostVolumes;
  files: Files;
  folders?: MountedFolders;
  clock: Clock;
  logger: Logger;
}

/** The Docker volume plug-in of one host: from the socket to the table of mounts. */
export class DockerPlugin {
  readonly #server: PluginServer;
  readonly #volumes: DockerVolumes;
  #closing: Promise<void> | null = null;

  private constructor(server: PluginServer, volumes: DockerVolumes) {
    this.#server = server;
    this.#volumes = volumes;
  }

  /**
   * Serves when it resolves. INVALID_ARGUMENT (options), FOREIGN_DATA (its folder), and what
   * `PluginServer.listen` says.
   */
  static async open(options: DockerPluginOptions): Promise<DockerPlugin> {
    const { socket, specFile, dir, bootId, files, clock, logger } = options;
    const { folders = systemMountedFolders } = options;
    const defaults = readDefaults(options.defaults ?? {});
    const book = MountBook.open({ files, dir, bootId });
    files.makeDirectory(path.join(dir, 'mounts'));
    // mounts are known by their real paths
    const mountDir = await realpath(path.join(dir, 'mounts'));
    const volumes = new DockerVolumes({ ...options, folders, book, mountDir, defaults });
    const calls = new PluginCalls({ volumes, clock, logger });
    await volumes.reconcile();
    try {
      // a spec file without a socket makes dockerd wait, a socket without it is not found
      if (specFile !== undefined) await writeSpec(specFile, socket);
      const server = await PluginServer.listen({ socket, calls, logger });
      logger.info({ socket }, 'Docker volume plug-in serves');
      return new DockerPlugin(server, volumes);
    } catch (error) {
      await volumes.close();
      throw error;
    }
  }

  /** Waits for calls that are under way; what is mounted stays so. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#server.close().then(() => this.#volumes.close());
    return this.#closing;
  }
}

/** INVALID_ARGUMENT */
export function readDefaults(defaults: Readonly<Record<string, string>>): VolumeOptions {
  const read = parseVolumeOptions(defaults);
  if (!read.from) return read;
  throw new StorError('INVALID_ARGUMENT', 'from is no default: say it for each volume');
}

/** It stays when the agent ends: dockerd then waits for the socket, and does not forget the plug-in. */
async function writeSpec(specFile: string, socket: string): Promise<void> {
  const text = `unix://${socket}\n`;
  const known = await readFile(specFile, 'utf8').catch(() => '');
  if (known === text) return;
  await mkdir(path.dirname(specFile), { recursive: true });
  await writeFile(specFile, text);
}
