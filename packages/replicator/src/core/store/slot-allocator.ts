/**
 * Which slots of a data file may be given out. A slot that was ever used is `dirty` when freed and
 * becomes `clean` only after it was zeroed durably; slots from `highWater` on were never used, so
 * the file system holds zeros there.
 */
export class SlotAllocator {
  #highWater: number;
  readonly #clean: number[] = [];
  readonly #dirty: number[] = [];
  #cleaning = 0;

  /** `dirty`: slots below `highWater` that no chunk uses. */
  constructor(highWater: number, dirty: number[]) {
    this.#highWater = highWater;
    this.#dirty.push(...dirty);
  }

  get highWater(): number {
    return this.#highWater;
  }

  /** slots that cost the file system nothing more */
  get recyclable(): number {
    return this.#clean.length + this.#dirty.length + this.#cleaning;
  }

  get cleanCount(): number {
    return this.#clean.length;
  }

  /** A zeroed slot, or null. */
  takeClean(): number | null {
    return this.#clean.pop() ?? null;
  }

  /** A slot that was never used: the file grows by it. */
  takeFresh(): number {
    this.#highWater += 1;
    return this.#highWater - 1;
  }

  /** Gives back a slot that was taken and never written. */
  untake(slot: number): void {
    this.#clean.push(slot);
  }

  /** Only once the record that frees it is durable. */
  free(slot: number): void {
    this.#dirty.push(slot);
  }

  takeDirty(): number | null {
    const slot = this.#dirty.pop();
    if (slot === undefined) return null;
    this.#cleaning += 1;
    return slot;
  }

  /** It could not be zeroed. */
  uncleaned(slot: number): void {
    this.#cleaning -= 1;
    this.#dirty.push(slot);
  }

  /** The slot holds zeros, durably. */
  cleaned(slot: number): void {
    this.#cleaning -= 1;
    this.#clean.push(slot);
  }
}
