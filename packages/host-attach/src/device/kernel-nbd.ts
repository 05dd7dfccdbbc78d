import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { NetlinkError, NetlinkNbd } from '@stor/runtime';
import type { DeviceFiles } from './device-files.ts';
import { runProgram } from './run-program.ts';

export interface KernelConnect {
  /** which of the kernel's devices */
  index: number;
  /** The kernel's ends of connections; they are the callee's from now on, whatever happens. */
  sockets: readonly number[];
  /** names the device process to the kernel, which keeps it */
  backend: string;
  sizeBytes: number;
  /** `transmissionFlag` bits */
  flags: number;
}

/** The NBD devices of a kernel. */
export interface KernelNbd {
  /** False: that device is somebody's already. Its size is right when it resolves. */
  connect(settings: KernelConnect): Promise<boolean>;
  /** Tells a device that is in use its new size. */
  resize(index: number, backend: string, sizeBytes: number): Promise<void>;
  /** What is not answered fails, and all that comes. One that is not connected is fine. */
  disconnect(index: number): Promise<void>;
  /** Devices that have a connection, or are in use still: number, and which process each was made by. */
  devices(): Map<number, string>;
  sizeBytes(index: number): number;
  path(index: number): string;
}

/** As of loop devices: a volume that has file systems of 512-byte sectors can be mounted by both means. */
const blockSizeBytes = 512;
/**
 * The device process answers within this, if only with an error: it gives up after 10 minutes without a
 * node, and fails as a whole before the kernel's time is over. So the kernel never sends a request twice.
 */
const requestTimeoutSeconds = 60 * 60;
/** When the process has died nobody ever connects again: there is nothing to wait for. */
const deadConnectionSeconds = 0;
/** As the kernel counts a device's size (bytes). */
const sizeUnitBytes = 512;
/** EBUSY (asm-generic/errno-base.h) */
const busy = 16;
/** The largest request (KiB): NBD has 128 otherwise, and each costs the same here. */
const requestKiB = 1024;

/** Which device process a kernel's device belongs to; the kernel keeps it (Linux 5.14 on). */
export function backendOf({ record }: DeviceFiles): string {
  return `stor:${record}`;
}

/** Null: this host has none. Loads the kernel's module if need be. */
export async function openKernelNbd(signal: AbortSignal): Promise<KernelNbd | null> {
  let link = await NetlinkNbd.open();
  if (!link) {
    try {
      // devices are made as they are needed
      await runProgram('modprobe', ['nbd', 'nbds_max=0'], { debianPackage: 'kmod', signal });
    } catch {
      return null;
    }
    link = await NetlinkNbd.open();
  }
  return link && new SystemKernelNbd(link);
}

/** That of this host. */
export class SystemKernelNbd implements KernelNbd {
  readonly #link: NetlinkNbd;

  constructor(link: NetlinkNbd) {
    this.#link = link;
  }

  async connect({ index, sockets, backend, sizeBytes, flags }: KernelConnect): Promise<boolean> {
    try {
      await this.#link.connect(index, {
        sizeBytes,
        blockSizeBytes,
        serverFlags: flags,
        sockets,
        timeoutSeconds: requestTimeoutSeconds,
        deadConnectionTimeoutSeconds: deadConnectionSeconds,
        backendIdentifier: backend,
      });
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === busy) return false;
      throw error;
    } finally {
      // the kernel has its own; and with these open it would not see that this process has died
      for (const fd of sockets) fs.closeSync(fd);
    }
    try {
      fs.writeFileSync(`/sys/block/nbd${index}/queue/max_sectors_kb`, `${requestKiB}`);
    } catch {
      // smaller requests do as well
    }
    return true;
  }

  async resize(index: number, backend: string, sizeBytes: number): Promise<void> {
    await this.#link.reconfigure(index, { sizeBytes, backendIdentifier: backend });
  }

  async disconnect(index: number): Promise<void> {
    await this.#link.disconnect(index);
  }

  devices(): Map<number, string> {
    return kernelDevices();
  }

  sizeBytes(index: number): number {
    return Number(attribute(index, 'size')) * sizeUnitBytes;
  }

  path(index: number): string {
    return `/dev/nbd${index}`;
  }
}

/** As `KernelNbd.devices`, also where netlink cannot be used. */
export function kernelDevices(): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of fs.existsSync('/sys/block') ? fs.readdirSync('/sys/block') : []) {
    if (!/^nbd\d+$/.test(name)) continue;
    const index = Number(name.slice('nbd'.length));
    // there while it is connected, and then until the last one closes it
    if (attribute(index, 'pid') !== null) found.set(index, attribute(index, 'backend') ?? '');
  }
  return found;
}

/** Null: there is no such attribute. */
function attribute(index: number, name: string): string | null {
  try {
    return fs.readFileSync(`/sys/block/nbd${index}/${name}`, 'utf8').trimEnd();
  } catch {
    return null;
  }
}

const goneLookMs = 20;

/** False: somebody has it open, and it goes away at the last close; its requests fail. */
export async function disconnectKernelDevice(
  kernel: KernelNbd,
  index: number,
  backend: string,
  waitMs: number,
): Promise<boolean> {
  const isThere = (): boolean => kernel.devices().get(index) === backend;
  if (!isThere()) return true;
  await kernel.disconnect(index);
  for (let waitedMs = 0; isThere(); waitedMs += goneLookMs) {
    if (waitedMs >= waitMs) return false;
    await delay(goneLookMs);
  }
  return true;
}
