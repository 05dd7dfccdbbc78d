/**
 * What each sector may hold, by the writes that were issued and acknowledged.
 *
 * The rule: a write is superseded on a sector once another write of that sector, issued after the
 * first had ended, was acknowledged. Every write that is not superseded may be what a reader finds,
 * as overlapping writes in flight have no order, and one that was never answered may have happened.
 * Reading settles it: reads never go back (I5).
 */
export class WriteModel {
  readonly sectors: number;
  /** The one write that a sector must hold: its number, negative for zeros, 0 if never written. */
  readonly #only: Float64Array;
  /** Sectors that may hold one of several writes. */
  readonly #several = new Map<number, number[]>();
  /** Writes in flight, and ended ones that `#several` still names. */
  readonly #writes = new Map<number, WriteRecord>();
  #order = 0;

  constructor(sectors: number) {
    this.sectors = sectors;
    this.#only = new Float64Array(sectors);
  }

  /** `id` is the write's number, negative when it writes zeros. */
  issue(id: number, firstSector: number, count: number): void {
    this.#order += 1;
    const record = { firstSector, count, issued: this.#order, ended: Infinity, named: count };
    this.#writes.set(id, record);
    for (let sector = firstSector; sector < firstSector + count; sector += 1) {
      const candidates = this.#several.get(sector);
      if (candidates) {
        candidates.push(id);
      } else {
        const before = this.#only[sector] ?? 0;
        this.#several.set(sector, [before, id]);
        // A record outlives its write only while a list names it; this one is named again.
        const previous = this.#writes.get(before);
        if (previous) previous.named += 1;
      }
    }
  }

  acknowledge(id: number): void {
    const record = this.#end(id);
    for (let index = 0; index < record.count; index += 1) {
      const sector = record.firstSector + index;
      const candidates = this.#several.get(sector);
      if (!candidates) continue;
      const left = candidates.filter((other) => other === id || !this.#endedBefore(other, record));
      for (const other of candidates) if (!left.includes(other)) this.#unname(other);
      if (left.length === 1) this.#settle(sector, left[0] ?? 0);
      else this.#several.set(sector, left);
    }
    this.#forgetIfDone(id);
  }

  /** The write was answered with an error, or never: each of its sectors may be old or new. */
  giveUp(id: number): void {
    this.#end(id);
    this.#forgetIfDone(id);
  }

  /** Ids of the writes that have neither been acknowledged nor given up. */
  inFlight(): number[] {
    return [...this.#writes].filter(([, record]) => record.ended === Infinity).map(([id]) => id);
  }

  candidates(sector: number): readonly number[] {
    return this.#several.get(sector) ?? [this.#only[sector] ?? 0];
  }

  /** False when `other` ended before `id` was issued: then it cannot hide what `id` wrote. */
  mayFollow(other: number, id: number): boolean {
    const record = this.#writes.get(id);
    // Without a record it was decided long ago, and what is still there beside it came later.
    return record === undefined || !this.#endedBefore(other, record);
  }

  /** A reader found `id` here: from now on nothing older may be found. */
  observe(sector: number, id: number): void {
    const candidates = this.#several.get(sector);
    if (!candidates) return;
    // Writes in flight may still land after the read.
    const left = candidates.filter((other) => other === id || this.isInFlight(other));
    for (const other of candidates) if (!left.includes(other)) this.#unname(other);
    if (left.length === 1) this.#settle(sector, id);
    else this.#several.set(sector, left);
  }

  /** Sectors whose contents no acknowledgement has decided yet. */
  get undecidedSectors(): number {
    return this.#several.size;
  }

  /** Sectors that were written at least once, zeros included. */
  writtenSectors(): number {
    let written = this.#several.size;
    for (let sector = 0; sector < this.sectors; sector += 1) {
      if (this.#only[sector] !== 0 && !this.#several.has(sector)) written += 1;
    }
    return written;
  }

  /** Records kept; bounded by the writes in flight and the undecided sectors. */
  get recordCount(): number {
    return this.#writes.size;
  }

  #end(id: number): WriteRecord {
    const record = this.#writes.get(id);
    if (!record || record.ended !== Infinity) throw new Error(`write ${id} is not in flight`);
    this.#order += 1;
    record.ended = this.#order;
    return record;
  }

  /** Neither acknowledged nor given up yet. */
  isInFlight(id: number): boolean {
    return this.#writes.get(id)?.ended === Infinity;
  }

  /** A write without a record was decided long ago, or is the zeros from the beginning. */
  #endedBefore(id: number, record: WriteRecord): boolean {
    const other = this.#writes.get(id);
    return other === undefined || other.ended < record.issued;
  }

  #settle(sector: number, id: number): void {
    this.#only[sector] = id;
    this.#several.delete(sector);
    this.#unname(id);
  }

  #unname(id: number): void {
    const record = this.#writes.get(id);
    if (!record) return;
    record.named -= 1;
    this.#forgetIfDone(id);
  }

  #forgetIfDone(id: number): void {
    const record = this.#writes.get(id);
    if (record && record.named <= 0 && record.ended !== Infinity) this.#writes.delete(id);
  }
}

interface WriteRecord {
  firstSector: number;
  count: number;
  issued: number;
  ended: number;
  /** how many sectors name this write as one of several candidates */
  named: number;
}
