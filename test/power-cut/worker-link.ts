import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

interface Answer {
  id: number;
  error?: string;
}

/**
 * A process that does what it is told, in the order in which it is told: it must not be this one, which
 * serves the disk below and would wait for itself.
 */
export class WorkerLink {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(): void; reject(error: Error): void }>();
  #ids = 0;

  constructor(program: string, args: readonly string[]) {
    const file = fileURLToPath(new URL(program, import.meta.url));
    this.#child = spawn(process.execPath, [...process.execArgv, file, ...args], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (answer: Answer) => {
      const call = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if (answer.error === undefined) call?.resolve();
      else call?.reject(new Error(answer.error));
    });
    this.#child.once('exit', (code, signal) => {
      const error = new Error(`the worker ended with ${code ?? signal ?? ''}`);
      for (const call of this.#waiting.values()) call.reject(error);
    });
  }

  call(order: object): Promise<void> {
    this.#ids += 1;
    const id = this.#ids;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, ...order });
    });
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
  }
}
