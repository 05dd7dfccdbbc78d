import { isAbsolute, join } from 'node:path';
import type { AgentDisk, DiskOrder } from '@stor/control-plane';
import { StorError, makeId, reserveBytes, type DiskId } from '@stor/protocol';
import { removeDiskFiles } from '@stor/replicator';
import type { Files, Logger, Random } from '@stor/runtime';
import { judgeDevice, judgeFileSystem } from './core/devices/judge-device.ts';
import { pooledCallsPerDisk } from './core/lanes/pooled-calls.ts';
import type { DataFolder, DiskEntry } from './data-folder.ts';
import type { BlockDevices } from './devices/block-devices.ts';
import type { LaneDisk } from './lane/lane-protocol.ts';
import type { NodeLanes } from './node-lanes.ts';

export interface NodeDisksOptions {
  lanes: Pick<NodeLanes, 'openDisk' | 'closeDisk'>;
  folder: DataFolder;
  files: Files;
  /** null: there are only directories, of which nothing is known */
  devices: BlockDevices | null;
  random: Random;
  logger: Logger;
  /** make a disk in the data folder when the node has never had one */
  autoDisk: boolean;
  /** of the process's thread pool, which disks share; null: not known */
  poolThreads?: number | null;
}

/**
 * The disks of this node: directories, and block devices that are formatted with XFS and mounted in
 * the data folder, from where on they are directories too.
 */
export class NodeDisks {
  readonly #options: NodeDisksOptions;

  constructor(options: NodeDisksOptions) {
    this.#options = options;
  }

  /**
   * Opens what the data folder names. A node that has never had a disk gets the first one in there,
   * unless it is to have none; one whose last disk was removed stays without.
   */
  async open(): Promise<void> {
    const { lanes, folder, random, autoDisk } = this.#options;
    await this.#dropStrayMounts();
    for (const entry of folder.disks()) {
      const unavailable = await this.#mount(entry);
      const disk = this.#laneDisk(entry, false);
      await lanes.openDisk(unavailable === null ? disk : { ...disk, unavailable });
    }
    if (!autoDisk || folder.hasHadDisks) return;
    // the disk store makes its directory, and makes it durable with those above it
    const diskId = makeId('d', random.bytes(8));
    await this.#create({ diskId, path: join(folder.path, 'disks', 'd1'), tag: '' });
  }

