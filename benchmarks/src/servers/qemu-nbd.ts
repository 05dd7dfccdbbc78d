import { join } from 'node:path';
import { nbdTarget, type FioTarget } from '../fio/fio.ts';
import type { NbdServer, OwnServer } from './block-server.ts';
import { ServerProcess } from './server-process.ts';
import { makeSparseFile } from './sparse-file.ts';

export type QemuAio = 'threads' | 'io_uring';

export interface QemuNbdOptions {
  name?: string;
  aio?: QemuAio;
  /** the file that it serves; a new sparse one by default */
  path?: string;
}

/** What every qemu-nbd here is started with: as many clients as the workloads have connections. */
export const qemuNbdArguments = ['--cache=writeback', '--persistent', '--shared=8'];

/**
 * A qemu-nbd on a raw file, on a UNIX socket: the yardstick. It writes through the page cache
 * (cache=writeback), as Stor does, so both promise the same: durable after FLUSH.
 */
export class QemuNbd implements NbdServer, OwnServer {
  readonly name: string;
  readonly uri: string;
  readonly #process: ServerProcess;

  private constructor(name: string, uri: string, process: ServerProcess) {
    this.name = name;
    this.uri = uri;
    this.#process = process;
  }

  static async start(
    dir: string,
    sizeBytes: number,
    { name = 'qemu-nbd', aio = 'threads', path = join(dir, `${name}.raw`) }: QemuNbdOptions = {},
  ): Promise<QemuNbd> {
    makeSparseFile(path, sizeBytes);
    const socket = join(dir, `${name}.sock`);
    const args = [
      ...qemuNbdArguments,
      '--format=raw',
      `--aio=${aio}`,
      '--discard=unmap',
      `--socket=${socket}`,
      '--export-name=yardstick',
      path,
    ];
    const process = await ServerProcess.start('qemu-nbd', args, socket);
    return new QemuNbd(name, `nbd+unix:///yardstick?socket=${socket}`, process);
  }

  get target(): FioTarget {
    return nbdTarget(this.uri);
  }

  pids(): number[] {
    return [this.#process.pid];
  }

  close(): Promise<void> {
    return this.#process.stop();
  }
}
