import fs from 'node:fs';
import { StorError } from '@stor/protocol';
import { maxTransferBytes } from '../core/fuse-disk.ts';
import { mountTable } from './mount-table.ts';
import { runProgram } from './run-program.ts';

const debianPackage = 'mount';
/** Nobody mounts more than one thing over another here; what does not go away ends the try. */
const mostUnmounts = 8;

/**
 * Mounts an open /dev/fuse. `mount` and not fusermount3: root needs no program that is setuid, and
 * every host has it. Only root may look into the folder, as nothing is said of allow_other.
 */
export async function mountFuse(
  fd: number,
  mount: { source: string; target: string },
  signal: AbortSignal,
): Promise<void> {
  fs.mkdirSync(mount.target, { recursive: true, mode: 0o700 });
  const options = [
    'fd=3',
    'rootmode=40000',
    `user_id=${process.getuid?.() ?? 0}`,
    `group_id=${process.getgid?.() ?? 0}`,
    `max_read=${maxTransferBytes}`,
    ...['nosuid', 'nodev', 'noexec'],
  ];
  // -i: no helper of the file system, it would open /dev/fuse anew; -n: nothing is written down
  const args = ['-i', '-n', '-t', 'fuse.stor', '-o', options.join(','), mount.source, mount.target];
  await runProgram('mount', args, { debianPackage, fd3: fd, signal });
}

/** Done already when it is not there. */
export function removeMountPoint(target: string): void {
  try {
    fs.rmdirSync(target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Done already when nothing is mounted there. `lazy`: also while it is in use, or its process is gone. */
export async function unmountAll(target: string, { lazy }: { lazy: boolean }): Promise<void> {
  for (let n = 0; n < mostUnmounts; n += 1) {
    if (!mountTable().some((mount) => mount.target === target)) return;
    await runProgram('umount', ['-i', '-n', ...(lazy ? ['-l'] : []), target], { debianPackage });
  }
  throw new StorError('INTERNAL', `${target} is mounted still after ${mostUnmounts} tries`);
}
