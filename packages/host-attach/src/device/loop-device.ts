import fs from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { hasCode, StorError } from '@stor/protocol';
import { runProgram } from './run-program.ts';

const debianPackage = 'mount (util-linux)';
const controlFile = '/dev/loop-control';
/** As the kernel counts a device's size (bytes). */
const sizeUnitBytes = 512;
/**
 * A loop device that somebody has open goes away at the last close. What looks at new devices for a
 * moment, as udev does, is waited for so long (ms).
 */
export const detachWaitMs = 5_000;
const detachLookMs = 20;

interface LoopFacts {
  /** `/dev/loop3` */
  path: string;
  backingFile: string;
}

/** All loop devices that have a file, as /sys tells them. */
function loops(): LoopFacts[] {
  return fs
    .readdirSync('/sys/block')
    .filter((name) => /^loop\d+$/.test(name))
    .flatMap((name) => {
      const backingFile = attribute(name, 'loop/backing_file');
      return backingFile === null ? [] : [{ path: `/dev/${name}`, backingFile }];
    });
}

/** Null: there is no such attribute, as of a loop device without a file. */
function attribute(name: string, file: string): string | null {
  try {
    return fs.readFileSync(`/sys/block/${name}/${file}`, 'utf8').trimEnd();
  } catch {
    return null;
  }
}

const nameOf = (path: string): string => path.slice('/dev/'.length);

/** Those on this file, also when it is gone. `file` is absolute and without symbolic links. */
export function loopDevicesOf(file: string): string[] {
  return loops()
    .filter(({ backingFile }) => backingFile.replace(/ \(deleted\)$/, '') === file)
    .map(({ path }) => path);
}

/**
 * Whether a device that was made of this file is that still. When the file system was unmounted
 * although it is in use (`umount -l`), the kernel tells the file's path from its root on.
 */
export function isLoopOf(path: string, file: string): boolean {
  const backingFile = attribute(nameOf(path), 'loop/backing_file');
  return backingFile === `/${basename(file)}` || loopDevicesOf(file).includes(path);
}

/**
 * Makes a loop device of a file. Its sectors have 512 bytes: a volume that was written by any other
 * way, as a disk of a virtual machine, can be mounted then; docs/operating/devices.md says more.
 */
export async function attachLoop(
  file: string,
  { readOnly }: { readOnly: boolean },
  signal: AbortSignal,
): Promise<{ path: string; directIo: boolean }> {
  if (!fs.existsSync(controlFile)) {
    const text = `this host has no ${controlFile}: load the module "loop"`;
    throw new StorError('FAILED_PRECONDITION', text);
  }
  // direct: the kernel keeps no second copy, and sends many requests at once instead of one
  const args = ['--find', '--show', ...(readOnly ? ['--read-only'] : []), file];
  let said: string;
  try {
    said = await runProgram('losetup', ['--direct-io=on', ...args], { debianPackage, signal });
  } catch (error) {
    // kernels before 5.6 may refuse it here
    if (!hasCode(error, 'INTERNAL')) throw error;
    for (const made of loopDevicesOf(file)) await detachLoop(made, file);
    said = await runProgram('losetup', args, { debianPackage, signal });
  }
  const path = said.trim();
  if (!/^\/dev\/loop\d+$/.test(path)) {
    throw new StorError('INTERNAL', `losetup answered ${JSON.stringify(said)} and no loop device`);
  }
  return { path, directIo: attribute(nameOf(path), 'loop/dio') === '1' };
}

/** Tells the device that its file has grown. The file's size was asked for just before. */
export async function growLoop(path: string, sizeBytes: number): Promise<void> {
  await runProgram('losetup', ['--set-capacity', path], { debianPackage });
  const is = Number(attribute(nameOf(path), 'size')) * sizeUnitBytes;
  const wanted = Math.floor(sizeBytes / sizeUnitBytes) * sizeUnitBytes;
  if (is === wanted) return;
  throw new StorError('INTERNAL', `${path} has ${is} bytes after it was told to have ${wanted}`);
}

/**
 * False: somebody has it open, and it goes away at the last close. Done already when the device is
 * not on this file any more.
 */
export async function detachLoop(
  path: string,
  file: string,
  waitMs: number = detachWaitMs,
): Promise<boolean> {
  const isThere = (): boolean => isLoopOf(path, file);
  if (!isThere()) return true;
  try {
    await runProgram('losetup', ['--detach', path], { debianPackage });
  } catch (error) {
    if (isThere()) throw error;
  }
  for (let waitedMs = 0; isThere(); waitedMs += detachLookMs) {
    if (waitedMs >= waitMs) return false;
    await delay(detachLookMs);
  }
  return true;
}
