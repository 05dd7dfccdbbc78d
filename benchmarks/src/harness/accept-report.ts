export interface AcceptLine {
  name: string;
  value: string;
  target: string;
  ok: boolean;
}

/** Collects the lines of an acceptance run and prints each as soon as it is known. */
export class AcceptReport {
  readonly #lines: AcceptLine[] = [];

  add(name: string, value: string, target: string, ok: boolean): void {
    this.#lines.push({ name, value, target, ok });
    const verdict = ok ? 'ok    ' : 'MISSED';
    process.stdout.write(`${verdict}  ${name.padEnd(58)} ${value.padEnd(34)} target: ${target}\n`);
  }

  /** Runs a part; one that throws is a line that was missed, and the others go on. */
  async part(name: string, run: () => Promise<void>): Promise<void> {
    process.stderr.write(`-- ${name}\n`);
    try {
      await run();
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      process.stderr.write(`${text}\n`);
      this.add(name, 'did not finish', 'finishes', false);
    }
  }

  /** Prints the sum; true when nothing was missed. */
  finish(): boolean {
    const missed = this.#lines.filter((line) => !line.ok);
    process.stdout.write(`\n${this.#lines.length - missed.length} ok, ${missed.length} missed\n`);
    for (const line of missed) process.stdout.write(`MISSED  ${line.name}: ${line.value}\n`);
    return missed.length === 0 && this.#lines.length > 0;
  }
}

export function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}
