/** A connection that holds nothing may always have one request of so many bytes. */
const smallBytes = 64 * 1024;

/** What one connection holds of it. */
export interface MemoryShare {
  heldBytes: number;
  /** There may be room again. */
  retry(): void;
}

/**
 * Memory for the payload of all clients of a server: what has arrived of requests, what is in the device,
 * and replies that were not taken. Each connection has bounds of its own, which for a thousand of them are
 * more than a host has. A connection may hold half of what is free, so that many that hold all they can
 * leave room for another, and one alone hardly notices.
 */
export class PayloadMemory {
  readonly #limitBytes: number;
  /** Plans `wake` for later; not from within a call. */
  readonly #plan: (wake: () => void) => void;
  readonly #waiting = new Set<MemoryShare>();
  #usedBytes = 0;
  #isPlanned = false;

  constructor(limitBytes: number, plan: (wake: () => void) => void) {
    this.#limitBytes = limitBytes;
    this.#plan = plan;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** The share holds so much now. */
  update(share: MemoryShare, heldBytes: number): void {
    const grownBytes = heldBytes - share.heldBytes;
    if (grownBytes === 0) return;
    share.heldBytes = heldBytes;
    this.#usedBytes += grownBytes;
    if (grownBytes > 0 || this.#waiting.size === 0 || this.#isPlanned) return;
    this.#isPlanned = true;
    this.#plan(this.#wake);
  }

  /** May it hold so many bytes more? Who may not is told when to ask again. */
  admits(share: MemoryShare, bytes: number): boolean {
    const { heldBytes } = share;
    const freeBytes = this.#limitBytes - this.#usedBytes;
    const isAdmitted =
      heldBytes === 0
        ? bytes <= Math.max(smallBytes, freeBytes)
        : heldBytes + bytes <= freeBytes / 2;
    if (!isAdmitted) this.#waiting.add(share);
    return isAdmitted;
  }

  /** It does not wait any more. */
  forget(share: MemoryShare): void {
    this.#waiting.delete(share);
  }

  readonly #wake = (): void => {
    this.#isPlanned = false;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const share of waiting) share.retry();
  };
}
