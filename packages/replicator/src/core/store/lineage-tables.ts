import type { SnapshotId } from '@stor/protocol';
import type { JournalRecord } from './journal-record.ts';
import { LayerImage } from './layer-image.ts';
import { type Layer, type LayerChange, LayerTable } from './layer-table.ts';
import type { SlotIndex } from './slot-index.ts';
import { holeFlag, layerMask, pendingFlag, SlotTable } from './slot-table.ts';

/** A slot that a record has freed. */
export type Freed = (slot: number, wasHole: boolean) => void;

interface Plan<T> {
  value: T;
  record: JournalRecord;
}

/**
 * The metadata of a lineage: which slot belongs to which chunk of which layer, and the flat images of
 * the views in use. Applied are only records that are durable, so that pages never run ahead of the
 * journal; `planned…` tells what will be once everything appended is applied. Whoever makes a
 * record decides on the planned state, in the turn in which the record is appended: so no record
 * undoes one that is on its way.
 */
export class LineageTables {
  readonly number: number;
  /** name of its folder in `lineages` */
  readonly folder: string;
  readonly slots: SlotTable;
  readonly layers: LayerTable;
  /** live images by the replica's number, and views in use */
  readonly live = new Map<number, LayerImage>();
  readonly views = new Set<LayerImage>();
  /**
   * Slots copied on write and not yet recorded as synced, each with the number of its copy: a slot that
   * was freed and has another copy since has another number.
   */
  readonly pending = new Map<number, number>();
  freed: Freed = () => {};
  /** copies begun before the layer below them was hidden, that came when it was; not final yet */
  readonly lateCopies = new Set<number>();
  /** how many of them there have been */
  lateCopyCount = 0;
  cameLate: () => void = () => {};
  /** grows whenever a layer changes */
  layerChanges = 0;
  /** kept while somebody needs it */
  index: SlotIndex | null = null;
  /** grows whenever a slot changes */
  slotChanges = 0;
  holeCount = 0;
  dataCount = 0;

  #lastCopy = 0;
  readonly #dataOf = new Map<number, number>();
  readonly #holesOf = new Map<number, number>();
  readonly #plannedSlots = new Map<number, Plan<{ chunk: number; word: number }>>();
  readonly #plannedLayers = new Map<number, Plan<Layer | null>>();

  constructor(number: number, folder: string) {
    this.number = number;
    this.folder = folder;
    this.slots = new SlotTable(number);
    this.layers = new LayerTable(number);
  }

  dataSlotsOf(place: number): number {
    return this.#dataOf.get(place) ?? 0;
  }

  holesOf(place: number): number {
    return this.#holesOf.get(place) ?? 0;
  }

  plannedWord(slot: number): number {
    const plan = this.#plannedSlots.get(slot);
    return plan ? plan.value.word : (this.slots.words[slot] ?? 0);
  }

  plannedChunk(slot: number): number {
    const plan = this.#plannedSlots.get(slot);
    return plan ? plan.value.chunk : (this.slots.chunks[slot] ?? 0);
  }

  plannedLayer(place: number): Layer | null {
    const plan = this.#plannedLayers.get(place);
    return plan ? plan.value : this.layers.get(place);
  }

