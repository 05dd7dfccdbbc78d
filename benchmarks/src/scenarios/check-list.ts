export interface CheckResult {
  name: string;
  /** null when it held; otherwise what was wrong */
  problem: string | null;
  /** not done here, and why */
  skipped: string | null;
}

/** Named checks that run one after another; one that fails does not stop the others. */
export class CheckList {
  readonly results: CheckResult[] = [];

  async run(name: string, check: () => Promise<void>): Promise<void> {
    try {
      await check();
      this.results.push({ name, problem: null, skipped: null });
    } catch (error) {
      this.results.push({ name, problem: (error as Error).message, skipped: null });
    }
  }

  skip(name: string, reason: string): void {
    this.results.push({ name, problem: null, skipped: reason });
  }
}

/** Throws with `message` unless `condition` holds. */
export function expect(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}
