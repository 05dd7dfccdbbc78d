import { layerMask, type SlotTable } from './slot-table.ts';

/** A list is looked through for what is not true any more when it is so much longer than it was then. */
const growthLimit = 2;
const minLimit = 1_024;

/**
 * The slots of each layer, while somebody goes through layers: without it each look at one layer costs
 * a look at all slots of the lineage. 12 to 20 bytes for each slot.
 */
export class SlotIndex {
  readonly #table: SlotTable;
  readonly #lists = new Map<number, { slots: number[]; limit: number }>();

  /** for each slot the last look that has seen it: one that left and came back is listed twice */
  #seenIn = new Uint32Array(0);
  #look = 0;

  constructor(table: SlotTable) {
    this.#table = table;
  }

  /** Takes in slots [first, end) as they are. */
  scan(first: number, end: number): void {
    const { words } = this.#table;
    for (let slot = first; slot < end; slot++) {
      const word = words[slot] ?? 0;
      if (word !== 0) this.add(word & layerMask, slot);
    }
  }

  /** The slot came to the layer. */
  add(place: number, slot: number): void {
    let list = this.#lists.get(place);
    if (!list) this.#lists.set(place, (list = { slots: [], limit: minLimit }));
    list.slots.push(slot);
    if (list.slots.length <= list.limit) return;
    list.slots = this.#true(place, list.slots);
    list.limit = Math.max(minLimit, list.slots.length * growthLimit);
  }

  /** All slots of the layer, each once; a list of the caller's own. */
  of(place: number): number[] {
    return this.#true(place, this.#lists.get(place)?.slots ?? []);
  }

  #true(place: number, slots: readonly number[]): number[] {
    const { words } = this.#table;
    if (this.#seenIn.length < words.length) this.#seenIn = new Uint32Array(words.length);
    this.#look += 1;
    const here: number[] = [];
    for (const slot of slots) {
      const word = words[slot] ?? 0;
      if (word === 0 || (word & layerMask) !== place) continue;
      if (this.#seenIn[slot] === this.#look) continue;
      this.#seenIn[slot] = this.#look;
      here.push(slot);
    }
    return here;
  }
}
