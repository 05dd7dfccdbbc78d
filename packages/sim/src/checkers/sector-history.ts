/** One write as the history of a sector knows it. Times are positions in the run's order. */
interface Write {
  readonly value: number;
  /** it may have taken effect from here on */
  readonly startAt: number;
  /** it had taken effect by then: it was acknowledged or read */
  minEndAt: number;
  /** begin of the last read that returned it */
  maxStartAt: number;
  acknowledgedAt: number;
  wasRead: boolean;
  fua: boolean;
  /** a whole block was written at once */
  readonly isWhole: boolean;
  /** it was under way when memory was lost: an answer from before that promises nothing any more */
  isCarried: boolean;
}

const never = Infinity;

/** Moments between two positions in the run's order, both left out. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** What was known of a time that ended with a loss of memory, or with a rollback. */
interface Era {
  /** it began between these */
  readonly fromAt: number;
  readonly at: number;
  readonly writes: ReadonlyMap<number, Write>;
  readonly zeros: readonly Write[];
  readonly candidates: ReadonlySet<number>;
  readonly initial: number | null;
}

/**
 * What one sector may hold. Every write but zeros has a value of its own, so linearizability is
 * decided exactly (Gibbons and Korach 1997): the operations of each value span a zone; no two forward
 * zones may overlap and no backward zone may lie inside a forward one. Reads of zeros are judged at
 * once: somebody must have written zeros that nobody has surely overwritten.
 *
 * When every member has lost what was not flushed, a new era begins: what was read last may be gone,
 * and the sector holds any one value that was not surely overwritten by a durable write (I5).
 */
export class SectorHistory {
  #writes = new Map<number, Write>();
  /** writes of zeros in this era, with numbers of their own */
  #zeros: Write[] = [];
  /** values that this era may begin with; the first read of one decides */
  #candidates: Set<number> = new Set([0]);
  #initial: number | null = 0;
  #eraAt = -1;
  #eraFromAt = -1;
  readonly #past: Era[] = [];

  /** `value` 0 writes zeros. */
  started(value: number, at: number, fua: boolean, isWhole: boolean): Write {
    const write: Write = {
      value,
      startAt: at,
      minEndAt: never,
      maxStartAt: at,
      acknowledgedAt: never,
      wasRead: false,
      fua,
      isWhole,
      isCarried: false,
    };
    if (value === 0) this.#zeros.push(write);
    else this.#writes.set(value, write);
    return write;
  }

  acknowledged(write: Write, at: number): void {
    if (write.isCarried) return;
    write.acknowledgedAt = Math.min(write.acknowledgedAt, at);
    write.minEndAt = Math.min(write.minEndAt, at);
  }

  /** What is wrong with a read, or null. */
  read(value: number, startAt: number, endAt: number): string | null {
    // its answer may have been on its way when memory was lost: it says nothing of what is left
    if (startAt < this.#eraAt) return null;
    const write = value === 0 ? null : this.#writes.get(value);
    if (write) {
      if (endAt < write.startAt) return `holds ${value} before it was written`;
      write.wasRead = true;
      write.minEndAt = Math.min(write.minEndAt, endAt);
      write.maxStartAt = Math.max(write.maxStartAt, startAt);
      return this.#overwritten(value, write, startAt);
    }
    if (value === 0) {
      const zeros = this.#zeros.find(
        (zero) => zero.startAt < endAt && this.#overwritten(0, zero, startAt) === null,
      );
      if (zeros) return null;
    }
    return this.#readInitial(value, startAt);
  }

  #readInitial(value: number, startAt: number): string | null {
    if (!this.#candidates.has(value)) {
      const of = [...this.#candidates].join();
      return `holds ${value}, which is none of what it may hold (${of} at the beginning of the era)`;
    }
    if (this.#initial !== null && this.#initial !== value) {
      return `holds ${value}, but was read as ${this.#initial} after power was lost`;
    }
    this.#initial = value;
    for (const other of this.#all()) {
      if (other.minEndAt < startAt) return `holds ${value}, older than ${other.value}`;
    }
    return null;
  }

  /** Whole-block writes: two of them in one block mean that it was torn. */
  isWholeWrite(value: number): boolean {
    return this.#writes.get(value)?.isWhole === true;
  }

