import { spawn, type ChildProcess } from 'node:child_process';
import { compiledProgram } from './checkout.ts';
import { OutputCollector } from './run-command.ts';
import { waitFor } from './wait-for.ts';

export interface RelayProcessOptions {
  /** of every server that may have the export */
  uris: readonly string[];
  exportName: string;
  /** path of the UNIX socket to serve on */
  socketPath: string;
  /** time without any server after which requests fail (ms) */
  giveUpMs: number;
  /** gives up waiting for the first connection */
  signal?: AbortSignal;
}

/** The reconnecting relay as a process of its own. */
export class RelayProcess {
  readonly uri: string;
  readonly #child: ChildProcess;
  readonly #stdout = new OutputCollector();
  readonly #stderr = new OutputCollector();
  readonly #exited: Promise<void>;

  private constructor(options: RelayProcessOptions) {
    const { uris, socketPath, giveUpMs, exportName } = options;
    this.uri = `nbd+unix:///${exportName}?socket=${socketPath}`;
    const args = uris.flatMap((uri) => ['--uri', uri]);
    const child = spawn(
      process.execPath,
      [
        ...[compiledProgram('relay/main.js'), '--socket', socketPath],
        ...['--give-up-ms', String(giveUpMs), ...args],
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.#child = child;
    child.stdout.on('data', (chunk: Buffer) => this.#stdout.add(chunk));
    child.stderr.on('data', (chunk: Buffer) => this.#stderr.add(chunk));
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('close', () => resolve());
    });
  }

  /** Resolves when it serves. */
  static async start(options: RelayProcessOptions): Promise<RelayProcess> {
    const relay = new RelayProcess(options);
    const isListening = (): boolean => {
      if (relay.#child.exitCode !== null) throw new Error(relay.#stderr.text());
      return relay.#stdout.text().includes('listening');
    };
    const { giveUpMs, signal } = options;
    const limits = { deadlineMs: giveUpMs, ...(signal ? { signal } : {}) };
    await waitFor('the relay to listen', isListening, limits).catch(async (error: unknown) => {
      await relay.kill();
      throw error;
    });
    return relay;
  }

  /** Ends it; the errors that it answered requests with. */
  async stop(): Promise<string[]> {
    this.#child.kill('SIGTERM');
    await this.#exited;
    const last = this.#stdout.text().trimEnd().split('\n').at(-1) ?? '';
    if (!last.includes('errors')) return [`the relay ended early: ${this.#stderr.text()}`];
    return (JSON.parse(last) as { errors: string[] }).errors;
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}
