import { blocksPerChunk } from '@stor/protocol';

/**
 * Checksums of slots that were used of late, direct-mapped. A line that is _late_ is newer than the file:
 * it keeps its place until its owner has written it.
 */
export class SumsCache {
  readonly #lines: number;
  readonly #tags: Float64Array;
  /** of the slot that was looked for last and had no line here */
  readonly #missed: Float64Array;
  readonly #late: Uint8Array;
  readonly #sums: Uint32Array;

  constructor(lines: number) {
    this.#lines = lines;
    this.#tags = new Float64Array(lines).fill(-1);
    this.#missed = new Float64Array(lines).fill(-1);
    this.#late = new Uint8Array(lines);
    // one more, for what finds its line taken
    this.#sums = new Uint32Array((lines + 1) * blocksPerChunk);
  }

  #line(lineage: number, slot: number): number {
    return (slot + lineage * 7919) % this.#lines;
  }

  /** Index of the slot's first checksum in `sums`, or -1. */
  find(lineage: number, slot: number): number {
    const line = this.#line(lineage, slot);
    return this.#tags[line] === tagOf(lineage, slot) ? line * blocksPerChunk : -1;
  }

  /**
   * Takes a line for the slot, whose sums the caller puts at the index in the same turn. Where a late
   * one lies they can be used in this turn only.
   */
  claim(lineage: number, slot: number): number {
    const line = this.#line(lineage, slot);
    const tag = tagOf(lineage, slot);
    if (this.#late[line] === 1 && this.#tags[line] !== tag) return this.#lines * blocksPerChunk;
    this.#tags[line] = tag;
    return line * blocksPerChunk;
  }

  /**
   * Whether a slot that has no line is worth one to a writer: the second time in a row that this is
   * asked for it. Writes all over a large volume rarely come back to a slot before others do.
   */
  isWorthLine(lineage: number, slot: number): boolean {
    const line = this.#line(lineage, slot);
    if (this.#late[line] === 1) return false;
    const tag = tagOf(lineage, slot);
    if (this.#missed[line] === tag) return true;
    this.#missed[line] = tag;
    return false;
  }

  /** The line at an index that `find` gave. */
  isLate(index: number): boolean {
    return this.#late[index / blocksPerChunk] === 1;
  }

  setLate(index: number, isLate: boolean): void {
    this.#late[index / blocksPerChunk] = isLate ? 1 : 0;
  }

  drop(lineage: number, slot: number): void {
    const line = this.#line(lineage, slot);
    if (this.#tags[line] !== tagOf(lineage, slot)) return;
    this.#tags[line] = -1;
    this.#late[line] = 0;
  }

  get sums(): Uint32Array {
    return this.#sums;
  }
}

function tagOf(lineage: number, slot: number): number {
  return lineage * 2 ** 31 + slot;
}
