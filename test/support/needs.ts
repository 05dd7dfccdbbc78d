import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';

/** True when a program is on the PATH. */
export function hasProgram(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * Whether the test can go on. A missing program skips the test and says which Debian package has
 * it; with CI=true it is a failure, as CI installs them all.
 */
export function needs(t: Test, program: string, debianPackage: string): boolean {
  if (hasProgram(program)) return true;
  const message = `${program} is missing: apt-get install ${debianPackage}`;
  if (process.env['CI'] === 'true') t.fail(message);
  else t.plan(0, message);
  return false;
}

/** As `needs`, for the right to make and mount block devices. */
export function needsRoot(t: Test): boolean {
  if (process.getuid?.() === 0) return true;
  const message = 'block devices can be made and mounted by root only';
  if (process.env['CI'] === 'true') t.fail(message);
  else t.plan(0, message);
  return false;
}

/** Whether loop devices can be made, formatted with XFS and mounted here. */
export function needsLoopDevices(t: Test): boolean {
  return (
    needsRoot(t) &&
    needs(t, 'losetup', 'mount') &&
    needs(t, 'wipefs', 'util-linux') &&
    needs(t, 'mkfs.xfs', 'xfsprogs')
  );
}

/** Whether volumes can be block devices here, by FUSE and loop devices, with ext4 on them. */
export function needsFuseDevices(t: Test): boolean {
  const programs =
    needsRoot(t) &&
    needs(t, 'losetup', 'mount') &&
    needs(t, 'mkfs.ext4', 'e2fsprogs') &&
    needs(t, 'resize2fs', 'e2fsprogs');
  if (!programs) return false;
  const missing = ['/dev/fuse', '/dev/loop-control'].find((file) => !existsSync(file));
  if (missing === undefined) return true;
  // not a package: some hosts have no such module
  t.plan(0, `SKIPPED: this host has no ${missing}`);
  return false;
}
