/** Log messages of the product that stand for a named step of its protocols. */
const stepOf = new Map<string, string>([
  ['a replica was lost', 'member-lost'],
  ['the last in-sync replica is back', 'readmit'],
  ['resync is complete: the replica is in sync', 'join'],
  ['primary has ended', 'primary-ended'],
  ['disk is open', 'disk-open'],
  ['the replica is fenced', 'fence'],
  ['checkpoint: marks at rest are cleared', 'checkpoint'],
  ['settle: members differ and are made equal', 'settle-copy'],
  ['a replica could not give a block', 'read-elsewhere'],
  ['a replica has failed', 'replica-failed'],
  ['reads wait for a lease', 'lease-expired'],
  ['agent started', 'agent-start'],
]);

/** Counts steps as the log of the cluster tells them. */
export class StepCounter {
  readonly counts: Record<string, number> = {};

  readonly #sets = new Map<string, number>();

  note(message: string, fields: Fields): void {
    const step = stepOf.get(message);
    if (step) this.count(step);
    if (message === 'the primary serves') this.#served(fields);
    else if (message === 'the in-sync set changed') this.#setChanged(fields);
    else if (message === 'a set change has no answer yet') {
      if (fields.code === 'OUTCOME_UNKNOWN') this.count('set-unknown-outcome');
    } else if (message === 'replicas change') {
      if (fields.what === 'another replica (replacement)') this.count('replacement');
    } else if (message === 'resync is planned') this.count(`resync-${fields.kind ?? ''}`);
  }

  #served(fields: Fields): void {
    this.count('attach');
    this.count(fields.waitedForLeases ? 'failover' : 'handover');
    if ((fields.regionsToSettle ?? 0) > 0) this.count('settle');
    this.#sets.set(fields.volume ?? '', fields.inSync?.length ?? 0);
  }

  #setChanged({ volume = '', inSync = [] }: Fields): void {
    const before = this.#sets.get(volume) ?? inSync.length;
    if (inSync.length < before) this.count('shrink');
    if (inSync.length > before) this.count('grow');
    this.#sets.set(volume, inSync.length);
  }

  count(step: string): void {
    this.counts[step] = (this.counts[step] ?? 0) + 1;
  }
}

interface Fields {
  volume?: string;
  inSync?: string[];
  kind?: string;
  code?: string;
  what?: string;
  waitedForLeases?: boolean;
  regionsToSettle?: number;
}
