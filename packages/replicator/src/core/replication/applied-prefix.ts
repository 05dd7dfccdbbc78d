interface Entry {
  sequence: number;
  bytes: number;
  applied: boolean;
}

/**
 * How far a replica has applied a channel's stream without a gap: what a cumulative acknowledgement
 * may say. Writes finish in any order; one that is done before its elders waits here for them.
 */
export class AppliedPrefix {
  #sequence = 0;
  #bytes = 0;
  #pending: Entry[] = [];
  #first = 0;
  #received = 0;

  /** everything up to this sequence is applied */
  get sequence(): number {
    return this.#sequence;
  }
  /** bytes of all that, so that the primary can bound what lies at this replica */
  get bytes(): number {
    return this.#bytes;
  }
  get pending(): number {
    return this.#pending.length - this.#first;
  }
  /** frames that came */
  get received(): number {
    return this.#received;
  }
  /** of these, those before which none is under way */
  get finished(): number {
    return this.#received - this.pending;
  }

  /** A frame that is applied already; true when the prefix grew. */
  done(sequence: number, bytes: number): boolean {
    this.#received += 1;
    if (this.pending === 0) {
      this.#sequence = sequence;
      this.#bytes += bytes;
      return true;
    }
    this.#pending.push({ sequence, bytes, applied: true });
    return false;
  }

  /** A frame whose effect is under way; give the result to `applied`. */
  begin(sequence: number, bytes: number): object {
    const entry: Entry = { sequence, bytes, applied: false };
    this.#received += 1;
    this.#pending.push(entry);
    return entry;
  }

  /** True when the prefix grew. */
  applied(token: object): boolean {
    (token as Entry).applied = true;
    let grew = false;
    for (;;) {
      const entry = this.#pending[this.#first];
      if (!entry?.applied) break;
      this.#sequence = entry.sequence;
      this.#bytes += entry.bytes;
      this.#first += 1;
      grew = true;
    }
    if (this.#first > 64 && this.#first * 2 > this.#pending.length) {
      this.#pending = this.#pending.slice(this.#first);
      this.#first = 0;
    } else if (this.#first === this.#pending.length) {
      this.#pending = [];
      this.#first = 0;
    }
    return grew;
  }
}
