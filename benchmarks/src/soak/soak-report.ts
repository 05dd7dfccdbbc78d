import { aims, type PlannedFault } from './plan-faults.ts';
import { faultKinds } from '../namespaces/faults.ts';

export interface FaultRecord extends PlannedFault {
  /** what the node was when it was hit */
  wasPrimary: boolean;
  wasLeader: boolean;
}

/** What a run did and found, over all its rounds. */
export class SoakReport {
  readonly faults: FaultRecord[] = [];
  readonly problems: string[] = [];
  rounds = 0;
  primaryChanges = 0;
  acknowledged = 0;
  readsCompared = 0;
  fioJobs = 0;
  /** the longest time without an answer to the verifying writer (ms) */
  longestStallMs = 0;
  readonly #startedMs = Date.now();

  say(line: string): void {
    const seconds = ((Date.now() - this.#startedMs) / 1_000).toFixed(1).padStart(8);
    process.stdout.write(`${seconds} s  ${line}\n`);
  }

  problem(text: string): void {
    this.problems.push(text);
    this.say(`PROBLEM: ${text}`);
  }

  /** The table of faults and the sums. */
  text(): string {
    const row = (cells: readonly (string | number)[]): string =>
      cells
        .map((cell, index) => (index === 0 ? `${cell}`.padEnd(16) : `${cell}`.padStart(10)))
        .join('');
    const lines = [row(['fault', ...aims, 'sum', '(primary)', '(leader)'])];
    for (const kind of [...faultKinds, null]) {
      const some = this.faults.filter((fault) => kind === null || fault.kind === kind);
      lines.push(
        row([
          kind ?? 'sum',
          ...aims.map((aim) => some.filter((fault) => fault.aim === aim).length),
          some.length,
          some.filter((fault) => fault.wasPrimary).length,
          some.filter((fault) => fault.wasLeader).length,
        ]),
      );
    }
    lines.push(
      '',
      `${this.rounds} rounds, ${this.primaryChanges} changes of the primary, ${this.acknowledged} writes acknowledged, ` +
        `${this.readsCompared} reads compared, ${this.fioJobs} fio jobs verified, ` +
        `longest stall ${(this.longestStallMs / 1_000).toFixed(1)} s`,
      this.problems.length === 0 ? 'no problem' : `${this.problems.length} problem(s):`,
      ...this.problems.map((problem) => `  ${problem}`),
    );
    return `${lines.join('\n')}\n`;
  }
}
