import fs from 'node:fs';
import type { DeviceFiles } from './device-files.ts';
import { removeMountPoint, unmountAll } from './fuse-mount.ts';
import { backendOf, kernelDevices, openKernelNbd } from './kernel-nbd.ts';
import { isLoopOf, loopDevicesOf } from './loop-device.ts';
import { readProcessRecord } from './process-record.ts';
import { runProgram } from './run-program.ts';

/**
 * Takes away what a device process that has ended left behind; its log stays. A loop device that is
 * mounted still goes away when it is unmounted: its requests fail since its process is gone.
 */
export async function clearLeftovers(files: DeviceFiles): Promise<void> {
  const { disk, mountPoint } = withoutLinks(files);
  const recorded = readProcessRecord(files.record)?.path;
  const paths = new Set(loopDevicesOf(disk));
  if (recorded !== undefined && isLoopOf(recorded, disk)) paths.add(recorded);
  for (const path of paths) {
    await runProgram('losetup', ['--detach', path], { debianPackage: 'mount' });
  }
  await failKernelDevice(files);
  await unmountAll(mountPoint, { lazy: true });
  for (const file of [files.controlSocket, files.record, `${files.record}.new`, files.spec]) {
    fs.rmSync(file, { force: true });
  }
  removeMountPoint(files.mountPoint);
}

/**
 * Nobody answers the kernel's NBD device of a process that has ended: its requests fail then, as all that
 * come. Its name stays its own while somebody has it open, and as long as the process's record is there.
 */
export async function failKernelDevice(files: DeviceFiles): Promise<void> {
  const backend = backendOf(files);
  const own = [...kernelDevices()].filter(([, made]) => made === backend);
  if (own.length === 0) return;
  const kernel = await openKernelNbd(new AbortController().signal);
  for (const [index] of own) await kernel?.disconnect(index);
}

/** As the kernel writes the paths. */
export function withoutLinks(files: DeviceFiles): { disk: string; mountPoint: string } {
  let { dir } = files;
  try {
    dir = fs.realpathSync(files.dir);
  } catch {
    // it is not there: nothing is below it
  }
  const below = (path: string): string => `${dir}${path.slice(files.dir.length)}`;
  return { disk: below(files.disk), mountPoint: below(files.mountPoint) };
}
