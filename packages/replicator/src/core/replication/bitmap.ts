/** Members of one page. Empty pages do not exist: a set costs what its members need, not its size. */
const pageBits = 14;
const pageMembers = 1 << pageBits;
const pageMask = pageMembers - 1;
/** A page of members only; never changed, so all sets may share it. */
const wholePage = new Uint8Array(pageMembers / 8).fill(0xff);

/**
 * A set of small numbers, in pages of bits that are there when they have members: a segment of 256 GiB has
 * a million chunks, and most have no data. In a flat form (`toBytes`, also that on the wire) bit i is bit i & 7
 * of byte i >> 3.
 */
export class Bitmap {
  readonly size: number;
  #pages: (Uint8Array | undefined)[] = [];
  #count = 0;

  /** `bytes`: its flat form; what is missing at the end is zeros. */
  constructor(size: number, bytes?: Uint8Array) {
    this.size = size;
    if (!bytes) return;
    for (let from = 0; from < Math.min(size, bytes.length * 8); from += pageMembers) {
      const own = bytes.subarray(from / 8, (from + pageMembers) / 8);
      if (own.some((byte) => byte !== 0))
        this.#page(from >> pageBits).set(own.subarray(0, this.#bytesOf(from)));
    }
    this.#trim();
  }

  static full(size: number): Bitmap {
    const bitmap = new Bitmap(size);
    bitmap.addRun(0, size);
    return bitmap;
  }

  get count(): number {
    return this.#count;
  }

  /** Pages that it has memory for: what it costs. */
  get pageCount(): number {
    return this.#pages.reduce((count, page) => count + (page && page !== wholePage ? 1 : 0), 0);
  }

  has(index: number): boolean {
    const page = this.#pages[index >> pageBits];
    if (page === undefined) return false;
    return (((page[(index & pageMask) >> 3] ?? 0) >> (index & 7)) & 1) === 1;
  }

  add(index: number): void {
    if (index < 0 || index >= this.size || this.has(index)) return;
    const page = this.#pages[index >> pageBits] ?? this.#page(index >> pageBits);
    const at = (index & pageMask) >> 3;
    page[at] = (page[at] ?? 0) | (1 << (index & 7));
    this.#count += 1;
  }

  /** All of [from, end) that are below the size. */
  addRun(from: number, end: number): void {
    const stop = Math.min(end, this.size);
    for (let index = from; index < stop;) {
      if ((index & pageMask) === 0 && index + pageMembers <= stop) {
        this.#count += pageMembers - membersOf(this.#pages[index >> pageBits]);
        this.#pages[index >> pageBits] = wholePage;
        index += pageMembers;
      } else this.add(index++);
    }
  }

