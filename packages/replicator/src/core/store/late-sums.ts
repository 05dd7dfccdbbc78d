/** Slots whose checksums share one page of the sums file. */
export const slotsPerSumsPage = 16;

/** Consecutive slots, the last one not included. */
export interface SlotSpan {
  first: number;
  end: number;
}

/**
 * Which pages of a sums file have checksums that are in memory only, the oldest first. A page that was
 * written in between and became late again may be named twice: the second time nothing is left to do.
 */
export class LatePages {
  #isLate = new Uint8Array(64);
  #queue: number[] = [];
  #head = 0;
  #count = 0;

  /** pages that are late */
  get count(): number {
    return this.#count;
  }

  has(page: number): boolean {
    return this.#isLate[page] === 1;
  }

  add(page: number): void {
    if (this.#isLate[page] === 1) return;
    if (page >= this.#isLate.length) {
      const larger = new Uint8Array(Math.max(page + 1, this.#isLate.length * 2));
      larger.set(this.#isLate);
      this.#isLate = larger;
    }
    this.#isLate[page] = 1;
    this.#count += 1;
    this.#queue.push(page);
  }

  /** Its file has all of them now. */
  remove(page: number): void {
    if (this.#isLate[page] !== 1) return;
    this.#isLate[page] = 0;
    this.#count -= 1;
  }

  /** -1: none is late. */
  oldest(): number {
    let oldest = -1;
    for (; oldest < 0 && this.#head < this.#queue.length; this.#head += 1) {
      const page = this.#queue[this.#head] ?? -1;
      if (this.has(page)) oldest = page;
    }
    if (oldest >= 0) this.#head -= 1;
    if (this.#head * 2 >= this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    return oldest;
  }

  /** All that are late, in the order of the file. */
  all(): number[] {
    const late = new Set(this.#queue.slice(this.#head).filter((page) => this.has(page)));
    return [...late].sort((a, b) => a - b);
  }
}

/**
 * What is to be written of a page whose slots are late where `late` says so. `holes`: what lies between
 * them must be read first. Two small writes cost less than to read and write what is between them.
 */
export function spansOf(late: readonly boolean[]): { spans: SlotSpan[]; holes: boolean } {
  const spans: SlotSpan[] = [];
  for (const [slot, isLate] of late.entries()) {
    if (!isLate) continue;
    const last = spans.at(-1);
    if (last?.end === slot) last.end = slot + 1;
    else spans.push({ first: slot, end: slot + 1 });
  }
  const [first] = spans;
  const last = spans.at(-1);
  if (spans.length <= 2 || !first || !last) return { spans, holes: false };
  return { spans: [{ first: first.first, end: last.end }], holes: true };
}
