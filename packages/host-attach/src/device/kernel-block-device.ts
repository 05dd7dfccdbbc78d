import fs from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import { adoptSocket, openSocketPair } from '@stor/runtime';
import { KernelDisk } from '../core/kernel-disk.ts';
import type { BlockDevice } from './block-device.ts';
import type { DeviceFiles } from './device-files.ts';
import type { DeviceParts } from './device-parts.ts';
import {
  backendOf,
  disconnectKernelDevice,
  openKernelNbd,
  type KernelConnect,
  type KernelNbd,
} from './kernel-nbd.ts';
import { KernelNbdServer } from './kernel-nbd-server.ts';
import { readProcessRecord } from './process-record.ts';
import { within } from './within.ts';

/** The kernel keeps a queue for each, so that processors send beside each other; it has no more than those. */
const mostConnections = 4;
/** A request of the usual size is received into this, with others (bytes). */
const receiveBytes = 256 * 1024;
/** The kernel's largest request, with its header: 65,536 sectors (bytes). */
const maxReceiveBytes = 33 * 1024 * 1024;
/** An answer to a read of this size leaves in one piece (bytes). */
const sendBytes = 1024 * 1024;
/** Numbers of devices that are looked at for a free one. */
const mostDevices = 4_096;
/** After it nobody has the device open, or somebody keeps it so (ms). */
const detachWaitMs = 5_000;
const forcedWaitMs = 500;
/** The kernel closes its connections when it has let go (ms). */
const endTimeoutMs = 5_000;

/** An NBD device of the kernel, whose requests this process answers over pairs of sockets. */
export class KernelBlockDevice implements BlockDevice {
  readonly path: string;
  readonly #index: number;
  readonly #backend: string;
  readonly #kernel: KernelNbd;
  readonly #disk: KernelDisk;
  readonly #server: KernelNbdServer;

