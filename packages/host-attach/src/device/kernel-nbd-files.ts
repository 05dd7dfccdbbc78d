import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { NetlinkNbd } from '@stor/runtime';
import { runProgram } from './run-program.ts';
import type { DeviceFiles } from './device-files.ts';

/** As the kernel counts a device's size (bytes). */
const sizeUnitBytes = 512;
const goneLookMs = 20;

/** Which device process a kernel's device belongs to; the kernel keeps it (Linux 5.14 on). */
export function backendOf({ record }: DeviceFiles): string {
  return `stor:${record}`;
}

export const pathOf = (index: number): string => `/dev/nbd${index}`;

/** Null: there is no such attribute. */
function attribute(index: number, name: string): string | null {
  try {
    return fs.readFileSync(`/sys/block/nbd${index}/${name}`, 'utf8').trimEnd();
  } catch {
    return null;
  }
}

/** It is connected, and for this device process. */
export function isKernelDeviceOf(index: number, backend: string): boolean {
  return attribute(index, 'backend') === backend && attribute(index, 'pid') !== null;
}

export function kernelSizeBytes(index: number): number {
  return Number(attribute(index, 'size')) * sizeUnitBytes;
}

/** Of all devices of this kernel those of a device process, also when it has ended. */
export function kernelDevicesOf(backend: string): number[] {
  return fs
    .readdirSync('/sys/block')
    .filter((name) => /^nbd\d+$/.test(name))
    .map((name) => Number(name.slice('nbd'.length)))
    .filter((index) => isKernelDeviceOf(index, backend));
}

/** Loads the kernel's module if need be. Null: this host has none. */
export async function openKernelNbd(signal: AbortSignal): Promise<NetlinkNbd | null> {
  const link = NetlinkNbd.open();
  if (link) return link;
  try {
    // devices are made as they are needed
    await runProgram('modprobe', ['nbd', 'nbds_max=0'], { debianPackage: 'kmod', signal });
  } catch {
    return null;
  }
  return NetlinkNbd.open();
}

/** False: somebody has it open, and the kernel still ends its connection. */
export async function disconnectKernelDevice(
  link: NetlinkNbd,
  index: number,
  backend: string,
  waitMs: number,
): Promise<boolean> {
  if (!isKernelDeviceOf(index, backend)) return true;
  link.disconnect(index);
  for (let waitedMs = 0; isKernelDeviceOf(index, backend); waitedMs += goneLookMs) {
    if (waitedMs >= waitMs) return false;
    await delay(goneLookMs);
  }
  return true;
}
