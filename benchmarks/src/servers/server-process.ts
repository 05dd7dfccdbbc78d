import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { waitFor } from '../harness/wait-for.ts';

/** A server of others that listens on a UNIX socket, as a child of this process. */
export class ServerProcess {
  readonly pid: number;
  readonly #stop: () => Promise<void>;

  private constructor(pid: number, stop: () => Promise<void>) {
    this.pid = pid;
    this.#stop = stop;
  }

  /** Resolves when the socket is there. Rejects when the program is missing or ends before. */
  static async start(
    command: string,
    args: readonly string[],
    socketPath: string,
  ): Promise<ServerProcess> {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'] });
    let end: string | null = null;
    const exit = new Promise<void>((resolve) => {
      const over = (what: string): void => {
        end ??= what;
        resolve();
      };
      child.once('exit', (code, signal) => over(`exit ${code ?? signal}`));
      child.once('error', (error) => over(error.message));
    });
    const stop = async (): Promise<void> => {
      child.kill('SIGTERM');
      await exit;
    };
    try {
      const state = await waitFor(`${command} to listen`, () =>
        end === null ? existsSync(socketPath) && 'listens' : 'ended',
      );
      if (state === 'ended') throw new Error(`${command} did not start: ${end ?? ''}`);
    } catch (error) {
      await stop();
      throw error;
    }
    return new ServerProcess(child.pid ?? 0, stop);
  }

  /** SIGTERM, and waits for the end. Works twice. */
  stop(): Promise<void> {
    return this.#stop();
  }
}
