/** Entries of one page (16 KiB): of chunks that is 1 GiB of a volume. */
const pageBits = 12;
const pageEntries = 1 << pageBits;
const pageMask = pageEntries - 1;

/**
 * A number (32 bits) for each chunk or region, 0 where none was put. Pages of it are there once something is
 * put into them: a segment of 256 GiB without data costs nothing, and who looks for data need not look everywhere.
 */
export class PagedNumbers {
  #size: number;
  #pages: (Int32Array | undefined)[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  /** how many it has numbers for */
  get length(): number {
    return this.#size;
  }

  /** Pages that it has memory for. */
  get pageCount(): number {
    return this.#pages.reduce((count, page) => count + (page ? 1 : 0), 0);
  }

  get(index: number): number {
    const page = this.#pages[index >> pageBits];
    return page === undefined ? 0 : (page[index & pageMask] ?? 0);
  }

  /** What lies behind the end is left out. */
  put(index: number, value: number): void {
    if (index < 0 || index >= this.#size) return;
    let page = this.#pages[index >> pageBits];
    if (page === undefined) {
      if (value === 0) return;
      page = new Int32Array(this.#entriesOf(index >> pageBits));
      this.#pages[index >> pageBits] = page;
    }
    page[index & pageMask] = value;
  }

  /** Numbers for so many from now on; never fewer. */
  grow(size: number): void {
    if (size <= this.#size) return;
    const number = this.#size >> pageBits;
    const last = this.#pages[number];
    this.#size = size;
    if (last === undefined) return;
    const page = new Int32Array(this.#entriesOf(number));
    page.set(last);
    this.#pages[number] = page;
  }

  clear(): void {
    this.#pages = [];
  }

  /** The first one at or after `from` with another number than 0, or -1. */
  next(from: number): number {
    for (let index = from; index < this.#size;) {
      const page = this.#pages[index >> pageBits];
      if (page === undefined) index = ((index >> pageBits) + 1) << pageBits;
      else if ((page[index & pageMask] ?? 0) !== 0) return index;
      else index += 1;
    }
    return -1;
  }

  #entriesOf(number: number): number {
    return Math.min(pageEntries, this.#size - number * pageEntries);
  }
}