  /** What is not linearizable in this era, or null. */
  check(): string | null {
    const happened = [...this.#all()].filter((w) => w.acknowledgedAt !== never || w.wasRead);
    const forward = happened.filter((w) => w.minEndAt < w.maxStartAt);
    const backward = happened.filter((w) => w.minEndAt >= w.maxStartAt);
    forward.sort((a, b) => a.minEndAt - b.minEndAt);
    for (let i = 1; i < forward.length; i++) {
      const before = forward[i - 1];
      const after = forward[i];
      if (before && after && before.maxStartAt > after.minEndAt) {
        return `values ${before.value} and ${after.value} came back after each other`;
      }
    }
    for (const zone of forward) {
      const inside = backward.find(
        (w) => w.maxStartAt > zone.minEndAt && w.minEndAt < zone.maxStartAt,
      );
      if (inside) return `value ${zone.value} was read after ${inside.value} had replaced it`;
    }
    return null;
  }

  /**
   * Nobody kept what was not flushed. `flushedAt`: begin of the last FLUSH that was acknowledged.
   * Returns what was wrong until now.
   */
  memoryLost(at: number, flushedAt: number): string | null {
    const problem = this.check();
    const isDurable = (w: Write): boolean =>
      w.acknowledgedAt !== never && (w.fua || w.acknowledgedAt < flushedAt);
    const durable = [...this.#all()].filter(isDurable);
    const survives = (endAt: number): boolean => !durable.some((w) => w.startAt > endAt);
    const candidates = new Set<number>();
    if (survives(this.#eraAt)) {
      if (this.#initial !== null) candidates.add(this.#initial);
      else for (const value of this.#candidates) candidates.add(value);
    }
    const open: Write[] = [];
    for (const write of this.#all()) {
      if (write.acknowledgedAt === never) open.push(write);
      if (survives(write.minEndAt)) candidates.add(write.value);
    }
    this.#begin(at, candidates, open);
    return problem;
  }

  /**
   * Everything became this value, durably, at some moment from `fromAt` until now; nobody had a request
   * under way then. Returns what was wrong until now.
   */
  became(value: number, fromAt: number, at: number): string | null {
    const problem = this.check();
    const open = [...this.#all()].filter((write) => write.acknowledgedAt === never);
    this.#begin(at, new Set([value]), open, fromAt);
    return problem;
  }

  /**
   * The moments in `within` at which the sector may have held the value, in order. `isEarly`: whatever
   * became another image at some moment did so at the first one possible, else at the last.
   */
  heldIn(value: number, within: Span, isEarly: boolean): Span[] {
    const eras = [...this.#past, this.#now()];
    const spans: Span[] = [];
    // the last one first: a rollback may have been done before a loss of memory that was seen earlier
    let endAt = within.to;
    for (const era of eras.reverse()) {
      const begin = isEarly ? era.fromAt : era.at;
      const from = Math.max(within.from, begin);
      if (from < endAt) spans.unshift(...heldInEra(era, value, begin, { from, to: endAt }));
      endAt = Math.min(endAt, begin);
    }
    return spans;
  }

  #now(): Era {
    return {
      fromAt: this.#eraFromAt,
      at: this.#eraAt,
      writes: this.#writes,
      zeros: this.#zeros,
      candidates: this.#candidates,
      initial: this.#initial,
    };
  }

  #begin(at: number, candidates: Set<number>, open: readonly Write[], fromAt = at): void {
    this.#past.push(this.#now());
    this.#candidates = candidates;
    this.#initial = candidates.size === 1 ? ([...candidates][0] ?? null) : null;
    this.#eraFromAt = fromAt;
    this.#eraAt = at;
    this.#writes = new Map();
    this.#zeros = [];
    // a request that is not answered may still be sent again, or arrive late
    for (const write of open) this.#carryOver(write);
  }

  #carryOver(write: Write): void {
    write.isCarried = true;
    // the power cut may have torn it
    const carried = {
      ...write,
      isWhole: false,
      startAt: -1,
      minEndAt: never,
      maxStartAt: -1,
      wasRead: false,
    };
    if (write.value === 0) this.#zeros.push(carried);
    else this.#writes.set(write.value, carried);
  }

  /** A later write was over before the read began. */
  #overwritten(value: number, write: Write, startAt: number): string | null {
    for (const other of this.#all()) {
      if (other === write || other.minEndAt >= startAt) continue;
      if (other.startAt > write.minEndAt) return `holds ${value}, older than ${other.value}`;
    }
    return null;
  }

  *#all(): Iterable<Write> {
    yield* this.#writes.values();
    yield* this.#zeros;
  }
}

/** Each write of the value from its begin on, until another one that came after it was surely over. */
function heldInEra(era: Era, value: number, begin: number, within: Span): Span[] {
  const all = [...era.writes.values(), ...era.zeros];
  const spans: Span[] = [];
  const add = (from: number, after: (other: Write) => boolean): void => {
    let { to } = within;
    for (const other of all) if (after(other)) to = Math.min(to, other.minEndAt);
    if (Math.max(from, within.from) < to) spans.push({ from: Math.max(from, within.from), to });
  };
  for (const write of all) {
    if (write.value === value) add(write.startAt, (other) => other.startAt > write.minEndAt);
  }
  const mayBegin = era.initial === null ? era.candidates.has(value) : era.initial === value;
  if (mayBegin) add(begin, () => true);
  return joined(spans);
}

/** In order, and one where they meet. */
export function joined(spans: readonly Span[]): Span[] {
  const result: Span[] = [];
  for (const span of [...spans].sort((a, b) => a.from - b.from)) {
    const last = result[result.length - 1];
    if (last && span.from <= last.to) {
      result[result.length - 1] = { from: last.from, to: Math.max(last.to, span.to) };
    } else result.push(span);
  }
  return result;
}

/** The moments that are in both; each in order. */
export function common(some: readonly Span[], others: readonly Span[]): Span[] {
  const result: Span[] = [];
  for (const one of some) {
    for (const other of others) {
      const from = Math.max(one.from, other.from);
      const to = Math.min(one.to, other.to);
      if (from < to) result.push({ from, to });
    }
  }
  return result;
}

export type SectorWrite = Write;
