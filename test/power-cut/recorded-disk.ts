import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { hasProgram } from '../support/needs.ts';
import { DiskLog } from './disk-log.ts';
import { RecordingServer } from './recording-server.ts';

export type FileSystem = 'ext4' | 'xfs';

/** mkfs.xfs makes nothing smaller than this; what is never written takes no memory. */
const diskBytes = 320 * 1024 * 1024;
const makers: Record<FileSystem, string[]> = {
  ext4: ['mkfs.ext4', '-q', '-E', 'lazy_itable_init=0,nodiscard'],
  xfs: ['mkfs.xfs', '-q', '-K'],
};

/** Why it cannot be used here, in one sentence; null when it can. */
export function recordingObstacle(): string | null {
  if (process.platform !== 'linux') return 'loop devices exist on Linux only';
  if (process.getuid?.() !== 0) return 'loop devices and mounts need root';
  const needed = [
    ['nbdfuse', 'nbdfuse'],
    ['losetup', 'mount'],
    ['mkfs.ext4', 'e2fsprogs'],
    ['mkfs.xfs', 'xfsprogs'],
  ];
  for (const [program = '', debianPackage = ''] of needed) {
    if (!hasProgram(program)) return `${program} is missing: apt-get install ${debianPackage}`;
  }
  if (!existsSync('/dev/fuse')) return 'there is no /dev/fuse: load the module fuse';
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices: load the module loop';
  return null;
}

/** A mounted file system on a disk that records all that is written to it. */
export class RecordedDisk {
  readonly log = new DiskLog(diskBytes);
  readonly directory: string;
  readonly #dir: string;
  readonly #server = new RecordingServer(this.log);
  #nbdfuse: ChildProcess | null = null;
  #loop: string | null = null;
  #mounted = false;

  private constructor(dir: string) {
    this.#dir = dir;
    this.directory = join(dir, 'mounted');
  }

  static async create(dir: string, kind: FileSystem): Promise<RecordedDisk> {
    const disk = new RecordedDisk(dir);
    try {
      await disk.#create(kind);
    } catch (error) {
      await disk.close();
      throw error;
    }
    return disk;
  }

  async #create(kind: FileSystem): Promise<void> {
    const fuse = join(this.#dir, 'fuse');
    const socket = join(this.#dir, 'disk.sock');
    for (const path of [fuse, this.directory]) mkdirSync(path, { recursive: true });
    await this.#server.listen(socket);
    this.#nbdfuse = spawn('nbdfuse', [fuse, '--unix', socket], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    await waitFor('nbdfuse to show the disk', () => {
      if (this.#nbdfuse?.exitCode !== null) throw new Error('nbdfuse ended');
      return existsSync(join(fuse, 'nbd'));
    });
    const { stdout } = await mustRun('losetup', ['--find', '--show', join(fuse, 'nbd')]);
    this.#loop = stdout.trim();
    const [maker = '', ...args] = makers[kind];
    await mustRun(maker, [...args, this.#loop]);
    await mustRun('mount', [this.#loop, this.directory]);
    this.#mounted = true;
    await mustRun('sync', ['-f', this.directory]);
  }

  /** Takes everything down; the log stays. Works after any failure, and twice. */
  async close(): Promise<void> {
    if (this.#mounted) await mustRun('umount', [this.directory]);
    this.#mounted = false;
    if (this.#loop) await mustRun('losetup', ['--detach', this.#loop]);
    this.#loop = null;
    const child = this.#nbdfuse;
    if (child && child.exitCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      await runCommand('umount', [join(this.#dir, 'fuse')]);
      await ended;
    }
    this.#nbdfuse = null;
    await this.#server.close();
  }
}

/** Mounts an image of a disk, runs something on it, and unmounts it. */
export async function onImage(
  image: string,
  directory: string,
  run: () => Promise<void>,
): Promise<void> {
  mkdirSync(directory, { recursive: true });
  await mustRun('mount', ['-o', 'loop', image, directory]);
  try {
    await run();
  } finally {
    const result = await runCommand('umount', [directory]);
    if (result.code !== 0) {
      const open = openBelow(directory);
      // a file that is open still must not take the mount with it; the test says so
      await mustRun('umount', ['--lazy', directory]);
      throw new Error(`files are open after the end: ${open.join(', ')}, ${result.stderr}`);
    }
  }
}

/** Files below a folder that this process has open. */
function openBelow(directory: string): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith(directory) ? [target] : [];
    } catch {
      return [];
    }
  });
}
