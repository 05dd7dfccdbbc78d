import { constants } from 'node:fs';
import { mkdir, open, readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { StorError } from '@stor/protocol';
import { mountOf, parseMountTable, parseSignatures } from '../core/devices/mount-table.ts';
import type { MountEntry } from '../core/devices/mount-table.ts';
import type { BlockDevices, DeviceFindings } from './block-devices.ts';
import { runTool, toolError } from './run-tool.ts';

/** What the kernel counts the size of a device in, whatever its real sectors are (bytes). */
const sysSectorBytes = 512;
/** Looked at for zeros at both ends of a device: where file systems and tables begin and end (bytes). */
const edgeBytes = 1024 * 1024;
/** Replicas are data: nothing on such a disk is a program or a device. */
const mountOptions = 'noatime,nodev,nosuid,noexec';

/** The block devices of this host, by /sys, /proc, util-linux and xfsprogs. Needs root to change. */
export const systemBlockDevices: BlockDevices = {
  async kindOf(path) {
    try {
      const found = await stat(path);
      if (found.isBlockDevice()) return 'block-device';
      return found.isDirectory() ? 'directory' : 'other';
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'directory';
      throw StorError.from(error);
    }
  },

  async fileSystemOf(path) {
    const table = await mountTable();
    return mountOf(table, await nearestRealPath(path))?.type ?? 'unknown';
  },

  inspect,

  async format(device, { fileSystemUuid, force }) {
    needRoot('formatting a device');
    if (force) {
      const wiped = await runTool('wipefs', ['--all', device]);
      if (wiped.code !== 0) throw toolError('wipefs', `device ${device} cannot be wiped`, wiped);
    }
    // without -f it refuses by itself what it recognises: a second pair of eyes
    const args = ['-q', ...(force ? ['-f'] : []), '-m', `uuid=${fileSystemUuid}`, device];
    const made = await runTool('mkfs.xfs', args);
    if (made.code !== 0) throw toolError('mkfs.xfs', `device ${device} cannot be formatted`, made);
  },

  async mount(fileSystemUuid, directory) {
    if (await isMounted(directory)) return;
    needRoot('mounting a device');
    await mkdir(directory, { recursive: true, mode: 0o700 });
    if ((await readdir(directory)).length > 0) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `directory ${directory} is not empty, so no disk is mounted on it: look what is there`,
      );
    }
    const args = ['-t', 'xfs', '-o', mountOptions, `UUID=${fileSystemUuid}`, directory];
    const mounted = await runTool('mount', args);
    if (mounted.code === 0) return;
    const what = `the XFS ${fileSystemUuid} cannot be mounted at ${directory}`;
    throw toolError('mount', what, mounted);
  },

  async unmount(directory, { lazy }) {
    if (!(await isMounted(directory))) return;
    const plain = await runTool('umount', [directory]);
    if (plain.code === 0) return;
    const last = lazy ? await runTool('umount', ['--lazy', directory]) : plain;
    if (last.code !== 0) throw toolError('umount', `${directory} cannot be unmounted`, last);
  },

  async mountsBelow(directory) {
    const above = `${await nearestRealPath(directory)}/`;
    const found = (await mountTable()).filter((entry) => entry.directory.startsWith(above));
    return found.map((entry) => entry.directory);
  },
};

async function inspect(given: string): Promise<DeviceFindings> {
  needRoot('looking at a device');
  const path = await realpath(given);
  const found = await stat(path);
  if (!found.isBlockDevice()) {
    throw new StorError('INVALID_ARGUMENT', `${given} is no block device`);
  }
  const number = numberOf(found.rdev);
  const folder = `/sys/dev/block/${number}`;
  const partitions = await partitionsOf(folder);
  const folders = [folder, ...partitions.map((name) => `${folder}/${name}`)];
  const numbers = await Promise.all(folders.map((each) => readText(`${each}/dev`)));
  const devices = new Set([number, ...numbers.map((text) => text.trim())]);
  const nodes = new Set([path, ...partitions.map((name) => `/dev/${name}`)]);
  const mounts = (await mountTable()).filter(
    ({ device, source }) => devices.has(device) || nodes.has(source),
  );
  const holders = await Promise.all(folders.map((each) => namesIn(`${each}/holders`)));
  const sizeBytes = Number(await readText(`${folder}/size`)) * sysSectorBytes;
  const isInUse = await isBusy(path);
  return {
    path,
    sizeBytes,
    readOnly: (await readText(`${folder}/ro`)).trim() === '1',
    mounts: [...new Set(mounts.map(({ directory }) => directory))],
    holders: holders.flat(),
    partitions,
    isInUse,
    signatures: await signaturesOf(path),
    hasData: sizeBytes > 0 && (await hasData(path, sizeBytes)),
  };
}

/** As the kernel packs a device number (makedev(3)). */
function numberOf(rdev: number): string {
  const major = Math.floor(rdev / 0x100) % 0x1000;
  const minor = (rdev % 0x100) + Math.floor(rdev / 0x100000) * 0x100;
  return `${major}:${minor}`;
}

async function partitionsOf(folder: string): Promise<string[]> {
  const names = await namesIn(folder);
  const kinds = await Promise.all(names.map((name) => readText(`${folder}/${name}/partition`)));
  return names.filter((_name, index) => kinds[index] !== '');
}

async function signaturesOf(path: string): Promise<string[]> {
  const found = await runTool('wipefs', ['--no-act', '--json', path]);
  if (found.code !== 0) throw toolError('wipefs', `device ${path} cannot be read`, found);
  return parseSignatures(found.stdout);
}

/** The kernel lets one opener claim a device for itself: mounts, RAID, swap and LVM do. */
async function isBusy(path: string): Promise<boolean> {
  try {
    const device = await open(path, constants.O_RDONLY | constants.O_EXCL);
    await device.close();
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBUSY') return true;
    throw deviceError(path, error);
  }
}

async function hasData(path: string, sizeBytes: number): Promise<boolean> {
  const device = await open(path, constants.O_RDONLY);
  try {
    const length = Math.min(edgeBytes, sizeBytes);
    for (const position of [0, sizeBytes - length]) {
      const bytes = Buffer.alloc(length);
      const { bytesRead } = await device.read(bytes, 0, length, position);
      if (bytes.subarray(0, bytesRead).some((byte) => byte !== 0)) return true;
    }
    return false;
  } catch (error) {
    throw deviceError(path, error);
  } finally {
    await device.close();
  }
}

function deviceError(path: string, error: unknown): StorError {
  const { message } = error as Error;
  return new StorError('FAILED_PRECONDITION', `device ${path} cannot be read: ${message}`, {
    cause: error,
  });
}

async function isMounted(directory: string): Promise<boolean> {
  const path = await nearestRealPath(directory);
  return (await mountTable()).some((entry) => entry.directory === path);
}

async function mountTable(): Promise<MountEntry[]> {
  return parseMountTable(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** The real path of what exists of it, and the rest as it was given. */
async function nearestRealPath(path: string): Promise<string> {
  const missing: string[] = [];
  for (let at = resolve(path); ; at = dirname(at)) {
    try {
      const real = await realpath(at);
      return missing.length === 0 ? real : `${real === '/' ? '' : real}/${missing.join('/')}`;
    } catch (error) {
      if (at === '/') throw StorError.from(error);
      missing.unshift(basename(at));
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}

/** '' when there is no such file. */
async function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').catch(() => '');
}

function needRoot(what: string): void {
  if (process.getuid?.() === 0) return;
  throw new StorError(
    'PERMISSION_DENIED',
    `${what} needs root: run the agent as root, or mount a file system yourself and give its directory`,
  );
}