  /** See AgentPort.addDisk. */
  async add(order: DiskOrder): Promise<AgentDisk> {
    const { folder, devices, random } = this.#options;
    const { path, tag, labels, reserve } = order;
    if (!isAbsolute(path)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `disk path ${JSON.stringify(path)} is not absolute: give the full path of a directory or device on the node`,
      );
    }
    // a wrong reserve is refused before anything is made; its share of the disk is known later
    reserveBytes(reserve, Number.MAX_SAFE_INTEGER);
    const isKnown = folder.disks().some((disk) => disk.path === path || disk.device?.path === path);
    if (isKnown) throw new StorError('ALREADY_EXISTS', `the node already has a disk at ${path}`);
    const entry: DiskEntry = {
      diskId: makeId('d', random.bytes(8)),
      path,
      tag,
      ...(Object.keys(labels).length > 0 ? { labels } : {}),
      ...(reserve === '' ? {} : { reserve }),
    };
    const kind = devices ? await devices.kindOf(path) : 'directory';
    if (kind === 'other') {
      throw new StorError(
        'INVALID_ARGUMENT',
        `${path} is neither a directory nor a block device: give an empty directory, or a device such as /dev/sdb`,
      );
    }
    if (devices && kind === 'block-device') return this.#addDevice(entry, order, devices);
    if (order.forceFormat) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `${path} is a directory: --force-format is for block devices; give an empty directory`,
      );
    }
    const note = devices ? judgeFileSystem(path, await devices.fileSystemOf(path)) : '';
    if (note !== '') this.#options.logger.warn({ path, note }, 'disk on an untested file system');
    return this.#create(note === '' ? entry : { ...entry, note });
  }

  /**
   * See AgentPort.removeDisk. It is forgotten first: what a crash leaves of it later is a mount that
   * the next start ends, or files of an empty disk.
   */
  async remove(diskId: DiskId, lost: boolean): Promise<void> {
    const { lanes, folder, files, devices, logger } = this.#options;
    const entry = folder.disks().find((disk) => disk.diskId === diskId);
    if (!entry) return;
    await lanes.closeDisk(diskId, lost);
    folder.removeDisk(diskId);
    try {
      // so that the directory can be given again; what a lost disk holds is left alone
      if (!lost) removeDiskFiles(files, entry.path);
      if (entry.device && devices) await devices.unmount(entry.path, { lazy: lost });
    } catch (error) {
      const { message } = StorError.from(error);
      logger.warn({ diskId, path: entry.path, error: message }, 'a removed disk left something');
    }
  }

  /** The disk is made first and noted after: a crash between leaves an empty disk, which a retry takes. */
  async #create(entry: DiskEntry): Promise<AgentDisk> {
    const { lanes, folder } = this.#options;
    const disk = await lanes.openDisk(this.#laneDisk(entry, true));
    folder.addDisk({ ...entry, diskId: disk.diskId });
    return disk;
  }

  #laneDisk(entry: DiskEntry, create: boolean): LaneDisk {
    const { folder, poolThreads = null } = this.#options;
    const { device, ...rest } = entry;
    const disks = folder.disks().length + (create ? 1 : 0);
    return {
      ...rest,
      ...(device === undefined ? {} : { device: device.path }),
      ...(poolThreads === null ? {} : { pooledCalls: pooledCallsPerDisk(poolThreads, disks) }),
      create,
    };
  }

  async #addDevice(
    entry: DiskEntry,
    { forceFormat }: DiskOrder,
    devices: BlockDevices,
  ): Promise<AgentDisk> {
    const { folder, random, logger } = this.#options;
    const findings = await devices.inspect(entry.path);
    const device = findings.path;
    if (folder.disks().some((disk) => disk.device?.path === device)) {
      throw new StorError('ALREADY_EXISTS', `the node already has a disk at ${device}`);
    }
    judgeDevice(findings, forceFormat);
    const fileSystemUuid = uuidOf(random.bytes(16));
    const path = join(folder.path, 'disks', entry.diskId);
    logger.warn({ device, fileSystemUuid, forceFormat }, 'formatting a device with XFS');
    await devices.format(device, { fileSystemUuid, force: forceFormat });
    await devices.mount(fileSystemUuid, path);
    try {
      return await this.#create({ ...entry, path, device: { path: device, fileSystemUuid } });
    } catch (error) {
      await devices.unmount(path, { lazy: false }).catch(() => {});
      throw error;
    }
  }

  /** Why the disk's device cannot be mounted; null when it is, or needs none. */
  async #mount({ diskId, path, device }: DiskEntry): Promise<string | null> {
    const { devices, logger } = this.#options;
    if (!device) return null;
    try {
      if (!devices) throw new StorError('FAILED_PRECONDITION', 'this agent mounts no devices');
      await devices.mount(device.fileSystemUuid, path);
      return null;
    } catch (error) {
      const { message } = StorError.from(error);
      logger.error({ diskId, device: device.path, error: message }, 'disk not mounted');
      return `its device ${device.path} is not there or cannot be mounted: ${message}`;
    }
  }

  /** Mounts of disks that this node does not have (any more): an order was cut off in the middle. */
  async #dropStrayMounts(): Promise<void> {
    const { devices, folder, logger } = this.#options;
    if (!devices) return;
    const known = new Set(folder.disks().map(({ path }) => path));
    const below = join(folder.path, 'disks');
    const found = await devices.mountsBelow(below).catch(() => []);
    for (const path of found) {
      if (known.has(path)) continue;
      logger.warn({ path }, 'unmounting what is no disk of this node');
      await devices.unmount(path, { lazy: false }).catch((error: unknown) => {
        logger.warn({ path, error: StorError.from(error).message }, 'it stays mounted');
      });
    }
  }
}

/** A random UUID (RFC 9562, version 4) of these 16 bytes. */
function uuidOf(bytes: Uint8Array): string {
  const own = Buffer.from(bytes);
  own[6] = ((own[6] ?? 0) & 0x0f) | 0x40;
  own[8] = ((own[8] ?? 0) & 0x3f) | 0x80;
  const hex = own.toString('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-');
}
