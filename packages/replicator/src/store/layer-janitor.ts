import type { LayerChange, Layer } from '../core/store/layer-table.ts';
import { maxLayerChanges } from '../core/store/journal-record.ts';
import { pendingFlag } from '../core/store/slot-table.ts';
import { SlotIndex } from '../core/store/slot-index.ts';
import { isHole, layerOf, type Lineage, type SlotEntry } from './lineage.ts';

/** Slots looked at in one turn: a few hundred microseconds. */
const scanSlots = 65_536;
/** Slots changed by one batch: one journal frame. */
const batchSlots = 4_000;

export interface LayerJanitorParts {
  lineage: Lineage;
  /** Resolves in a later turn, when others had theirs. */
  pause(): Promise<void>;
  /** Makes what was copied on write final. A failure is told to the replicas before it rejects. */
  sync(): Promise<void>;
  /** A journal that failed has told so already. */
  failed(): boolean;
}

/** What is to be done next to one layer. */
type Task =
  | { kind: 'empty'; layer: Layer }
  | { kind: 'holes'; layer: Layer }
  | { kind: 'shadowed'; layer: Layer; child: Layer }
  | { kind: 'merge'; lower: Layer; upper: Layer };

/**
 * Gives back, in the background, what no view shows any more after snapshots, heads and replicas were
 * dropped. Every step leaves all views as they were, so a crash between any two of them costs nothing;
 * after a restart it looks at the layers again. A hidden layer without children is emptied; one with a
 * single child loses what that child hides, and is then merged with a hidden neighbour, the one
 * with fewer slots into the other; one with several children stays until one is left.
 */
export class LayerJanitor {
  readonly #parts: LayerJanitorParts;
  /**
   * hidden layers that hold nothing that their only child hides, and how things were then: a head
   * may still get copies of chunks that were begun before the layer was hidden
   */
  readonly #tidy = new Map<number, string>();
  #running: Promise<void> | null = null;
  #wanted = false;
  #stopped = false;

  constructor(parts: LayerJanitorParts) {
    this.#parts = parts;
  }

