/**
 * Memory with several users. Nobody changes it while anybody holds it; each lets it go once, and
 * after the last of them it is used for something else.
 */
export class SharedBytes {
  readonly bytes: Buffer;
  readonly #freed: (bytes: Buffer) => void;
  #users = 1;

  /** Held by whoever makes it. */
  constructor(bytes: Buffer, freed: (bytes: Buffer) => void) {
    this.bytes = bytes;
    this.#freed = freed;
  }

  /** One more user. */
  hold(): this {
    if (this.#users === 0) throw new Error('memory was held after it had been given away');
    this.#users += 1;
    return this;
  }

  release(): void {
    if (this.#users === 0) throw new Error('memory was released once too often');
    this.#users -= 1;
    if (this.#users === 0) this.#freed(this.bytes);
  }
}
