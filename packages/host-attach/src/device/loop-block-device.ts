import fs from 'node:fs';
import { StorError } from '@stor/protocol';
import { FuseDisk } from '../core/fuse-disk.ts';
import type { BlockDevice } from './block-device.ts';
import type { DeviceFiles } from './device-files.ts';
import { withoutLinks } from './device-leftovers.ts';
import type { DeviceParts } from './device-parts.ts';
import { FuseDevice } from './fuse-channel.ts';
import { mountFuse, removeMountPoint, unmountAll } from './fuse-mount.ts';
import { FuseServer } from './fuse-server.ts';
import {
  attachLoop,
  detachLoop,
  detachWaitMs,
  growLoop,
  isLoopOf,
  loopDevicesOf,
} from './loop-device.ts';
import { within } from './within.ts';

/** With force nobody waits for the users of the block device (ms). */
const forcedWaitMs = 500;
/** An unmounted file system ends the reads of its requests at once (ms). */
const endTimeoutMs = 5_000;

/** A loop device of a file that is served by FUSE. */
export class LoopBlockDevice implements BlockDevice {
  readonly path: string;
  readonly #files: DeviceFiles;
  readonly #disk: FuseDisk;
  readonly #fuse: FuseDevice;
  readonly #server: FuseServer;

  private constructor(
    path: string,
    files: DeviceFiles,
    { disk, fuse, server }: { disk: FuseDisk; fuse: FuseDevice; server: FuseServer },
  ) {
    this.path = path;
    this.#files = files;
    this.#disk = disk;
    this.#fuse = fuse;
    this.#server = server;
  }

  static async open(
    { spec, files, volume, host }: DeviceParts,
    signal: AbortSignal,
  ): Promise<LoopBlockDevice> {
    const { logger } = host;
    const { disk: diskFile, mountPoint } = withoutLinks(files);
    const disk = new FuseDisk(spec);
    const fuse = new FuseDevice();
    const server = new FuseServer({ channel: fuse, disk, volume, logger });
    try {
      await mountFuse(fuse.fd, { source: `stor-${spec.id}`, target: mountPoint }, signal);
      server.start();
      const { path, directIo } = await attachLoop(diskFile, spec, signal);
      if (!directIo) {
        logger.warn({ path }, 'without direct I/O: one request at a time, and slower');
      }
      return new LoopBlockDevice(path, files, { disk, fuse, server });
    } catch (error) {
      try {
        for (const made of loopDevicesOf(diskFile)) await detachLoop(made, diskFile);
        await unmountAll(mountPoint, { lazy: true });
        removeMountPoint(files.mountPoint);
      } catch (thrown) {
        const { message } = StorError.from(thrown);
        logger.error({ error: message }, 'something could not be taken away again');
      }
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes;
  }

  /** Its name may be another device's by now. */
  get failure(): string | null {
    return isLoopOf(this.path, withoutLinks(this.#files).disk)
      ? null
      : `${this.path} was taken away`;
  }

  async grow(sizeBytes: number): Promise<void> {
    this.#disk.grow(sizeBytes);
    // the kernel asks for the size, which older ones do not when the loop device is told
    await fs.promises.stat(this.#files.disk);
    await growLoop(this.path, sizeBytes);
  }

  detach({ force }: { force: boolean }): Promise<boolean> {
    const { disk } = withoutLinks(this.#files);
    return detachLoop(this.path, disk, force ? forcedWaitMs : detachWaitMs);
  }

  async dismantle({ force }: { force: boolean }): Promise<void> {
    await unmountAll(withoutLinks(this.#files).mountPoint, { lazy: force });
  }

  async end(isDetached: boolean): Promise<boolean> {
    // of a file system that a block device in use holds no read of a request ever ends
    const inOrder = isDetached && (await within(endTimeoutMs, this.#server.ended));
    if (inOrder) this.#fuse.close();
    removeMountPoint(this.#files.mountPoint);
    return inOrder;
  }
}
