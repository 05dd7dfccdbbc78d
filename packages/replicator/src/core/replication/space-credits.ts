/**
 * Room for new chunks at one replica as its primary knows it.
 *
 * The replica says how many chunks were free after it had applied everything up to a sequence; the
 * primary counts what it has sent since. So the primary never believes in more room than there is.
 */
export class SpaceCredits {
  #free = 0;
  #outstanding = 0;
  #sent: { sequence: number; chunks: number }[] = [];
  /** It was asked for more and has none: its disk is full. */
  isOut = false;

  get available(): number {
    return this.#free - this.#outstanding;
  }

  /** `free` chunks were left once everything up to `sequence` was applied. */
  granted(sequence: number, free: number): void {
    this.#free = free;
    if (free > 0) this.isOut = false;
    let done = 0;
    for (const entry of this.#sent) {
      if (entry.sequence > sequence) break;
      this.#outstanding -= entry.chunks;
      done += 1;
    }
    if (done > 0) this.#sent = this.#sent.slice(done);
  }

  /** The write with this sequence may take so many new chunks. */
  spend(sequence: number, chunks: number): void {
    this.#outstanding += chunks;
    this.#sent.push({ sequence, chunks });
  }

  reset(free: number): void {
    this.#free = free;
    this.#outstanding = 0;
    this.#sent = [];
    this.isOut = false;
  }
}
