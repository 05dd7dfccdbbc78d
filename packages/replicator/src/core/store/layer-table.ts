import type { SnapshotId } from '@stor/protocol';
import type { SnapshotState } from '../../replica-snapshots.ts';
import { type Crc32, getU64, putU64 } from './format.ts';
import {
  layerEntriesPerPage,
  layerEntryBytes,
  pageHeaderBytes,
  type PagedTable,
  PageState,
  sealPage,
  startPage,
} from './table-page.ts';

/**
 * head: what a replica writes to; snapshot: frozen, with a name; hidden: frozen, kept only because
 * layers above it need its slots.
 */
export type LayerKind = 'head' | 'snapshot' | 'hidden';

/** A set of slots; what it has not itself it takes from its parent. */
export interface Layer {
  /** names it in the slot table; from 1, used again only when nothing refers to it any more */
  place: number;
  kind: LayerKind;
  /** place of the layer below; 0: none */
  parent: number;
  /** number of the replica whose head or snapshot it is or was */
  replica: number;
  /** empty but for snapshots */
  snapshotId: SnapshotId;
  state: SnapshotState;
  epoch: number;
  sizeBytes: number;
  /** order in which the layers of a lineage were made */
  serial: number;
}

const kinds: readonly LayerKind[] = ['head', 'snapshot', 'hidden'];
const states: readonly SnapshotState[] = ['prepared', 'ready', 'incomplete'];
/** ASCII characters that an id may have */
export const maxSnapshotIdLength = 24;
const idAt = 40;

/**
 * 64 bytes: kind u32 (0: no layer), parent u32, replica u32, state u32, epoch u64, sizeBytes u64,
 * serial u64, id as ASCII padded with zeros.
 */
export function putLayer(view: DataView, at: number, layer: Layer): void {
  view.setUint32(at, kinds.indexOf(layer.kind) + 1, true);
  view.setUint32(at + 4, layer.parent, true);
  view.setUint32(at + 8, layer.replica, true);
  view.setUint32(at + 12, states.indexOf(layer.state), true);
  putU64(view, at + 16, layer.epoch);
  putU64(view, at + 24, layer.sizeBytes);
  putU64(view, at + 32, layer.serial);
  for (let i = 0; i < layer.snapshotId.length; i++) {
    view.setUint8(at + idAt + i, layer.snapshotId.charCodeAt(i));
  }
}

export function getLayer(view: DataView, at: number, place: number): Layer | null {
  const kind = kinds[view.getUint32(at, true) - 1];
  if (!kind) return null;
  let snapshotId = '';
  for (let i = 0; i < maxSnapshotIdLength; i++) {
    const code = view.getUint8(at + idAt + i);
    if (code === 0) break;
    snapshotId += String.fromCharCode(code);
  }
  return {
    place,
    kind,
    parent: view.getUint32(at + 4, true),
    replica: view.getUint32(at + 8, true),
    snapshotId,
    state: states[view.getUint32(at + 12, true)] ?? 'prepared',
    epoch: getU64(view, at + 16),
    sizeBytes: getU64(view, at + 24),
    serial: getU64(view, at + 32),
  };
}

/** One change of the table: the layer of this place is as given, or there is none. */
export interface LayerChange {
  place: number;
  layer: Layer | null;
}

/** The layers of a lineage: a forest whose leaves are heads. */
export class LayerTable implements PagedTable {
  readonly kind = 'layers';
  readonly owner: number;
  readonly pages = new PageState(0);
  readonly layers = new Map<number, Layer>();
  /** grows from parent to child; by place */
  depths = new Uint32Array(64);
  lastSerial = 0;

  readonly #children = new Map<number, number>();

  constructor(owner: number) {
    this.owner = owner;
  }

  get(place: number): Layer | null {
    return this.layers.get(place) ?? null;
  }

  childCount(place: number): number {
    return this.#children.get(place) ?? 0;
  }

  set({ place, layer }: LayerChange): void {
    const before = this.layers.get(place);
    if (before) this.#count(before.parent, -1);
    if (layer) {
      this.layers.set(place, layer);
      this.#count(layer.parent, 1);
      this.lastSerial = Math.max(this.lastSerial, layer.serial);
      if (!before) this.setDepth(place, (this.depths[layer.parent] ?? 0) + 1);
    } else {
      this.layers.delete(place);
    }
    this.pages.touch(Math.floor(place / layerEntriesPerPage));
  }

  #count(parent: number, by: number): void {
    if (parent !== 0) this.#children.set(parent, (this.#children.get(parent) ?? 0) + by);
  }

  setDepth(place: number, depth: number): void {
    if (place >= this.depths.length) {
      const larger = new Uint32Array(Math.max(place + 1, this.depths.length * 2));
      larger.set(this.depths);
      this.depths = larger;
    }
    this.depths[place] = depth;
  }

  /** Places from `place` down to the root. Null when they do not end: damage. */
  pathOf(place: number): number[] | null {
    const path: number[] = [];
    for (let at = place; at !== 0;) {
      const layer = this.layers.get(at);
      if (!layer || path.length > this.layers.size) return null;
      path.push(at);
      at = layer.parent;
    }
    return path;
  }

  /** After loading, when layers came in any order. False when the layers are no forest: damage. */
  measureDepths(): boolean {
    this.depths.fill(0);
    for (const place of this.layers.keys()) {
      const above: number[] = [];
      let at = place;
      while (at !== 0 && (this.depths[at] ?? 0) === 0) {
        const layer = this.layers.get(at);
        if (!layer || above.length > this.layers.size) return false;
        above.push(at);
        at = layer.parent;
      }
      let depth = this.depths[at] ?? 0;
      for (const one of above.reverse()) this.setDepth(one, (depth += 1));
    }
    return true;
  }

  encodePage(page: number, lsn: number, crc32: Crc32): Uint8Array {
    const { bytes, view } = startPage(this.kind, page, this.owner, lsn);
    for (let i = 0; i < layerEntriesPerPage; i++) {
      const layer = this.layers.get(page * layerEntriesPerPage + i);
      if (layer) putLayer(view, pageHeaderBytes + i * layerEntryBytes, layer);
    }
    sealPage(bytes, crc32);
    return bytes;
  }

  loadPage(page: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < layerEntriesPerPage; i++) {
      const place = page * layerEntriesPerPage + i;
      const layer = getLayer(view, pageHeaderBytes + i * layerEntryBytes, place);
      if (layer) this.set({ place, layer });
    }
    this.pages.loaded(page);
  }
}