  plannedLayers(): Layer[] {
    const found: Layer[] = [];
    for (const [place, layer] of this.layers.layers) {
      if (!this.#plannedLayers.has(place)) found.push(layer);
    }
    for (const { value } of this.#plannedLayers.values()) if (value) found.push(value);
    return found;
  }

  plannedSnapshot(replica: number, id: SnapshotId): Layer | null {
    for (const layer of this.plannedLayers()) {
      if (layer.kind === 'snapshot' && layer.replica === replica && layer.snapshotId === id) {
        return layer;
      }
    }
    return null;
  }

  plannedHead(replica: number): Layer | null {
    return (
      this.plannedLayers().find((one) => one.kind === 'head' && one.replica === replica) ?? null
    );
  }

  /** A place that no layer has or is about to have. */
  freePlace(): number {
    for (let place = 1; ; place++) {
      if (this.layers.get(place) === null && !this.#plannedLayers.has(place)) return place;
    }
  }

  nextSerial(): number {
    let serial = this.layers.lastSerial;
    for (const { value } of this.#plannedLayers.values()) {
      serial = Math.max(serial, value?.serial ?? 0);
    }
    return serial + 1;
  }

  /** To be called when the record is appended. */
  plan(record: JournalRecord): void {
    if (record.type === 'slots') {
      const { entries } = record;
      for (let i = 0; i + 2 < entries.length; i += 3) {
        const value = { chunk: entries[i + 1] ?? 0, word: entries[i + 2] ?? 0 };
        this.#plannedSlots.set(entries[i] ?? 0, { value, record });
      }
    } else {
      for (const { place, layer } of this.#layerChanges(record, this.plannedLayers())) {
        this.#plannedLayers.set(place, { value: layer, record });
      }
    }
  }

  #layerChanges(record: JournalRecord, layers: Iterable<Layer>): LayerChange[] {
    if (record.type === 'layers') return record.changes;
    if (record.type === 'create') return [{ place: record.head.place, layer: record.head }];
    if (record.type !== 'delete') return [];
    const changes: LayerChange[] = [];
    for (const layer of layers) {
      if (layer.replica !== record.replica || layer.kind === 'hidden') continue;
      changes.push({ place: layer.place, layer: hidden(layer) });
    }
    return changes;
  }

  /** To be called when the record is durable. */
  apply(record: JournalRecord): void {
    if (record.type === 'slots') {
      this.#applySlots(record);
      return;
    }
    const changes = this.#layerChanges(record, [...this.layers.layers.values()]);
    for (const change of changes) {
      this.layers.set(change);
      if (this.#plannedLayers.get(change.place)?.record === record) {
        this.#plannedLayers.delete(change.place);
      }
    }
    if (record.type === 'delete') this.live.delete(record.replica);
    if (changes.length > 0) this.#followLayers(changes);
  }

  #applySlots(record: Extract<JournalRecord, { type: 'slots' }>): void {
    const { entries } = record;
    for (let i = 0; i + 2 < entries.length; i += 3) {
      const slot = entries[i] ?? 0;
      this.setSlot(slot, entries[i + 1] ?? 0, entries[i + 2] ?? 0);
      if (this.#plannedSlots.get(slot)?.record === record) this.#plannedSlots.delete(slot);
    }
  }

  setSlot(slot: number, chunk: number, word: number): void {
    const { slots } = this;
    const wordBefore = slots.words[slot] ?? 0;
    const chunkBefore = slots.chunks[slot] ?? 0;
    const copy = this.pending.get(slot);
    if (wordBefore === word && (chunkBefore === chunk || word === 0)) return;
    this.slotChanges += 1;
    if (wordBefore !== 0) {
      this.#count(wordBefore, -1);
      this.pending.delete(slot);
      this.lateCopies.delete(slot);
      if (word === 0 || chunk !== chunkBefore) this.#hide(slot, chunkBefore);
    }
    slots.set(slot, chunk, word);
    const hasMoved = ((wordBefore ^ word) & layerMask) !== 0;
    if (word !== 0 && hasMoved) this.index?.add(word & layerMask, slot);
    if (word !== 0) {
      this.#count(word, 1);
      if ((word & pendingFlag) !== 0) this.pending.set(slot, copy ?? (this.#lastCopy += 1));
      this.#show(slot, chunk, word);
    } else {
      this.freed(slot, (wordBefore & holeFlag) !== 0);
    }
  }

  #count(word: number, by: number): void {
    const place = word & layerMask;
    const isHole = (word & holeFlag) !== 0;
    const counts = isHole ? this.#holesOf : this.#dataOf;
    counts.set(place, (counts.get(place) ?? 0) + by);
    if (isHole) this.holeCount += by;
    else this.dataCount += by;
  }

  *#images(): Iterable<LayerImage> {
    yield* this.live.values();
    yield* this.views;
  }

  /**
   * The slot leaves the chunk. What an image shows of it goes only where nothing lies below, or
   * together with a slot that takes its place.
   */
  #hide(slot: number, chunk: number): void {
    for (const image of this.#images()) {
      if (Math.abs(image.slotOf.get(chunk)) === slot + 1) image.put(chunk, 0);
    }
  }

  #show(slot: number, chunk: number, word: number): void {
    const place = word & layerMask;
    const value = (word & holeFlag) !== 0 ? -(slot + 1) : slot + 1;
    for (const image of this.#images()) {
      if (chunk >= image.chunkCount || !image.path.has(place)) continue;
      const now = image.slotOf.get(chunk);
      if (now !== 0 && now !== value && this.#depthOf(Math.abs(now) - 1) > this.#depth(place)) {
        continue;
      }
      image.put(chunk, value);
      if (now !== 0 && now !== value && image.exclusive.has(this.#placeOf(Math.abs(now) - 1))) {
        this.#noteLate(slot, word);
      }
    }
  }

  #depth(place: number): number {
    return this.layers.depths[place] ?? 0;
  }

