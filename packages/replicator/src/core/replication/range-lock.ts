/** What holds or waits for a range; the lock keeps its fields here so that nothing is allocated. */
export interface LockOwner {
  lockStart: number;
  lockEnd: number;
  lockExclusive: boolean;
  /** place among the holders, or -1 */
  lockSlot: number;
  /** The range is held now; called from `release` of another owner. */
  lockGranted(): void;
}

/**
 * Keeps overlapping requests apart: readers share, all others are alone, and overlapping owners get
 * their turn in the order in which they asked. Owners that touch nothing in common never wait for
 * one another. The holders lie in flat arrays: tens of comparisons cost less than any tree.
 */
export class RangeLock {
  #starts = new Float64Array(64);
  #ends = new Float64Array(64);
  #exclusive = new Uint8Array(64);
  #owners: LockOwner[] = [];
  readonly #waiting: LockOwner[] = [];

  get held(): number {
    return this.#owners.length;
  }
  get waiting(): number {
    return this.#waiting.length;
  }

  /** True: held now. False: `lockGranted` follows later. */
  acquire(owner: LockOwner): boolean {
    if (
      this.#conflictsWithHolders(owner) ||
      this.#conflictsWithWaiters(owner, this.#waiting.length)
    ) {
      this.#waiting.push(owner);
      return false;
    }
    this.#take(owner);
    return true;
  }

  /** True when a read of the range would not wait: nothing exclusive holds or wants it. */
  isReadable(start: number, end: number): boolean {
    for (let i = 0; i < this.#owners.length; i++) {
      if (this.#exclusive[i] && start < (this.#ends[i] ?? 0) && (this.#starts[i] ?? 0) < end) {
        return false;
      }
    }
    for (const other of this.#waiting) {
      if (other.lockExclusive && start < other.lockEnd && other.lockStart < end) return false;
    }
    return true;
  }

  release(owner: LockOwner): void {
    const slot = owner.lockSlot;
    if (slot < 0) return;
    owner.lockSlot = -1;
    const last = this.#owners.pop();
    if (last && last !== owner) {
      this.#owners[slot] = last;
      this.#set(last, slot);
    }
    if (this.#waiting.length > 0) this.#grantWaiting(owner.lockStart, owner.lockEnd);
  }

  /** Takes an owner out of the queue; false when it was not waiting. */
  cancel(owner: LockOwner): boolean {
    const at = this.#waiting.indexOf(owner);
    if (at < 0) return false;
    this.#waiting.splice(at, 1);
    this.#grantWaiting(owner.lockStart, owner.lockEnd);
    return true;
  }

  #grantWaiting(start: number, end: number): void {
    const granted: LockOwner[] = [];
    for (let i = 0; i < this.#waiting.length;) {
      const next = this.#waiting[i];
      if (!next) break;
      const touched = next.lockStart < end && start < next.lockEnd;
      if (touched && !this.#conflictsWithHolders(next) && !this.#conflictsWithWaiters(next, i)) {
        this.#waiting.splice(i, 1);
        this.#take(next);
        granted.push(next);
      } else {
        i += 1;
      }
    }
    for (const owner of granted) owner.lockGranted();
  }

  #take(owner: LockOwner): void {
    const slot = this.#owners.length;
    if (slot === this.#starts.length) this.#grow();
    this.#owners.push(owner);
    this.#set(owner, slot);
  }

  #set(owner: LockOwner, slot: number): void {
    owner.lockSlot = slot;
    this.#starts[slot] = owner.lockStart;
    this.#ends[slot] = owner.lockEnd;
    this.#exclusive[slot] = owner.lockExclusive ? 1 : 0;
  }

  #grow(): void {
    const grow = <T extends Float64Array | Uint8Array>(old: T, grown: T): T => {
      grown.set(old);
      return grown;
    };
    this.#starts = grow(this.#starts, new Float64Array(this.#starts.length * 2));
    this.#ends = grow(this.#ends, new Float64Array(this.#ends.length * 2));
    this.#exclusive = grow(this.#exclusive, new Uint8Array(this.#exclusive.length * 2));
  }

  #conflictsWithHolders(owner: LockOwner): boolean {
    const { lockStart, lockEnd, lockExclusive } = owner;
    for (let i = 0; i < this.#owners.length; i++) {
      if (lockStart < (this.#ends[i] ?? 0) && (this.#starts[i] ?? 0) < lockEnd) {
        if (lockExclusive || this.#exclusive[i]) return true;
      }
    }
    return false;
  }

  #conflictsWithWaiters(owner: LockOwner, before: number): boolean {
    for (let i = 0; i < before; i++) {
      const other = this.#waiting[i];
      if (!other) break;
      if (owner.lockStart < other.lockEnd && other.lockStart < owner.lockEnd) {
        if (owner.lockExclusive || other.lockExclusive) return true;
      }
    }
    return false;
  }
}
