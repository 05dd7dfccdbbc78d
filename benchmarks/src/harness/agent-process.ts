import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkoutRoot } from './checkout.ts';
import { waitFor } from './wait-for.ts';

export interface AgentExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface AgentPlace {
  /** n1, n2, n3 */
  name: string;
  nodeId: string;
  /** folder of this node: config.yaml, agent.log, data/, run/ */
  dir: string;
  host: string;
  apiPort: number;
  httpPort: number;
  nbdPort: number;
  /** network namespace that the agent runs in; none: that of this process */
  netns?: string;
  /** variables of its environment, beside those of this process */
  env?: Record<string, string>;
}

/** One real agent, compiled, as a process that is known by its own child handle only. */
export class AgentProcess {
  readonly place: AgentPlace;
  #child: ChildProcess | null = null;
  #exited: Promise<AgentExit> = Promise.resolve({ code: 0, signal: null });
  /** the compiled agent of another version; null: that of this checkout */
  mainFile: string | null = null;
  /** the last end of the process, null while it runs or before it ever ran */
  lastExit: AgentExit | null = null;

  constructor(place: AgentPlace) {
    this.place = place;
  }

  get configPath(): string {
    return join(this.place.dir, 'config.yaml');
  }

  get logPath(): string {
    return join(this.place.dir, 'agent.log');
  }

  get dataDir(): string {
    return join(this.place.dir, 'data');
  }

  get running(): boolean {
    return this.#child !== null;
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error(`${this.place.name} does not run`);
    return pid;
  }

  /** Starts the process; `waitReady` says when it serves. */
  start(): void {
    if (this.#child) throw new Error(`${this.place.name} runs already`);
    const log = openSync(this.logPath, 'a');
    // Not by bin/stor-agent: whether the sources have changed need not be asked at each start.
    const main = this.mainFile ?? join(checkoutRoot(), 'packages/node-agent/dist/src/main.js');
    const agent = [process.execPath, main, '--config', this.configPath];
    const { netns } = this.place;
    // nsenter becomes the program it runs, so the process id is the agent's. "ip netns exec" would
    // give each process mounts of its own, which looks like another mount of the disk.
    const inNetns = netns === undefined ? [] : ['nsenter', `--net=/run/netns/${netns}`];
    const [program = '', ...args] = [...inNetns, ...agent];
    const child = spawn(program, args, {
      stdio: ['ignore', log, log],
      // as bin/stor-agent does
      env: { UV_THREADPOOL_SIZE: '64', ...process.env, ...this.place.env },
    });
    closeSync(log);
    this.#child = child;
    this.lastExit = null;
    this.#exited = new Promise((resolve) => {
      const over = (exit: AgentExit): void => {
        this.#child = null;
        this.lastExit = exit;
        resolve(exit);
      };
      child.once('error', () => over({ code: -1, signal: null }));
      child.once('exit', (code, signal) => over({ code, signal }));
    });
  }

  /** Waits until `/readyz` answers 200. Rejects at once, with the log, when the process ends. */
  async waitReady(deadlineMs = 40_000): Promise<void> {
    await waitFor(
      `${this.place.name} to be ready`,
      async () => {
        if (!this.running) return 'ended';
        const url = `http://${this.place.host}:${this.place.httpPort}/readyz`;
        const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
        const text = await answer.text();
        if (answer.status !== 200) throw new Error(`${answer.status} ${text}`);
        return 'ready';
      },
      { deadlineMs },
    ).then(
      (state) => {
        if (state === 'ended') {
          throw new Error(`${this.place.name} ended at start:\n${this.logTail()}`);
        }
      },
      (error: unknown) => {
        throw new Error(`${(error as Error).message}\n${this.logTail()}`);
      },
    );
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill9(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** Stops the process where it is, until `resume`: it keeps its connections and answers nothing. */
  pause(): void {
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#child?.kill('SIGCONT');
  }

  /** SIGTERM, and SIGKILL when it does not end in time; the result tells which. */
  async stop(graceMs = 20_000): Promise<AgentExit> {
    const child = this.#child;
    if (!child) return this.lastExit ?? { code: 0, signal: null };
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    const exit = await this.#exited;
    clearTimeout(timer);
    return exit;
  }

  /** Resolves when the process ends by itself. */
  waitExit(): Promise<AgentExit> {
    return this.#exited;
  }

  log(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8') : '';
  }

  logTail(bytes = 4_000): string {
    return `--- end of ${this.logPath} ---\n${this.log().slice(-bytes)}`;
  }
}
