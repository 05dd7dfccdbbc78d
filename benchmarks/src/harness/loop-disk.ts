import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mustRun, runCommand } from './run-command.ts';
import { waitFor } from './wait-for.ts';

export interface LoopDiskOptions {
  dir: string;
  name: string;
  sizeBytes: number;
  /**
   * What lies under the loop device: `file`, whose end can be cut off, or `nbdfuse`, a file that
   * nbdkit serves and whose every request fails once a file appears.
   */
  backing?: 'file' | 'nbdfuse';
}

/** What is left of a file that is cut off (bytes). Of none at all the kernel checks no end. */
const leftBytes = 1024 * 1024;

/** A block device of this machine that a test made, on a sparse file, and can break. Needs root. */
export class LoopDisk {
  readonly device: string;
  readonly #image: string;
  readonly #trigger: string;
  readonly #fuse: ChildProcess | null;
  readonly #fuseFile: string;

  private constructor(parts: {
    device: string;
    image: string;
    trigger: string;
    fuse: ChildProcess | null;
    fuseFile: string;
  }) {
    this.device = parts.device;
    this.#image = parts.image;
    this.#trigger = parts.trigger;
    this.#fuse = parts.fuse;
    this.#fuseFile = parts.fuseFile;
  }

  static async create({ dir, name, sizeBytes, backing }: LoopDiskOptions): Promise<LoopDisk> {
    mkdirSync(dir, { recursive: true });
    const image = join(dir, `${name}.img`);
    const trigger = join(dir, `${name}.broken`);
    await mustRun('truncate', ['-s', String(sizeBytes), image]);
    const fuseFile = join(dir, `${name}.nbd`);
    const fuse = backing === 'nbdfuse' ? await startFuse(image, trigger, fuseFile) : null;
    const made = await mustRun('losetup', ['--find', '--show', fuse ? fuseFile : image]);
    const device = made.stdout.trim();
    return new LoopDisk({ device, image, trigger, fuse, fuseFile });
  }

  /**
   * From now on every request fails. A file that is cut off alone would not do: a loop device lets
   * writes beyond its end make it longer again, so the device is told its new size too, until no
   * write has come between the two.
   */
  async break(): Promise<void> {
    if (this.#fuse) {
      writeFileSync(this.#trigger, '');
      return;
    }
    await waitFor('the device to be cut off', async () => {
      await mustRun('truncate', ['-s', String(leftBytes), this.#image]);
      await mustRun('losetup', ['--set-capacity', this.device]);
      const size = await mustRun('blockdev', ['--getsize64', this.device]);
      return Number(size.stdout) === leftBytes;
    });
  }

  /** Takes the device away; whatever is mounted on it is unmounted before, see `unmountBelow`. */
  async close(): Promise<void> {
    rmSync(this.#trigger, { force: true });
    await runCommand('losetup', ['--detach', this.device]);
    if (this.#fuse) {
      await runCommand('umount', ['--lazy', this.#fuseFile]);
      this.#fuse.kill('SIGTERM');
    }
    rmSync(this.#image, { force: true });
  }
}

async function startFuse(image: string, trigger: string, file: string): Promise<ChildProcess> {
  writeFileSync(file, '');
  const server = [
    ...['nbdkit', '--exit-with-parent', '--filter=error', 'file', image],
    ...['error=EIO', 'error-rate=100%', `error-file=${trigger}`],
  ];
  const child = spawn('nbdfuse', [file, '[', ...server, ']'], { stdio: 'ignore' });
  const state = { ended: false };
  child.once('exit', () => (state.ended = true));
  child.once('error', () => (state.ended = true));
  const { size } = statSync(image);
  await waitFor('nbdfuse to show the file', () => {
    if (state.ended) throw new Error('nbdfuse has ended');
    return statSync(file).size === size;
  });
  return child;
}

/** Unmounts everything below a folder, also what cannot be written back any more. */
export async function unmountBelow(dir: string): Promise<void> {
  if (!existsSync(dir)) return;
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((directory) => directory.startsWith(`${dir}/`));
  for (const directory of mounts.reverse()) await runCommand('umount', ['--lazy', directory]);
}
