/** Log messages of the product that stand for a named step of its protocols. */
const stepOf = new Map<string, string>([
  ['the in-sync set changed', 'set-change'],
  ['a replica was lost', 'member-lost'],
  ['the last in-sync replica is back', 'readmit'],
  ['resync is complete: the replica is in sync', 'resync'],
  ['primary has ended', 'primary-ended'],
  ['disk is open', 'disk-open'],
]);

/** Counts steps as the log of the cluster tells them. */
export class StepCounter {
  readonly counts: Record<string, number> = {};

  note(message: string, fields: { step?: unknown }): void {
    const step = typeof fields.step === 'string' ? fields.step : stepOf.get(message);
    if (step) this.count(step);
  }

  count(step: string): void {
    this.counts[step] = (this.counts[step] ?? 0) + 1;
  }
}
