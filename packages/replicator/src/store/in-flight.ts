/**
 * Reads of slots under way. A slot that was freed may be emptied only when no read is left that
 * found it before: such a read would see zeros with a checksum that fits.
 */
export class InFlight {
  /** reads begun before the last turn over, and since */
  #old = 0;
  #current = 0;
  #epoch = 0;
  #turning: Promise<void> | null = null;
  #oldDone: (() => void) | null = null;

  get busy(): boolean {
    return this.#old + this.#current > 0;
  }

  /** Runs a read; slots must be looked up within it. */
  async run<T>(read: () => Promise<T>): Promise<T> {
    const begun = this.begin();
    try {
      return await read();
    } finally {
      this.end(begun);
    }
  }

  /** A read begins; its slots are looked up after this. What is returned is for `end`. */
  begin(): number {
    this.#current += 1;
    return this.#epoch;
  }

  end(begun: number): void {
    if (begun === this.#epoch) this.#current -= 1;
    else if ((this.#old -= 1) === 0) this.#oldDone?.();
  }

  /** Resolves when every read that is under way now has ended. */
  async settled(): Promise<void> {
    // one that is turning over began before this call and need not cover reads begun since
    if (this.#turning) await this.#turning;
    this.#turning ??= this.#turn().finally(() => {
      this.#turning = null;
    });
    await this.#turning;
  }

  async #turn(): Promise<void> {
    if (this.#current === 0) return;
    this.#epoch += 1;
    this.#old = this.#current;
    this.#current = 0;
    await new Promise<void>((resolve) => {
      this.#oldDone = resolve;
    });
    this.#oldDone = null;
  }
}
