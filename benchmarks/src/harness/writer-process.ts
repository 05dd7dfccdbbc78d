import { spawn, type ChildProcess } from 'node:child_process';
import type { VerifyResult } from '../verify/verify-volume.ts';
import type { WriterSummary } from '../verify/verifying-writer.ts';
import { compiledProgram } from './checkout.ts';
import { describeResult, OutputCollector, runCommand } from './run-command.ts';

export interface WriterProcessOptions {
  /** several: it reconnects to any of them */
  uri: string | readonly string[];
  logPath: string;
  offset?: number;
  length: number;
  seed?: number;
  depth?: number;
  connections?: number;
  writes?: number;
  flushEvery?: number;
  rate?: number;
  /** of so many percent of the writes the range is read again at once and compared */
  readShare?: number;
  /** time without any server after which it gives up (ms), when there are several URIs */
  giveUpMs?: number;
}

/** The verifying writer as a process of its own. */
export class WriterProcess {
  readonly #child: ChildProcess;
  readonly #stdout = new OutputCollector();
  readonly #stderr = new OutputCollector();
  readonly #exited: Promise<number>;
  /** acknowledged so far, as the writer last said */
  acknowledged = 0;
  acknowledgedSinceFlush = 0;
  #partial = '';

  constructor(options: WriterProcessOptions) {
    const flag = (name: string, value: number | undefined): string[] =>
      value === undefined ? [] : [`--${name}`, String(value)];
    const args = [
      compiledProgram('verify/main.js'),
      'write',
      ...[options.uri].flat().flatMap((uri) => ['--uri', uri]),
      ...['--log', options.logPath],
      ...flag('length', options.length),
      ...flag('offset', options.offset),
      ...flag('seed', options.seed),
      ...flag('depth', options.depth),
      ...flag('connections', options.connections),
      ...flag('writes', options.writes),
      ...flag('flush-every', options.flushEvery),
      ...flag('rate', options.rate),
      ...flag('read-share', options.readShare),
      ...flag('give-up-ms', options.giveUpMs),
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    child.stdout.on('data', (chunk: Buffer) => this.#stdout.add(chunk));
    child.stderr.on('data', (chunk: Buffer) => this.#readProgress(chunk.toString('utf8')));
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve(-1));
      child.once('close', (code) => resolve(code ?? -1));
    });
  }

  /** Waits for its own end (a number of writes, a broken connection). */
  async waitEnd(): Promise<WriterSummary> {
    const code = await this.#exited;
    const text = this.#stdout.text();
    if (code !== 0 || text === '') {
      throw new Error(`the writer ended with ${code}: ${text}${this.#stderr.text()}`);
    }
    return JSON.parse(text) as WriterSummary;
  }

  /** Asks it to finish what is in flight and end. */
  stop(): Promise<WriterSummary> {
    this.#child.kill('SIGTERM');
    return this.waitEnd();
  }

  /** Ends it at once; for cleaning up. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #readProgress(text: string): void {
    const lines = (this.#partial + text).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) {
      if (!line.startsWith('{')) this.#stderr.add(Buffer.from(`${line}\n`));
      else Object.assign(this, JSON.parse(line) as object);
    }
  }
}

/** Runs the verifier as a process of its own, on an NBD export or an image. */
export async function runVerifier(
  logPath: string,
  source: { uri: string } | { image: string },
): Promise<VerifyResult> {
  const from = 'uri' in source ? ['--uri', source.uri] : ['--image', source.image];
  const result = await runCommand(process.execPath, [
    compiledProgram('verify/main.js'),
    ...['verify', '--log', logPath, ...from],
  ]);
  if (result.code !== 0 && result.code !== 10) throw new Error(describeResult(result));
  return JSON.parse(result.stdout) as VerifyResult;
}
