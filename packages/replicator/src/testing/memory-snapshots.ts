import {
  StorError,
  blockBytes,
  blocksPerChunk,
  chunkBytes,
  regionBytes,
  type SnapshotId,
} from '@stor/protocol';
import { crc32, type Random } from '@stor/runtime';

import { Bitmap } from '../core/replication/bitmap.ts';
import type { ReplicaSnapshot, SnapshotState } from '../replica-snapshots.ts';
import type { MemoryReplicaState } from './memory-replica-state.ts';

const zeroSum = crc32(new Uint8Array(blockBytes));

/** A chunk as a frozen layer holds it; without data it hides what older layers have. */
interface Slot {
  readonly bytes: Buffer;
  readonly sums: Uint32Array;
  isHole: boolean;
  /** by block of the chunk: what a power cut leaves of what was not flushed */
  readonly unflushed: Map<number, { bytes: Buffer; sum: number }>;
}

interface Layer {
  /** null: hidden, only there for what grew from it */
  snapshotId: SnapshotId | null;
  state: SnapshotState;
  readonly epoch: number;
  sizeBytes: number;
  parent: Layer | null;
  readonly slots: Map<number, Slot>;
}

/**
 * The snapshots of a replica in memory, as layers of chunks; the live image stays flat in the state. What
 * the live image does not own it has from the layers, and follows them.
 */
export class MemorySnapshots {
  readonly #state: MemoryReplicaState;
  #layers: Layer[] = [];
  #headParent: Layer | null = null;
  /** chunks that the live image has of its own, holes among them */
  #owned = new Set<number>();

  constructor(state: MemoryReplicaState) {
    this.#state = state;
  }

