import type { MemoryShare, PayloadMemory } from '../core/nbd/payload-memory.ts';

/** What one connection holds of the memory for all. */
export class ConnectionMemory implements MemoryShare {
  heldBytes = 0;
  /** payload of the WRITE that is arriving; 0: none is */
  arrivingBytes = 0;
  readonly retry: () => void;
  readonly #memory: PayloadMemory;
  readonly #isExempt: boolean;

  /**
   * `isRelay`: another node's, which never waits here: what waits here holds memory there, and the other way
   * round.
   */
  constructor(memory: PayloadMemory, isRelay: boolean, retry: () => void) {
    this.#memory = memory;
    this.#isExempt = isRelay;
    this.retry = retry;
  }

  /** It holds so much beside what is arriving. */
  hold(bytes: number): void {
    this.#memory.update(this, bytes + this.arrivingBytes);
  }

  /** Is there memory for a request with so much payload? Who is refused is told to try again. */
  admits(bytes: number): boolean {
    const isDecided = bytes === 0 || this.arrivingBytes > 0 || this.#isExempt;
    return isDecided || this.#memory.admits(this, bytes);
  }

  /** The connection is over; it holds what is in the device. */
  leave(bytes: number): void {
    this.arrivingBytes = 0;
    this.#memory.forget(this);
    this.hold(bytes);
  }
}
