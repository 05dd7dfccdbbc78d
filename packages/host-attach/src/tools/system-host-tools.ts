import { mkdir, open, readFile, realpath, stat, statfs, type FileHandle } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { blockBytes, StorError } from '@stor/protocol';
import type { DeviceContent } from '../core/judge-content.ts';
import { mountAt, parseMountInfo, type MountEntry } from '../core/mount-info.ts';
import { parseBlkid, parseSignatures } from '../core/parse-probe.ts';
import type { HostTools } from '../host-tools.ts';
import type { FileSystem } from '../host-volumes.ts';
import { hasKernelNbd, hostChecks } from './host-checks.ts';
import { findOpeners } from './find-openers.ts';
import { runTool, toolError, type ToolResult } from './run-tool.ts';

/** blkid(8): nothing was found; more than one thing was. */
const blkidNothing = 2;
const blkidSeveral = 8;
/** e2fsck(8): faults that are left, and everything worse; 1 and 2 mean that it has mended some. */
const fsckFailed = 4 | 8 | 16 | 32 | 128;
/** Everyone may read what the owner of the file system lets them read. */
const targetMode = 0o755;

/** The mounts and file systems of this host, by /proc, util-linux, e2fsprogs and xfsprogs. Needs root. */
export const systemHostTools: HostTools = {
  probe,
  makeFileSystem,

  async hold(device) {
    const file = await openDevice(device);
    return () => file.close();
  },

  // without --force: whoever has mounted the device meanwhile keeps what is on it
  async discard(device, signal) {
    const done = await runTool('blkdiscard', ['--', device], signal);
    if (done.code !== 0) throw toolError('blkdiscard', `${device} cannot be discarded`, done);
  },

  /** As Kubernetes does: what e2fsck mends by itself is mended. XFS mends itself when it is mounted. */
  async check(device, fileSystem, signal) {
    if (fileSystem !== 'ext4') return;
    const done = await runTool('e2fsck', ['-p', device], signal);
    if ((done.code & fsckFailed) === 0) return;
    const what = `the ext4 on ${device} needs a person: attach the volume as a device, run "e2fsck -f" on that, and mount it again`;
    throw toolError('e2fsck', what, done);
  },

  async mount({ device, target, fileSystem, options, readOnly }, signal) {
    // a clone or a snapshot has the UUID of what it was made of, which XFS refuses to mount beside it
    const own = fileSystem === 'xfs' ? ['nouuid'] : [];
    const all = [readOnly ? 'ro' : 'rw', ...own, ...options].join(',');
    const done = await runTool('mount', ['-t', fileSystem, '-o', all, device, target], signal);
    if (done.code !== 0) throw toolError('mount', `${device} cannot be mounted at ${target}`, done);
  },

  async mountAgain({ from, target }, signal) {
    const what = `what is mounted at ${from} cannot be shown at ${target}`;
    const done = await runTool('mount', ['--bind', from, target], signal);
    if (done.code !== 0) throw toolError('mount', what, done);
    const limited = await runTool('mount', ['-o', 'remount,bind,ro', target], signal);
    if (limited.code === 0) return;
    await runTool('umount', [target], signal);
    throw toolError('mount', what, limited);
  },

  async unmount(target, { lazy }, signal) {
    if (!mountAt(await mounts(), target)) return;
    const done = await runTool('umount', [...(lazy ? ['--lazy'] : []), target], signal);
    if (done.code === 0 || !mountAt(await mounts(), target)) return;
    const error = toolError('umount', `${target} cannot be unmounted`, done);
    if (!/\bbusy\b/.test(done.stderr)) throw error;
    throw new StorError('IN_USE', error.message);
  },

  async grow({ device, target, fileSystem }, signal) {
    const [tool, at] =
      fileSystem === 'xfs' ? (['xfs_growfs', target] as const) : (['resize2fs', device] as const);
    const done = await runTool(tool, [at], signal);
    if (done.code !== 0) throw toolError(tool, `the file system at ${target} cannot grow`, done);
  },

  mounts,

  async deviceNumber(device) {
    try {
      const found = await stat(device);
      return found.isBlockDevice() ? numberOf(found.rdev) : null;
    } catch {
      return null;
    }
  },

  realTarget,

  async makeTarget(target) {
    try {
      await mkdir(target, { recursive: true, mode: targetMode });
      if ((await stat(target)).isDirectory()) return;
    } catch (error) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the directory ${target} cannot be made: ${(error as Error).message}`,
        { cause: error },
      );
    }
    throw new StorError('FAILED_PRECONDITION', `${target} is there and is no directory`);
  },

  openers: async (path) => findOpeners(path, await mounts()),

  async stats(target) {
    const { blocks, bfree, bavail, bsize, files, ffree } = await statfs(target);
    return {
      totalBytes: blocks * bsize,
      usedBytes: (blocks - bfree) * bsize,
      availableBytes: bavail * bsize,
      totalInodes: files,
      usedInodes: files - ffree,
      availableInodes: ffree,
    };
  },

  hasKernelNbd,
  checks: hostChecks,
};

async function probe(device: string, signal: AbortSignal): Promise<DeviceContent> {
  await writeBack(device);
  const told = await runTool('blkid', ['-p', '-o', 'export', device], signal);
  const isTold = told.code === 0 || told.code === blkidNothing || told.code === blkidSeveral;
  if (!isTold) throw toolError('blkid', `${device} cannot be read`, told);
  const listed = await runTool('wipefs', ['--no-act', '--json', device], signal);
  if (listed.code !== 0) throw toolError('wipefs', `${device} cannot be read`, listed);
  const facts = told.code === 0 ? parseBlkid(told.stdout) : new Map<string, string>();
  const signatures = parseSignatures(listed.stdout);
  const table = facts.get('PTTYPE');
  if (table !== undefined) signatures.push(`a partition table of kind ${table}`);
  if (told.code === blkidSeveral) signatures.push('signatures of several things');
  const fileSystem = facts.get('USAGE') === 'filesystem' ? (facts.get('TYPE') ?? null) : null;
  // whatever it is, it is something
  if (facts.size > 0 && fileSystem === null && signatures.length === 0) {
    signatures.push(`a signature of ${facts.get('TYPE') ?? 'unknown kind'}`);
  }
  return { fileSystem, signatures };
}

/** What somebody has written to the device, and the kernel has kept so far, counts as its data too. */
async function writeBack(device: string): Promise<void> {
  const file = await openDevice(device);
  try {
    await file.sync();
  } catch (error) {
    throw notSeen(device, error);
  } finally {
    await file.close();
  }
}

async function openDevice(device: string): Promise<FileHandle> {
  try {
    return await open(device, 'r');
  } catch (error) {
    throw notSeen(device, error);
  }
}

function notSeen(device: string, cause: unknown): StorError {
  const { message } = cause as Error;
  return new StorError('FAILED_PRECONDITION', `${device} cannot be looked at: ${message}`, {
    cause,
  });
}

async function makeFileSystem(
  device: string,
  fileSystem: FileSystem,
  options: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const what = `no ${fileSystem} can be made on ${device}`;
  if (fileSystem === 'xfs') {
    // -K: nothing is discarded, as there is nothing
    const args = ['-q', '-K', '-s', `size=${blockBytes}`, ...options, '--', device];
    const made = await runTool('mkfs.xfs', args, signal);
    if (made.code !== 0) throw mkfsError('mkfs.xfs', what, made);
    return;
  }
  const made = await makeExt4(device, ['nodiscard', 'assume_storage_prezeroed=1'], options, signal);
  // e2fsprogs before 1.47 do not know that a thin volume is zero already, and have changed nothing
  const isOld = made.code !== 0 && /option|assume_storage_prezeroed/i.test(made.stderr);
  const last = isOld ? await makeExt4(device, ['nodiscard'], options, signal) : made;
  if (last.code !== 0) throw mkfsError('mkfs.ext4', what, last);
}

/** Both say one of these when they refuse to begin. */
function mkfsError(tool: 'mkfs.ext4' | 'mkfs.xfs', what: string, result: ToolResult): StorError {
  const error = toolError(tool, what, result);
  const isRefused = /\b(in use|busy|mounted|existing filesystem|partition table)\b/i.test(
    result.stderr,
  );
  return isRefused ? new StorError('IN_USE', error.message) : error;
}

/** In the blocks of a volume, and without reserved ones: those are for the root file system of a host. */
function makeExt4(
  device: string,
  extended: readonly string[],
  options: readonly string[],
  signal: AbortSignal,
): Promise<ToolResult> {
  const block = ['-b', String(blockBytes)];
  const args = ['-q', '-m', '0', ...block, '-E', extended.join(','), ...options, '--', device];
  return runTool('mkfs.ext4', args, signal);
}

async function mounts(): Promise<MountEntry[]> {
  return parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** The real path of what exists of it, and the rest as it was given. */
async function realTarget(target: string): Promise<string> {
  const missing: string[] = [];
  for (let at = resolve(target); ; at = dirname(at)) {
    try {
      const real = await realpath(at);
      return missing.length === 0 ? real : `${real === '/' ? '' : real}/${missing.join('/')}`;
    } catch (error) {
      // a mounted file system whose device is gone cannot be looked at either
      if (at === '/') throw StorError.from(error);
      missing.unshift(basename(at));
    }
  }
}

/** As the kernel packs a device number (makedev(3)). */
function numberOf(rdev: number): string {
  const major = Math.floor(rdev / 0x100) % 0x1000;
  const minor = (rdev % 0x100) + Math.floor(rdev / 0x100000) * 0x100;
  return `${major}:${minor}`;
}