  get headParent(): SnapshotId | null {
    return visible(this.#headParent)?.snapshotId ?? null;
  }
  get slotCount(): number {
    let count = 0;
    for (const { slots } of this.#layers) {
      for (const slot of slots.values()) if (!slot.isHole) count += 1;
    }
    return count;
  }

  list(): ReplicaSnapshot[] {
    const found: ReplicaSnapshot[] = [];
    for (const { snapshotId, state, epoch, sizeBytes, parent, slots } of this.#layers) {
      if (snapshotId === null) continue;
      const ownBytes = [...slots.values()].filter((slot) => !slot.isHole).length * chunkBytes;
      const grewFrom = visible(parent)?.snapshotId ?? null;
      found.push({ snapshotId, state, epoch, sizeBytes, parent: grewFrom, ownBytes });
    }
    return found;
  }

  has(snapshotId: SnapshotId): boolean {
    return this.#find(snapshotId) !== null;
  }
  stateOf(snapshotId: SnapshotId): SnapshotState | null {
    return this.#find(snapshotId)?.state ?? null;
  }
  sizeOf(snapshotId: SnapshotId): number {
    return this.#find(snapshotId)?.sizeBytes ?? 0;
  }

  /** The live image is written to there. */
  own(chunk: number): void {
    this.#owned.add(chunk);
  }
  owns(chunk: number): boolean {
    return this.#owned.has(chunk) && this.#state.allocated.has(chunk);
  }
  /** A layer has data or a hole for the chunk. */
  isShared(chunk: number): boolean {
    return nearest(this.#headParent, chunk) !== null;
  }
  /** The live image has nothing there any more. */
  disown(chunk: number): void {
    if (this.isShared(chunk)) this.#owned.add(chunk);
    else this.#owned.delete(chunk);
  }

  take(snapshotId: SnapshotId, epoch: number, kind: 'prepared' | 'incomplete'): void {
    const { sizeBytes } = this.#state.identity;
    const slots = new Map<number, Slot>();
    for (const chunk of this.#owned) slots.set(chunk, this.#freeze(chunk));
    const parent = this.#headParent;
    const layer = { snapshotId, state: kind, epoch, sizeBytes, parent, slots };
    this.#layers.push(layer);
    this.#headParent = layer;
    this.#owned = new Set();
  }

  confirm(snapshotId: SnapshotId, sizeBytes = Infinity): void {
    const layer = this.#find(snapshotId);
    if (!layer) throw notFound(snapshotId);
    if (layer.state !== 'ready') layer.sizeBytes = Math.min(layer.sizeBytes, sizeBytes);
    layer.state = 'ready';
  }

  drop(snapshotId: SnapshotId): void {
    const layer = this.#find(snapshotId);
    if (!layer) return;
    layer.snapshotId = null;
    while (this.#collapse()) {
      // one may make room for another
    }
  }

  /** Returns the regions that differ. */
  differingRegions(snapshotId: SnapshotId): number[] {
    const regions = new Set<number>();
    const chunks = this.changed(snapshotId, null);
    for (const chunk of chunks?.list() ?? []) {
      regions.add(Math.floor((chunk * chunkBytes) / regionBytes));
    }
    return [...regions];
  }

  rollback(snapshotId: SnapshotId): void {
    const layer = this.#find(snapshotId);
    if (!layer) throw notFound(snapshotId);
    if (layer.state === 'incomplete') {
      throw new StorError('FAILED_PRECONDITION', `snapshot ${snapshotId} is not complete`);
    }
    this.#headParent = layer;
    this.#owned = new Set();
    this.#state.unflushed.clear();
    for (let chunk = 0; chunk * chunkBytes < this.#state.bytes.length; chunk++) {
      this.#follow(chunk, layer.sizeBytes);
    }
    while (this.#collapse()) {
      // what the live image held alone is gone
    }
  }

  /** Exactly those that differ; null when an id is not known. */
  changed(from: SnapshotId | null, to: SnapshotId | null): Bitmap | null {
    if ((from !== null && !this.has(from)) || (to !== null && !this.has(to))) return null;
    const chunks = new Bitmap(Math.ceil(this.#state.identity.sizeBytes / chunkBytes));
    for (let chunk = 0; chunk < chunks.size; chunk++) {
      const before = this.#content(from === null ? 'empty' : this.#find(from), chunk);
      const after = this.#content(to === null ? 'live' : this.#find(to), chunk);
      if (before.isData !== after.isData || !sameBytes(before.bytes, after.bytes))
        chunks.add(chunk);
      else if (after.sums.some((sum, i) => sum !== before.sums[i])) chunks.add(chunk);
    }
    return chunks;
  }

  isAllocated(snapshotId: SnapshotId, chunk: number): boolean {
    return this.#content(this.#find(snapshotId), chunk).isData;
  }

  /** One block of a snapshot and its sum; null when the snapshot is gone. */
  block(snapshotId: SnapshotId, block: number): { bytes: Buffer; sum: number } | null {
    const layer = this.#find(snapshotId);
    if (!layer) return null;
    const { bytes, sums } = this.#content(layer, Math.floor(block / blocksPerChunk));
    const at = block % blocksPerChunk;
    const from = at * blockBytes;
    return { bytes: bytes.subarray(from, from + blockBytes), sum: sums[at] ?? zeroSum };
  }

  /** Where the bytes of a snapshot's chunk lie, for tests that damage them. */
  slotBytes(snapshotId: SnapshotId, chunk: number): Buffer | null {
    return nearest(this.#find(snapshotId), chunk)?.bytes ?? null;
  }

  write(
    snapshotId: SnapshotId,
    offset: number,
    bytes: Uint8Array,
    start: number,
    sums: ArrayLike<number>,
  ): void {
    const layer = this.#find(snapshotId);
    if (!layer) throw notFound(snapshotId);
    for (let index = 0; index < sums.length; index++) {
      const block = offset / blockBytes + index;
      const chunk = Math.floor(block / blocksPerChunk);
      const slot = this.#writable(layer, chunk);
      const from = start + index * blockBytes;
      put(slot, block % blocksPerChunk, bytes.subarray(from, from + blockBytes), sums[index] ?? 0);
      this.#inherit(chunk);
    }
  }

  zero(snapshotId: SnapshotId, offset: number, length: number): void {
    const layer = this.#find(snapshotId);
    if (!layer) throw notFound(snapshotId);
    if (layer.state === 'ready') {
      throw new StorError('FAILED_PRECONDITION', `snapshot ${snapshotId} is ready`);
    }
    const empty = new Uint8Array(blockBytes);
    for (let at = offset; at < offset + length; at += blockBytes) {
      const chunk = Math.floor(at / chunkBytes);
      const isWhole = chunk * chunkBytes >= offset && (chunk + 1) * chunkBytes <= offset + length;
      if (isWhole) layer.slots.set(chunk, newSlot(true));
      else if (this.#content(layer, chunk).isData) {
        put(this.#writable(layer, chunk), (at % chunkBytes) / blockBytes, empty, zeroSum);
      }
      this.#inherit(chunk);
    }
  }

  flushed(): void {
    for (const { slots } of this.#layers) {
      for (const slot of slots.values()) slot.unflushed.clear();
    }
  }

  /** As of the live image: of what was not flushed, any part is lost. */
  losePower(random: Random): void {
    for (const { slots } of this.#layers) {
      for (const slot of slots.values()) {
        for (const [block, before] of slot.unflushed) {
          const chance = random.next();
          if (chance < 0.3) continue;
          before.bytes.copy(slot.bytes, block * blockBytes);
          if (chance < 0.9) slot.sums[block] = before.sum;
        }
        slot.unflushed.clear();
      }
    }
    for (let chunk = 0; chunk * chunkBytes < this.#state.bytes.length; chunk++) {
      this.#inherit(chunk);
    }
  }

  #find(snapshotId: SnapshotId): Layer | null {
    return this.#layers.find((layer) => layer.snapshotId === snapshotId) ?? null;
  }

  #freeze(chunk: number): Slot {
    const { bytes, sums, allocated, unflushed } = this.#state;
    const slot = newSlot(!allocated.has(chunk));
    bytes.copy(slot.bytes, 0, chunk * chunkBytes, (chunk + 1) * chunkBytes);
    slot.sums.set(sums.subarray(chunk * blocksPerChunk, (chunk + 1) * blocksPerChunk));
    for (let block = 0; block < blocksPerChunk; block++) {
      const before = unflushed.get(chunk * blocksPerChunk + block);
      if (before) slot.unflushed.set(block, before);
      unflushed.delete(chunk * blocksPerChunk + block);
    }
    return slot;
  }

  /** A slot of the layer itself, or of an older one when the snapshot is ready: repairs go there. */
  #writable(layer: Layer, chunk: number): Slot {
    const known = nearest(layer, chunk);
    if (layer.state === 'ready') {
      if (known && !known.isHole) return known;
      throw new StorError('FAILED_PRECONDITION', 'the snapshot holds no data there');
    }
    const own = layer.slots.get(chunk);
    if (own && !own.isHole) return own;
    const slot = newSlot(false);
    if (known) {
      known.bytes.copy(slot.bytes);
      slot.sums.set(known.sums);
    }
    layer.slots.set(chunk, slot);
    return slot;
  }

  /** The live image follows the layers where it has nothing of its own. */
  #inherit(chunk: number): void {
    if (!this.#owned.has(chunk)) this.#follow(chunk, Infinity);
  }

  #follow(chunk: number, sizeBytes: number): void {
    const { bytes, sums, allocated } = this.#state;
    const slot = chunk * chunkBytes < sizeBytes ? nearest(this.#headParent, chunk) : null;
    const at = chunk * chunkBytes;
    const length = Math.min(chunkBytes, bytes.length - at);
    if (slot && !slot.isHole) {
      slot.bytes.copy(bytes, at, 0, length);
      sums.set(slot.sums.subarray(0, length / blockBytes), chunk * blocksPerChunk);
      allocated.add(chunk);
    } else {
      bytes.fill(0, at, at + length);
      sums.fill(zeroSum, at / blockBytes, (at + length) / blockBytes);
      allocated.delete(chunk);
    }
  }

  #content(
    of: Layer | 'live' | 'empty' | null,
    chunk: number,
  ): { bytes: Buffer; sums: Uint32Array; isData: boolean } {
    const { bytes, sums, allocated } = this.#state;
    if (of === 'live') {
      const at = chunk * chunkBytes;
      return {
        bytes: bytes.subarray(at, at + chunkBytes),
        sums: sums.subarray(chunk * blocksPerChunk, (chunk + 1) * blocksPerChunk),
        isData: allocated.has(chunk),
      };
    }
    const slot = of === 'empty' ? null : nearest(of, chunk);
    return slot && !slot.isHole ? { ...slot, isData: true } : { ...emptySlot, isData: false };
  }

  /** Takes one hidden layer away that nobody needs as it is; whether there was one. */
  #collapse(): boolean {
    for (const layer of this.#layers) {
      if (layer.snapshotId !== null) continue;
      const children = this.#layers.filter((each) => each.parent === layer);
      const isHead = this.#headParent === layer;
      if (children.length + Number(isHead) > 1) continue;
      if (isHead) this.#mergeIntoHead(layer);
      const [child] = children;
      if (child) {
        for (const [chunk, slot] of layer.slots) {
          if (!child.slots.has(chunk)) child.slots.set(chunk, slot);
        }
        child.parent = layer.parent;
      }
      this.#layers = this.#layers.filter((each) => each !== layer);
      return true;
    }
    return false;
  }

  #mergeIntoHead(layer: Layer): void {
    const { unflushed } = this.#state;
    for (const [chunk, slot] of layer.slots) {
      if (this.#owned.has(chunk)) continue;
      this.#owned.add(chunk);
      for (const [block, before] of slot.unflushed) {
        unflushed.set(chunk * blocksPerChunk + block, before);
      }
    }
    this.#headParent = layer.parent;
  }
}

/** The last chunk of the live image may be shorter than a slot. */
function sameBytes(a: Buffer, b: Buffer): boolean {
  const length = Math.min(a.length, b.length);
  return a === b || a.subarray(0, length).equals(b.subarray(0, length));
}

function newSlot(isHole: boolean): Slot {
  return {
    bytes: Buffer.alloc(chunkBytes),
    sums: new Uint32Array(blocksPerChunk).fill(zeroSum),
    isHole,
    unflushed: new Map(),
  };
}

const emptySlot = newSlot(true);

function put(slot: Slot, block: number, bytes: Uint8Array, sum: number): void {
  const at = block * blockBytes;
  if (!slot.unflushed.has(block)) {
    const before = Buffer.from(slot.bytes.subarray(at, at + blockBytes));
    slot.unflushed.set(block, { bytes: before, sum: slot.sums[block] ?? zeroSum });
  }
  slot.bytes.set(bytes, at);
  slot.sums[block] = sum;
}

function visible(layer: Layer | null): Layer | null {
  let at = layer;
  while (at && at.snapshotId === null) at = at.parent;
  return at;
}

function nearest(layer: Layer | null, chunk: number): Slot | null {
  for (let at = layer; at; at = at.parent) {
    const slot = at.slots.get(chunk);
    if (slot) return slot;
  }
  return null;
}

function notFound(snapshotId: SnapshotId): StorError {
  return new StorError('NOT_FOUND', `the replica has no snapshot ${snapshotId}`);
}
