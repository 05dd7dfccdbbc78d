import { spawn, type ChildProcess } from 'node:child_process';
import { compiledProgram } from '../harness/checkout.ts';
import { waitFor } from '../harness/wait-for.ts';

export interface SlowRequest {
  kind: 'write' | 'read';
  /** milliseconds since 1970, with fractions */
  sentMs: number;
  answeredMs: number;
}

interface ProbeLine extends Partial<SlowRequest> {
  writeMs?: number;
  readMs?: number;
  error?: string;
}

/** The same clock as the probe's, which runs in a process of its own (ms since 1970). */
export function probeNowMs(): number {
  return performance.timeOrigin + performance.now();
}

/** A client that writes and reads without a pause, and says how long each request took. */
export class StallProbe {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #slow: SlowRequest[] = [];
  #answeredToMs = 0;
  #partial = '';
  /** what ended it; null while it runs */
  error: string | null = null;

  private constructor(uris: readonly string[]) {
    const args = uris.flatMap((uri) => ['--uri', uri]);
    const program = compiledProgram('measure/stall-probe-main.js');
    const child = spawn(process.execPath, [program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    child.stdout.on('data', (chunk: Buffer) => this.#read(chunk.toString('utf8')));
    child.stderr.on('data', (chunk: Buffer) => (this.error ??= chunk.toString('utf8')));
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('close', () => resolve());
    });
  }

  /** Starts it and waits until it reads and writes. */
  static async start(uris: readonly string[]): Promise<StallProbe> {
    const probe = new StallProbe(uris);
    try {
      await probe.waitAnswers(probeNowMs());
      return probe;
    } catch (error) {
      await probe.stop();
      throw error;
    }
  }

  /** Waits for answers to a write and to a read that were sent after `sinceMs`. */
  async waitAnswers(sinceMs: number, deadlineMs = 60_000): Promise<void> {
    const isOver = (): boolean => this.error !== null || this.#answeredToMs > sinceMs;
    await waitFor('answers to the probe', isOver, { deadlineMs, intervalMs: 20 });
    if (this.error !== null) throw new Error(`the probe ended: ${this.error}`);
  }

  /** The longest time that a request took which was under way at `fromMs` or sent later (ms). */
  longestSince(fromMs: number): number {
    const times = this.#slow
      .filter(({ answeredMs }) => answeredMs >= fromMs)
      .map(({ sentMs, answeredMs }) => answeredMs - sentMs);
    return Math.max(0, ...times);
  }

  /** When the first write was answered that was under way at `fromMs`, or null. */
  firstWriteAfter(fromMs: number): number | null {
    const found = this.#slow.find(
      ({ kind, sentMs, answeredMs }) =>
        kind === 'write' && answeredMs > fromMs && sentMs >= fromMs - 1_000,
    );
    return found?.answeredMs ?? null;
  }

  /** Ends it at once. Works twice. */
  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #read(text: string): void {
    const lines = (this.#partial + text).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const text of lines) {
      const line = JSON.parse(text) as ProbeLine;
      if (line.error !== undefined) this.error = line.error;
      if (line.writeMs !== undefined && line.readMs !== undefined) {
        this.#answeredToMs = Math.min(line.writeMs, line.readMs);
      }
      const { kind, sentMs, answeredMs } = line;
      if (kind !== undefined && sentMs !== undefined && answeredMs !== undefined) {
        this.#slow.push({ kind, sentMs, answeredMs });
      }
    }
  }
}
