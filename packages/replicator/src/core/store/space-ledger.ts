/** Where a replica's slots come from: freed ones of its lineage first, then what the disk has left. */
export interface SlotSource {
  /** slots that hold disk space and nobody's data */
  readonly recyclable: number;
}

/** Room on a disk that is kept for the writer of one replica. */
export interface RoomPromise {
  /** chunks that are kept for it now */
  readonly held: number;
  /** chunks that its writes have taken since it was opened */
  readonly taken: number;
  /** chunks that it could hold at most: what is kept for it and what nobody was promised */
  readonly room: number;
  /** writers that share the disk, this one included */
  readonly sharers: number;
  /** Keeps so many more, as far as there is room that nobody was promised. */
  raise(chunks: number): void;
  /** Keeps no more than so many. */
  lower(chunks: number): void;
}

/**
 * What of a disk's room was promised to whom. A promise is kept: what one writer was promised no
 * other one is, so a write that was sent because of it finds its slots, whoever else writes to the disk.
 */
export class SpaceLedger {
  readonly #freeSlots: () => number;
  readonly #promises = new Set<Promised>();
  #held = 0;

  /** `freeSlots`: those that the disk can give out without touching its reserve. */
  constructor(freeSlots: () => number) {
    this.#freeSlots = freeSlots;
  }

  /** Chunks that nobody was promised; below 0 when others have filled the file system meanwhile. */
  unpromised(source: SlotSource): number {
    const left = this.#freeSlots() + source.recyclable - this.#held;
    return left > 0 || this.#held === 0 ? left : left + this.#forgetClosed();
  }

  /** `isOpen`: the writer may still use it; from then on that it may not, nothing is kept for it. */
  open(source: SlotSource, isOpen: () => boolean): Promised {
    this.#forgetClosed();
    const promised = new Promised(source, isOpen, {
      unpromised: () => this.unpromised(source),
      sharers: () => this.#promises.size,
      changed: (by) => {
        this.#held += by;
      },
    });
    this.#promises.add(promised);
    return promised;
  }

  /** Takes back what was kept for writers that are gone; how much that was. */
  #forgetClosed(): number {
    const before = this.#held;
    for (const promised of this.#promises) {
      if (promised.isOpen()) continue;
      promised.lower(0);
      this.#promises.delete(promised);
    }
    return before - this.#held;
  }
}

interface LedgerPage {
  unpromised(): number;
  sharers(): number;
  changed(by: number): void;
}

export class Promised implements RoomPromise {
  readonly source: SlotSource;
  readonly isOpen: () => boolean;
  readonly #page: LedgerPage;
  #held = 0;
  #taken = 0;

  constructor(source: SlotSource, isOpen: () => boolean, page: LedgerPage) {
    this.source = source;
    this.isOpen = isOpen;
    this.#page = page;
  }

  get held(): number {
    return this.#held;
  }

  get taken(): number {
    return this.#taken;
  }

  get room(): number {
    return Math.max(0, this.#page.unpromised() + this.#held);
  }

  get sharers(): number {
    return Math.max(1, this.#page.sharers());
  }

  raise(chunks: number): void {
    if (chunks <= 0 || !this.isOpen()) return;
    this.#set(this.#held + Math.max(0, Math.min(chunks, this.#page.unpromised())));
  }

  lower(chunks: number): void {
    if (chunks < this.#held) this.#set(Math.max(0, chunks));
  }

  /** The replica took slots: what was kept for them is used. */
  use(chunks: number): void {
    this.#taken += chunks;
    this.#set(Math.max(0, this.#held - chunks));
  }

  #set(held: number): void {
    this.#page.changed(held - this.#held);
    this.#held = held;
  }
}