  delete(index: number): void {
    if (index < 0 || index >= this.size || !this.has(index)) return;
    const page = this.#page(index >> pageBits);
    const at = (index & pageMask) >> 3;
    page[at] = (page[at] ?? 0) & ~(1 << (index & 7));
    this.#count -= 1;
    if (this.#count === 0) this.#pages = [];
  }

  /** The first member at or after `from`, or -1. */
  next(from: number): number {
    if (this.#count === 0) return -1;
    for (let index = from; index < this.size;) {
      const page = this.#pages[index >> pageBits];
      if (page === undefined) {
        index = pageAfter(index);
        continue;
      }
      const byte = page[(index & pageMask) >> 3] ?? 0;
      if (byte === 0) index = (index | 7) + 1;
      else if (((byte >> (index & 7)) & 1) === 1) return index;
      else index += 1;
    }
    return -1;
  }

  /** Where the run that `from` lies in ends, of members or of others; `end` when it goes on behind that. */
  runEnd(from: number, end: number): number {
    const isMember = this.has(from);
    const same = isMember ? 0xff : 0;
    for (let index = from + 1; index < end;) {
      const page = this.#pages[index >> pageBits];
      if (page === undefined) {
        if (isMember) return index;
        index = pageAfter(index);
        continue;
      }
      const byte = page[(index & pageMask) >> 3] ?? 0;
      if (byte === same) index = (index | 7) + 1;
      else if ((((byte >> (index & 7)) & 1) === 1) !== isMember) return index;
      else index += 1;
    }
    return end;
  }

  /** True when any of [from, end) is a member. */
  hasAny(from: number, end: number): boolean {
    if (this.#count === 0) return false;
    const found = this.next(from);
    return found >= 0 && found < end;
  }

  /** True when all of [from, end) are members. */
  hasAll(from: number, end: number): boolean {
    for (let index = from; index < end; index++) if (!this.has(index)) return false;
    return true;
  }

  /** Takes in all members of the other set that are below the size of this one. */
  addAll(other: Bitmap): void {
    for (const [number, theirs] of other.#pages.entries()) {
      if (theirs === undefined || number * pageMembers >= this.size) continue;
      if (theirs === wholePage && (number + 1) * pageMembers <= this.size) {
        this.#pages[number] = wholePage;
        continue;
      }
      const page = this.#page(number);
      for (let at = 0; at < page.length; at++) page[at] = (page[at] ?? 0) | (theirs[at] ?? 0);
    }
    this.#trim();
  }

  /** True when it has every member that the other one has. */
  includesAll(other: Bitmap): boolean {
    return other.#pages.every((theirs, number) => {
      const ours = this.#pages[number];
      if (theirs === undefined || theirs === ours) return true;
      return theirs.every((byte, at) => (byte & ~(ours?.[at] ?? 0)) === 0);
    });
  }

  /** Keeps what the other set has too. */
  retainAll(other: Bitmap): void {
    for (const [number, ours] of this.#pages.entries()) {
      const theirs = other.#pages[number];
      if (ours === undefined || theirs === wholePage) continue;
      if (theirs === undefined) {
        this.#pages[number] = undefined;
        continue;
      }
      const page = this.#page(number);
      for (let at = 0; at < page.length; at++) page[at] = (page[at] ?? 0) & (theirs[at] ?? 0);
    }
    this.#trim();
  }

  copy(): Bitmap {
    return this.resized(this.size);
  }

  /** The members below `size`, as a set of that size. */
  resized(size: number): Bitmap {
    const copy = new Bitmap(size);
    copy.addAll(this);
    return copy;
  }

  list(): number[] {
    const found: number[] = [];
    for (let index = this.next(0); index >= 0; index = this.next(index + 1)) found.push(index);
    return found;
  }

  /** Its flat form, without the zeros at the end; at least one byte, so that it is never mistaken for nothing. */
  toBytes(): Uint8Array {
    const last = this.#pages.findLastIndex((page) => page?.some((byte) => byte !== 0) === true);
    const inLast = this.#pages[last]?.findLastIndex((byte) => byte !== 0) ?? 0;
    const bytes = new Uint8Array((Math.max(0, last) * pageMembers) / 8 + inLast + 1);
    for (let number = 0; number <= last; number++) {
      const page = this.#pages[number];
      const at = (number * pageMembers) / 8;
      if (page) bytes.set(page.subarray(0, bytes.length - at), at);
    }
    return bytes;
  }

  /** Bytes of the page that the number lies in. */
  #bytesOf(index: number): number {
    const first = index & ~pageMask;
    return Math.ceil(Math.min(pageMembers, this.size - first) / 8);
  }

  /** The page, to be changed: made when it is not there. */
  #page(number: number): Uint8Array {
    const page = this.#pages[number];
    if (page !== undefined && page !== wholePage) return page;
    const own = page?.slice() ?? new Uint8Array(this.#bytesOf(number << pageBits));
    this.#pages[number] = own;
    return own;
  }

  /** Takes away what lies behind the end, and pages without members; counts anew. */
  #trim(): void {
    const last = this.#pages[this.size >> pageBits];
    const spare = last && last !== wholePage ? last.length * 8 - (this.size & pageMask) : 0;
    if (last && spare > 0) last[last.length - 1] = (last[last.length - 1] ?? 0) & (0xff >> spare);
    this.#count = 0;
    for (const [number, page] of this.#pages.entries()) {
      const count = membersOf(page);
      if (count === 0) this.#pages[number] = undefined;
      this.#count += count;
    }
  }
}

function pageAfter(index: number): number {
  return ((index >> pageBits) + 1) << pageBits;
}

function membersOf(page: Uint8Array | undefined): number {
  if (page === undefined) return 0;
  if (page === wholePage) return pageMembers;
  let count = 0;
  for (const byte of page) for (let rest = byte; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