  /** To be called when layers changed. */
  kick(): void {
    this.#wanted = true;
    if (this.#stopped || this.#running) return;
    this.#running = this.#run().finally(() => {
      this.#parts.lineage.tables.index = null;
      this.#running = null;
    });
  }

  /** Resolves when nothing is under way; it does not begin again. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** Resolves when there is nothing left to do. */
  async idle(): Promise<void> {
    while (this.#running) await this.#running;
  }

  get #over(): boolean {
    return this.#stopped || this.#parts.failed();
  }

  async #run(): Promise<void> {
    while (this.#wanted && !this.#over) {
      this.#wanted = false;
      await this.#parts.pause();
      if (!this.#next()) continue;
      await this.#makeIndex();
      for (let task = this.#next(); task && !this.#over; task = this.#next()) {
        try {
          await this.#do(task);
        } catch {
          // the journal failed, and with it the disk: told by whoever saw it
          return;
        }
      }
    }
  }

  /** One look at all slots; from then on a layer costs what it holds. */
  async #makeIndex(): Promise<void> {
    const { tables } = this.#parts.lineage;
    const { slots } = tables;
    const index = new SlotIndex(slots);
    // what changes meanwhile is added as it comes
    tables.index = index;
    for (let first = 0; first < slots.end && !this.#over; first += scanSlots) {
      index.scan(first, Math.min(slots.end, first + scanSlots));
      await this.#parts.pause();
    }
  }

  /** Slots of a layer, as records that are durable have it. */
  #slotsOf(place: number): number[] {
    return this.#parts.lineage.tables.index?.of(place) ?? [];
  }

  /** Layers nearest to the root first: what is merged below need not be looked at twice above. */
  #next(): Task | null {
    const { tables } = this.#parts.lineage;
    const layers = tables.plannedLayers();
    const children = new Map<number, Layer[]>();
    for (const layer of layers) {
      const list = children.get(layer.parent);
      if (list) list.push(layer);
      else children.set(layer.parent, [layer]);
    }
    layers.sort((a, b) => a.serial - b.serial);
    for (const layer of layers) {
      const above = children.get(layer.place) ?? [];
      if (layer.kind === 'hidden' && above.length === 0) return { kind: 'empty', layer };
      if (layer.parent === 0 && tables.holesOf(layer.place) > 0) return { kind: 'holes', layer };
      const [child] = above;
      if (layer.kind !== 'hidden' || !child || above.length > 1) continue;
      if (this.#tidy.get(layer.place) !== this.#seen(child))
        return { kind: 'shadowed', layer, child };
      const isEmpty = tables.dataSlotsOf(layer.place) + tables.holesOf(layer.place) === 0;
      if (isEmpty || child.kind === 'hidden') return { kind: 'merge', lower: layer, upper: child };
    }
    return null;
  }

  async #do(task: Task): Promise<void> {
    switch (task.kind) {
      case 'empty':
        await this.#free((word) => layerOf(word) === task.layer.place, task.layer.place);
        await this.#remove(task.layer);
        break;
      case 'holes':
        await this.#free(
          (word) => layerOf(word) === task.layer.place && isHole(word),
          task.layer.place,
        );
        break;
      case 'shadowed': {
        await this.#freeShadowed(task.layer, task.child);
        break;
      }
      case 'merge':
        await this.#merge(task.lower, task.upper);
        break;
    }
  }

  /**
   * A power cut takes away what was copied and not synced since, and then the chunk is again what
   * lies below: so everything is made final first, and what was copied meanwhile hides nothing yet.
   */
  async #freeShadowed(layer: Layer, child: Layer): Promise<void> {
    const { lineage } = this.#parts;
    const seen = this.#seen(child);
    await this.#parts.sync();
    await lineage.settled();
    const owned = await this.#finalChunksOf(child.place);
    const { lateCopies } = lineage.tables;
    await this.#free(
      (word, chunk) => layerOf(word) === layer.place && owned.has(chunk),
      layer.place,
    );
    // those that the sync did not make final are looked at once more
    if (lateCopies.size === 0) this.#tidy.set(layer.place, seen);
  }

  #seen(child: Layer): string {
    return `${child.place} ${child.kind} ${this.#parts.lineage.tables.lateCopyCount}`;
  }

  async #remove(layer: Layer): Promise<void> {
    const { lineage } = this.#parts;
    const { tables } = lineage;
    const isEmpty = tables.dataSlotsOf(layer.place) + tables.holesOf(layer.place) === 0;
    const now = tables.plannedLayer(layer.place);
    // what is on its way to it, if anything, is seen next time
    if (!isEmpty || now?.kind !== 'hidden') return;
    await this.#change([{ place: layer.place, layer: null }]);
  }

  async #change(changes: LayerChange[]): Promise<void> {
    const { lineage } = this.#parts;
    for (const { place, layer } of changes) if (!layer) this.#tidy.delete(place);
    await lineage.durable(lineage.append({ type: 'layers', lineage: lineage.number, changes }));
  }

  /** Chunks that a layer has an entry for, which a power cut does not take away. */
  async #finalChunksOf(place: number): Promise<Set<number>> {
    const { slots } = this.#parts.lineage.tables;
    const found = new Set<number>();
    const all = this.#slotsOf(place);
    for (let at = 0; at < all.length && !this.#over; at += scanSlots) {
      for (const slot of all.slice(at, at + scanSlots)) {
        const word = slots.words[slot] ?? 0;
        const isFinal = layerOf(word) === place && (word & pendingFlag) === 0;
        if (isFinal) found.add(slots.chunks[slot] ?? 0);
      }
      await this.#parts.pause();
    }
    return found;
  }

  /** Frees what fits the test, as it is planned to be when the record is made. */
  async #free(test: (word: number, chunk: number) => boolean, place: number): Promise<void> {
    const { lineage } = this.#parts;
    const { tables } = lineage;
    if (tables.dataSlotsOf(place) + tables.holesOf(place) === 0) return;
    await this.#batches(place, (slot) => {
      const word = tables.plannedWord(slot);
      const chunk = tables.plannedChunk(slot);
      return word !== 0 && test(word, chunk) ? [slot, chunk, 0] : null;
    });
  }

  /** Goes through a layer's slots; those that `change` names are changed, a batch at a time. */
  async #batches(place: number, change: (slot: number) => SlotEntry | null): Promise<void> {
    const { lineage } = this.#parts;
    let batch: SlotEntry[][] = [];
    const leave = async (): Promise<void> => {
      const groups = batch;
      batch = [];
      if (groups.length > 0) await lineage.durable(lineage.appendSlots(groups));
    };
    const slots = this.#slotsOf(place);
    for (let at = 0; at < slots.length && !this.#over;) {
      const end = Math.min(slots.length, at + scanSlots);
      for (; at < end && batch.length < batchSlots; at++) {
        const entry = change(slots[at] ?? 0);
        if (entry) batch.push([entry]);
      }
      // in the turn in which it was decided
      if (batch.length > 0) await leave();
      else await this.#parts.pause();
    }
  }

  /**
   * A hidden layer and its only child, hidden too, become one; or the lower one is empty and goes.
   * No chunk is in both (`shadowed` came first), so that the slots may move one by one.
   */
  async #merge(lower: Layer, upper: Layer): Promise<void> {
    const { tables } = this.#parts.lineage;
    const children = tables.plannedLayers().filter((one) => one.parent === upper.place);
    const sizeOf = (one: Layer): number =>
      tables.dataSlotsOf(one.place) + tables.holesOf(one.place);
    const up =
      sizeOf(lower) === 0 || sizeOf(upper) > sizeOf(lower) || children.length + 1 > maxLayerChanges;
    const [from, into] = up ? [lower, upper] : [upper, lower];
    await this.#batches(from.place, (slot) => {
      const word = tables.plannedWord(slot);
      if (word === 0 || layerOf(word) !== from.place) return null;
      return [slot, tables.plannedChunk(slot), word - from.place + into.place];
    });
    if (this.#over || sizeOf(from) > 0) return;
    const upperNow = tables.plannedLayer(upper.place);
    const lowerNow = tables.plannedLayer(lower.place);
    if (!upperNow || lowerNow?.kind !== 'hidden') return;
    if (!up && upperNow.kind !== 'hidden') return;
    const changes: LayerChange[] = [{ place: from.place, layer: null }];
    if (up) {
      changes.unshift({ place: upper.place, layer: { ...upperNow, parent: lowerNow.parent } });
    } else {
      for (const one of tables.plannedLayers()) {
        if (one.parent !== upper.place) continue;
        changes.unshift({ place: one.place, layer: { ...one, parent: lower.place } });
      }
    }
    // what lies below may be hidden by what has come to it
    this.#tidy.delete(lowerNow.parent);
    this.#tidy.delete(into.place);
    await this.#change(changes);
  }
}
