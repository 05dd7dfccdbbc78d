import fs from 'node:fs';
import { NetlinkNbd } from '@stor/runtime';
import type { DeviceFiles } from './device-files.ts';
import { removeMountPoint, unmountAll } from './fuse-mount.ts';
import { backendOf, kernelDevicesOf } from './kernel-nbd-files.ts';
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
  const ofKernel = kernelDevicesOf(backendOf(files));
  const link = ofKernel.length > 0 ? NetlinkNbd.open() : null;
  for (const index of ofKernel) link?.disconnect(index);
  link?.close();
  await unmountAll(mountPoint, { lazy: true });
  for (const file of [files.controlSocket, files.record, `${files.record}.new`, files.spec]) {
    fs.rmSync(file, { force: true });
  }
  removeMountPoint(files.mountPoint);
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
