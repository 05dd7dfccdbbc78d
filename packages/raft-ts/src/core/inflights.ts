/**
 * The window of appends under way to one follower: last index and bytes of each, oldest first. An
 * acknowledgement of an index frees every append up to it.
 */
export class Inflights {
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  #window: { index: number; bytes: number }[] = [];
  #bytes = 0;

  constructor(maxMessages: number, maxBytes: number) {
    this.#maxMessages = maxMessages;
    this.#maxBytes = maxBytes;
  }

  /** No further append with entries may be sent. The last one added may exceed the bytes. */
  get full(): boolean {
    return this.#window.length >= this.#maxMessages || this.#bytes >= this.#maxBytes;
  }

  get count(): number {
    return this.#window.length;
  }

  add(index: number, bytes: number): void {
    this.#window.push({ index, bytes });
    this.#bytes += bytes;
  }

  freeThrough(index: number): void {
    let freed = 0;
    for (const sent of this.#window) {
      if (sent.index > index) break;
      this.#bytes -= sent.bytes;
      freed++;
    }
    if (freed > 0) this.#window.splice(0, freed);
  }

  reset(): void {
    this.#window = [];
    this.#bytes = 0;
  }
}