  private constructor(
    index: number,
    { files, volume, host }: DeviceParts,
    { kernel, disk, server }: { kernel: KernelNbd; disk: KernelDisk; server: KernelNbdServer },
  ) {
    this.path = kernel.path(index);
    this.#index = index;
    this.#backend = backendOf(files);
    this.#kernel = kernel;
    this.#disk = disk;
    this.#server = server;
    const onFailure = (): void => {
      // What it was asked must not take effect after what the next device of this volume writes.
      const ended = volume.close().then(async () => {
        // by now the number may be another program's, and the kernel does not ask whose a device is
        if (this.#isThere) await kernel.disconnect(index);
      });
      ended.catch((error: unknown) => {
        const { message } = StorError.from(error);
        host.logger.error({ error: message }, 'the kernel has not let go of the device');
      });
    };
    server.onFailure = onFailure;
    // it may have failed since it was connected
    if (server.failure !== null) onFailure();
  }

  /** FAILED_PRECONDITION: this host has no NBD, or an old one, or no device file. */
  static async open(parts: DeviceParts, signal: AbortSignal): Promise<KernelBlockDevice> {
    const { spec, files, volume, host } = parts;
    const kernel = await (host.openKernelNbd ?? openKernelNbd)(signal).catch(refuse);
    if (!kernel) {
      const text = 'this kernel has no NBD, or it may not be loaded: use fuse-loop';
      throw new StorError('FAILED_PRECONDITION', text);
    }
    const { clock, logger } = host;
    const disk = new KernelDisk(spec, volume.flags);
    const server = new KernelNbdServer({ disk, volume, clock, logger });
    const backend = backendOf(files);
    let index: number | null = null;
    try {
      index = await connectFree(kernel, server, files, {
        backend,
        sizeBytes: spec.sizeBytes,
        flags: disk.flags,
      });
      const why = unusable(kernel, index, backend);
      if (why !== null) throw new StorError('FAILED_PRECONDITION', why);
      return new KernelBlockDevice(index, parts, { kernel, disk, server });
    } catch (error) {
      if (index !== null) await kernel.disconnect(index);
      server.close();
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes;
  }

  get failure(): string | null {
    const { failure, wasLeft } = this.#server;
    if (failure !== null) return failure;
    if (!this.#isThere) return `${this.path} was taken away`;
    // it stays there while somebody has it open, and every request of it fails
    return wasLeft ? `${this.path} was disconnected` : null;
  }

  get #isThere(): boolean {
    return this.#kernel.devices().get(this.#index) === this.#backend;
  }

  /** The kernel may wait for all requests meanwhile, which are answered. */
  async grow(sizeBytes: number): Promise<void> {
    this.#disk.grow(sizeBytes);
    await this.#kernel.resize(this.#index, this.#backend, sizeBytes);
    const is = this.#kernel.sizeBytes(this.#index);
    if (is === sizeBytes) return;
    const text = `${this.path} has ${is} bytes after it was told to have ${sizeBytes}`;
    throw new StorError('INTERNAL', text);
  }

  detach({ force }: { force: boolean }): Promise<boolean> {
    const waitMs = force ? forcedWaitMs : detachWaitMs;
    return disconnectKernelDevice(this.#kernel, this.#index, this.#backend, waitMs);
  }

  async dismantle(): Promise<void> {
    await within(endTimeoutMs, this.#server.ended);
  }

  async end(): Promise<boolean> {
    this.#server.close();
    return within(endTimeoutMs, this.#server.ended);
  }
}

/**
 * Takes a device that is nobody's. Nor may it be one that another process of this folder has had and that was
 * not given up yet: whoever opens it by its name means that other volume.
 */
async function connectFree(
  kernel: KernelNbd,
  server: KernelNbdServer,
  files: DeviceFiles,
  settings: Omit<KernelConnect, 'index' | 'sockets'>,
): Promise<number> {
  const taken = takenPaths(files);
  const used = kernel.devices();
  const length = Math.min(mostConnections, Math.max(2, cpus().length));
  for (let index = 0; index < mostDevices; index += 1) {
    if (used.has(index) || taken.has(kernel.path(index))) continue;
    const pairs = Array.from({ length }, () => openSocketPair());
    const sockets = pairs.map(([ofKernel]) => ofKernel);
    const own = pairs.map(([, fd]) =>
      adoptSocket(fd, kernel.path(index), { receiveBytes, maxReceiveBytes, sendBytes }),
    );
    // the kernel may ask before it has answered
    for (const socket of own) server.serve(socket);
    if (await kernel.connect({ ...settings, index, sockets }).catch(refuse)) return index;
    server.drop(own);
  }
  throw new StorError('FAILED_PRECONDITION', `none of ${mostDevices} NBD devices is free`);
}

/** Whatever the kernel says, as that it is not permitted: another means may do. */
function refuse(cause: unknown): never {
  const error = StorError.from(cause);
  if (error.code !== 'INTERNAL') throw error;
  const text = `the kernel's NBD cannot be used (${error.message}): use fuse-loop`;
  throw new StorError('FAILED_PRECONDITION', text, { cause });
}

/** Of all processes of this folder, also of those that have died. */
function takenPaths({ dir, record: own }: DeviceFiles): Set<string> {
  const records = fs.readdirSync(dir).filter((name) => name.endsWith('.process.json'));
  const paths = records
    .map((name) => join(dir, name))
    .filter((file) => file !== own)
    .map((file) => readProcessRecord(file)?.path);
  return new Set(paths.filter((path) => path !== undefined));
}

/** Why a device that was just connected is of no use; null: it is fine. */
function unusable(kernel: KernelNbd, index: number, backend: string): string | null {
  if (kernel.devices().get(index) !== backend) {
    return 'this kernel does not say whose a device is: nbd-kernel needs Linux 5.14';
  }
  const path = kernel.path(index);
  if (fs.existsSync(path)) return null;
  return `there is no ${path}: give the agent's container the host's /dev, or use fuse-loop`;
}
