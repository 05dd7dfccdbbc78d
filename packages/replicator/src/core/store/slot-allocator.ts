/**
 * Which slots of a data file may be given out. A slot that was ever used is `dirty` when freed and
 * is given out only after it was emptied durably: `zeroed` (it keeps its disk space) or `punched`
 * (it does not). Slots from `highWater` on were never used, so the file system holds zeros there.
 */
export class SlotAllocator {
  #highWater: number;
  readonly #zeroed: number[] = [];
  readonly #punched: number[] = [];
  readonly #dirty: number[] = [];
  #cleaning = 0;

  /** `dirty`: slots below `highWater` that no chunk uses. */
  constructor(highWater: number, dirty: readonly number[]) {
    this.#highWater = highWater;
    for (const slot of dirty) this.#dirty.push(slot);
  }

  get highWater(): number {
    return this.#highWater;
  }

  /** slots that hold disk space and nobody's data */
  get recyclable(): number {
    return this.#zeroed.length + this.#dirty.length + this.#cleaning;
  }

  get cleanCount(): number {
    return this.#zeroed.length + this.#punched.length;
  }

  get punchedCount(): number {
    return this.#punched.length;
  }

  /** freed and not emptied yet */
  get dirtyCount(): number {
    return this.#dirty.length + this.#cleaning;
  }

  /** A slot that has its disk space already, or null. */
  takeZeroed(): number | null {
    return this.#zeroed.pop() ?? null;
  }

  /** A slot that will need disk space again, or null. */
  takePunched(): number | null {
    return this.#punched.pop() ?? null;
  }

  /** A slot that was never used: the file grows by it. */
  takeFresh(): number {
    this.#highWater += 1;
    return this.#highWater - 1;
  }

  /** Gives back a slot that holds zeros, durably. */
  untake(slot: number, hasSpace: boolean): void {
    (hasSpace ? this.#zeroed : this.#punched).push(slot);
  }

  /** Only once the record that frees it is durable. */
  free(slot: number): void {
    this.#dirty.push(slot);
  }

  /** Up to `limit` dirty slots, ascending. */
  takeDirty(limit: number): number[] {
    const taken = this.#dirty.splice(Math.max(0, this.#dirty.length - limit));
    this.#cleaning += taken.length;
    return taken.sort((a, b) => a - b);
  }

  /** It could not be zeroed. */
  uncleaned(slot: number): void {
    this.#cleaning -= 1;
    this.#dirty.push(slot);
  }

  /** The slot holds zeros, durably. */
  cleaned(slot: number, hasSpace: boolean): void {
    this.#cleaning -= 1;
    this.untake(slot, hasSpace);
  }
}