  #depthOf(slot: number): number {
    return this.#depth(this.#placeOf(slot));
  }

  #placeOf(slot: number): number {
    return (this.slots.words[slot] ?? 0) & layerMask;
  }

  /** What it hides is of no use to anybody any more, and was not looked for when its layer was. */
  #noteLate(slot: number, word: number): void {
    if ((word & pendingFlag) !== 0) this.lateCopies.add(slot);
    this.lateCopyCount += 1;
    this.cameLate();
  }

  /** Layers changed: paths follow, and images whose head is another one are built anew. */
  #followLayers(changes: readonly LayerChange[]): void {
    this.layerChanges += 1;
    for (const { place, layer } of changes) {
      if (layer?.kind !== 'head') continue;
      const image = this.live.get(layer.replica);
      if (!image || image.top === place) continue;
      const onTop = layer.parent === image.top;
      image.top = place;
      if (onTop) image.path.add(place);
      else this.rebuild(image);
    }
    for (const { place, layer } of changes) {
      if (layer) continue;
      for (const image of this.#images()) image.path.delete(place);
    }
    for (const image of this.#images()) this.#findExclusive(image);
  }

  #findExclusive(image: LayerImage): void {
    image.exclusive.clear();
    let at = this.layers.get(image.top)?.parent ?? 0;
    while (at !== 0) {
      const layer = this.layers.get(at);
      if (layer?.kind !== 'hidden' || this.layers.childCount(at) !== 1) break;
      image.exclusive.add(at);
      at = layer.parent;
    }
  }

  /**
   * Fills the image from the slots: once when it is opened, work in proportion to slots ever used.
   */
  rebuild(image: LayerImage): void {
    image.clear();
    image.path = new Set(this.layers.pathOf(image.top) ?? []);
    const onPath = new Uint8Array(this.layers.depths.length);
    for (const place of image.path) onPath[place] = 1;
    const { chunks, words, end } = this.slots;
    const { depths } = this.layers;
    const { slotOf, chunkCount } = image;
    let allocated = 0;
    for (let slot = 0; slot < end; slot++) {
      const word = words[slot] ?? 0;
      const place = word & layerMask;
      if (onPath[place] !== 1) continue;
      const chunk = chunks[slot] ?? 0;
      if (chunk >= chunkCount) continue;
      const now = slotOf.get(chunk);
      if (now !== 0) {
        const other = (words[Math.abs(now) - 1] ?? 0) & layerMask;
        if ((depths[other] ?? 0) > (depths[place] ?? 0)) continue;
      }
      const isHole = (word & holeFlag) !== 0;
      slotOf.put(chunk, isHole ? -(slot + 1) : slot + 1);
      allocated += Number(!isHole) - Number(now > 0);
    }
    image.allocatedChunks = allocated;
    this.#findExclusive(image);
  }

  /** The image of a layer; kept true from now on when it is in `live` or `views`. */
  imageOf(place: number, sizeBytes: number): LayerImage {
    const image = new LayerImage(place, sizeBytes);
    this.rebuild(image);
    return image;
  }

  /** The live image of a replica, from its head. Throws when it has none: damage. */
  openLive(replica: number, sizeBytes: number): LayerImage {
    for (const layer of this.layers.layers.values()) {
      if (layer.kind !== 'head' || layer.replica !== replica) continue;
      const image = this.imageOf(layer.place, sizeBytes);
      this.live.set(replica, image);
      return image;
    }
    throw new Error('its head layer is missing');
  }

  /** The host lost them, or parts of them: the chunks are what they were before. */
  dropPending(): void {
    for (const slot of [...this.pending.keys()]) this.setSlot(slot, 0, 0);
  }

  /** Counts anew what pages brought in, past `setSlot`. */
  recount(): void {
    this.slotChanges += 1;
    this.#dataOf.clear();
    this.#holesOf.clear();
    this.holeCount = this.dataCount = 0;
    this.pending.clear();
    this.lateCopies.clear();
    const { words, end } = this.slots;
    for (let slot = 0; slot < end; slot++) {
      const word = words[slot] ?? 0;
      if (word === 0) continue;
      this.#count(word, 1);
      if ((word & pendingFlag) !== 0) this.pending.set(slot, (this.#lastCopy += 1));
    }
  }

  /** What nothing but damage can bring about, in words; or null. */
  damage(): string | null {
    if (!this.layers.measureDepths()) return 'its layers have no root';
    const { chunks, words, end } = this.slots;
    const keys = new Float64Array(this.holeCount + this.dataCount);
    let count = 0;
    for (let slot = 0; slot < end; slot++) {
      const word = words[slot] ?? 0;
      if (word === 0) continue;
      const place = word & layerMask;
      if (this.layers.get(place) === null)
        return `slot ${slot} belongs to a layer that is not there`;
      keys[count] = place * 2 ** 29 + (chunks[slot] ?? 0);
      count += 1;
    }
    keys.sort();
    for (let i = 1; i < count; i++) {
      if (keys[i] === keys[i - 1]) {
        const chunk = (keys[i] ?? 0) % 2 ** 29;
        return `chunk ${chunk} of layer ${Math.floor((keys[i] ?? 0) / 2 ** 29)} has two slots`;
      }
    }
    return null;
  }
}

export function hidden(layer: Layer): Layer {
  return { ...layer, kind: 'hidden', snapshotId: '' };
}
