import { spawn } from 'node:child_process';
import { closeSync, existsSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../harness/wait-for.ts';
import type { BlockServer } from './block-server.ts';

/**
 * A qemu-nbd on a sparse raw file, on a UNIX socket: the yardstick. It writes through the page
 * cache (cache=writeback), as Stor does, so both promise the same: durable after FLUSH.
 */
export class QemuNbd implements BlockServer {
  readonly name = 'qemu-nbd';
  readonly uri: string;
  readonly #pid: number;
  readonly #stop: () => Promise<void>;

  private constructor(uri: string, pid: number, stop: () => Promise<void>) {
    this.uri = uri;
    this.#pid = pid;
    this.#stop = stop;
  }

  static async start(dir: string, sizeBytes: number): Promise<QemuNbd> {
    const path = join(dir, 'qemu.raw');
    const file = openSync(path, 'w');
    ftruncateSync(file, sizeBytes);
    closeSync(file);
    const socket = join(dir, 'qemu.sock');
    const child = spawn(
      'qemu-nbd',
      [
        '--format=raw',
        '--cache=writeback',
        '--aio=threads',
        '--discard=unmap',
        '--persistent',
        '--shared=8',
        `--socket=${socket}`,
        '--export-name=yardstick',
        path,
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    let ended = false;
    const exit = new Promise<void>((resolve) => {
      const over = (): void => {
        ended = true;
        resolve();
      };
      child.once('exit', over);
      child.once('error', over);
    });
    await waitFor('qemu-nbd to listen', () => {
      if (ended) throw new Error('qemu-nbd ended');
      return existsSync(socket);
    });
    return new QemuNbd(`nbd+unix:///yardstick?socket=${socket}`, child.pid ?? 0, async () => {
      child.kill('SIGTERM');
      await exit;
    });
  }

  pids(): number[] {
    return [this.#pid];
  }

  close(): Promise<void> {
    return this.#stop();
  }
}
