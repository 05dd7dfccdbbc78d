import { spawn } from 'node:child_process';
import { StorError } from '@stor/protocol';

/** They touch this machine only; one that hangs for longer waits for what will not come (ms). */
const programTimeoutMs = 30_000;
/** SIGKILL ends a program at once, unless it waits in the kernel: then it is left to itself (ms). */
const killWaitMs = 2_000;
/** Of what a program says so much is kept (bytes). */
const mostOutputBytes = 64 * 1024;

export interface RunOptions {
  /** given to the program as its descriptor 3 */
  fd3?: number;
  /** where the program is from, for the message when it is missing */
  debianPackage: string;
  signal?: AbortSignal;
}

/**
 * Runs a program to its end and returns what it printed. FAILED_PRECONDITION when it is missing,
 * INTERNAL with what it said when it fails, TIMEOUT, ABORTED.
 */
export function runProgram(
  name: string,
  args: readonly string[],
  { fd3, debianPackage, signal }: RunOptions,
): Promise<string> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(new StorError('ABORTED', `${name} was not run: aborted`));
      return;
    }
    const child = spawn(name, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(fd3 === undefined ? [] : [fd3])],
      cwd: '/',
      env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
    });
    let why: StorError | null = null;
    const end = (error: StorError): void => {
      if (why) return;
      why = error;
      child.kill('SIGKILL');
      // what it has done by then is seen after it has ended only
      setTimeout(() => reject(error), killWaitMs).unref();
    };
    const command = [name, ...args].join(' ');
    const timer = setTimeout(() => {
      end(new StorError('TIMEOUT', `"${command}" did not end within ${programTimeoutMs} ms`));
    }, programTimeoutMs);
    const onAbort = (): void => end(new StorError('ABORTED', `"${command}" was aborted`));
    signal?.addEventListener('abort', onAbort, { once: true });
    const output = collect(child.stdout);
    const errors = collect(child.stderr);
    const over = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
    child.once('error', (cause) => {
      over();
      reject(cannotRun(name, debianPackage, cause));
    });
    child.once('close', (code) => {
      over();
      if (why) reject(why);
      else if (code === 0) resolve(output.text());
      else {
        const said = errors.text().trim() || `exit code ${code}`;
        reject(new StorError('INTERNAL', `"${command}" failed: ${said}`));
      }
    });
  });
}

function collect(stream: NodeJS.ReadableStream | null): { text(): string } {
  const parts: Buffer[] = [];
  let total = 0;
  stream?.on('data', (part: Buffer) => {
    if (total < mostOutputBytes) parts.push(part);
    total += part.length;
  });
  return { text: () => Buffer.concat(parts).toString('utf8') };
}

function cannotRun(name: string, debianPackage: string, cause: Error): StorError {
  if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
    const text = `this host has no program "${name}": install ${debianPackage}`;
    return new StorError('FAILED_PRECONDITION', text, { cause });
  }
  return new StorError('INTERNAL', `"${name}" could not be run: ${cause.message}`, { cause });
}
