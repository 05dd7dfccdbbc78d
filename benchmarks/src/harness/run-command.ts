import { spawn } from 'node:child_process';

export interface CommandResult {
  command: string;
  /** exit code; 128 + signal number is not used: a signal gives -1 */
  code: number;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  elapsedMs: number;
}

export interface CommandOptions {
  cwd?: string;
  env?: Readonly<Record<string, string>>;
  /** the command is killed after this time (ms) and the result says so; default 120,000 */
  timeoutMs?: number;
  stdin?: string;
  /** ends the command with SIGKILL */
  signal?: AbortSignal;
}

/** More output than this of one command is cut: it would only fill the memory of the test. */
const maxOutputBytes = 16 * 1024 * 1024;

/** Keeps what a process prints, up to the limit. */
export class OutputCollector {
  readonly #chunks: Buffer[] = [];
  #bytes = 0;

  add(chunk: Buffer): void {
    if (this.#bytes >= maxOutputBytes) return;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}

/** Runs a program to its end. Never rejects because of its exit code; rejects if it is missing. */
export function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const timeoutMs = options.timeoutMs ?? 120_000;
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const stdout = new OutputCollector();
    const stderr = new OutputCollector();
    child.stdout.on('data', (chunk: Buffer) => stdout.add(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.add(chunk));
    // A program that does not read its input closes the pipe: that is no failure of the run.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.stdin ?? '');
    const kill = (): boolean => child.kill('SIGKILL');
    options.signal?.addEventListener('abort', kill, { once: true });
    if (options.signal?.aborted) kill();
    const timer = setTimeout(() => {
      stderr.add(Buffer.from(`\n(killed: still running after ${timeoutMs} ms)\n`));
      kill();
    }, timeoutMs);
    const over = (): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', kill);
    };
    child.once('error', (error) => {
      over();
      reject(error);
    });
    child.once('close', (code, signal) => {
      over();
      resolve({
        command: [command, ...args].join(' '),
        code: code ?? -1,
        signal,
        stdout: stdout.text(),
        stderr: stderr.text(),
        elapsedMs: performance.now() - startedMs,
      });
    });
  });
}

/** As runCommand, and throws with everything that was printed unless the exit code is 0. */
export async function mustRun(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await runCommand(command, args, options);
  if (result.code !== 0) throw new Error(describeResult(result));
  return result;
}

export function describeResult(result: CommandResult): string {
  const end = result.signal ? `signal ${result.signal}` : `exit code ${result.code}`;
  return `${result.command}: ${end} after ${Math.round(result.elapsedMs)} ms\nstdout: ${tail(result.stdout)}\nstderr: ${tail(result.stderr)}`;
}

function tail(text: string): string {
  return text.length <= 4_000 ? text : `…${text.slice(-4_000)}`;
}
