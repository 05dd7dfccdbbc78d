/** A flat set of small numbers; bit i is bit i & 7 of byte i >> 3 (also its form on the wire). */
export class Bitmap {
  readonly size: number;
  readonly bytes: Uint8Array;
  #count = 0;

  constructor(size: number, bytes?: Uint8Array) {
    this.size = size;
    this.bytes = new Uint8Array(Math.ceil(size / 8));
    if (!bytes) return;
    this.bytes.set(bytes.subarray(0, this.bytes.length));
    const spare = this.bytes.length * 8 - size;
    const last = this.bytes.length - 1;
    if (spare > 0 && last >= 0) this.bytes[last] = (this.bytes[last] ?? 0) & (0xff >> spare);
    for (const byte of this.bytes) {
      for (let rest = byte; rest !== 0; rest &= rest - 1) this.#count += 1;
    }
  }

  get count(): number {
    return this.#count;
  }

  has(index: number): boolean {
    return (((this.bytes[index >> 3] ?? 0) >> (index & 7)) & 1) === 1;
  }

  add(index: number): void {
    if (index < 0 || index >= this.size || this.has(index)) return;
    this.bytes[index >> 3] = (this.bytes[index >> 3] ?? 0) | (1 << (index & 7));
    this.#count += 1;
  }

  delete(index: number): void {
    if (index < 0 || index >= this.size || !this.has(index)) return;
    this.bytes[index >> 3] = (this.bytes[index >> 3] ?? 0) & ~(1 << (index & 7));
    this.#count -= 1;
  }

  /** The first member at or after `from`, or -1. */
  next(from: number): number {
    for (let index = from; index < this.size;) {
      if ((index & 7) === 0 && (this.bytes[index >> 3] ?? 0) === 0) {
        index += 8;
        continue;
      }
      if (this.has(index)) return index;
      index += 1;
    }
    return -1;
  }

  /** Where the run that `from` lies in ends, of members or of others; `end` when it goes on behind that. */
  runEnd(from: number, end: number): number {
    const isMember = this.has(from);
    const whole = isMember ? 0xff : 0;
    for (let index = from + 1; index < end;) {
      if ((index & 7) === 0 && (this.bytes[index >> 3] ?? 0) === whole) {
        index += 8;
        continue;
      }
      if (this.has(index) !== isMember) return index;
      index += 1;
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

  copy(): Bitmap {
    return new Bitmap(this.size, this.bytes);
  }

  list(): number[] {
    const found: number[] = [];
    for (let index = this.next(0); index >= 0; index = this.next(index + 1)) found.push(index);
    return found;
  }
}
