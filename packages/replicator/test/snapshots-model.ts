/**
 * What the images of replicas may hold: the live image of each, and each snapshot as a full copy. A
 * block is a number (every 4 bytes of it hold it; 0 is zeros); its history is every value that it may
 * have, the oldest being what was flushed.
 */
export interface Entry {
  value: number;
  /** number of the call that wrote it */
  seq: number;
  acked: boolean;
  /** zeros that may have found zeros: then nothing changed, and no mark was needed */
  mayBeIdle?: boolean;
}

/** Nothing is known of the block: it may hold anything, but always the same until it is written. */
export const anything = -1;

export class Image {
  readonly blocks: Map<number, Entry[]>;
  sizeBlocks: number;
  /** what it grew from, dropped snapshots too: filling one of those may show in this one */
  parent: Image | null;

  constructor(sizeBlocks: number, parent: Image | null, blocks = new Map<number, Entry[]>()) {
    this.sizeBlocks = sizeBlocks;
    this.parent = parent;
    this.blocks = blocks;
  }

  /** Calls under way are part of both. */
  copy(): Map<number, Entry[]> {
    return new Map([...this.blocks].map(([block, entries]) => [block, [...entries]] as const));
  }

  history(block: number): Entry[] {
    let entries = this.blocks.get(block);
    if (!entries) this.blocks.set(block, (entries = [{ value: 0, seq: 0, acked: true }]));
    return entries;
  }

  /** The value that a read issued now must return; `anything` when it is not known. */
  latest(block: number): number {
    return this.blocks.get(block)?.at(-1)?.value ?? 0;
  }

  /** Everything issued up to `seq` is durable. */
  flushed(seq: number): void {
    for (const entries of this.blocks.values()) {
      const at = entries.findLastIndex((entry) => entry.seq <= seq);
      if (at > 0) entries.splice(0, at);
    }
  }

  /** Exactly one value is possible for each block, whatever happens to the host. */
  get exact(): boolean {
    for (const entries of this.blocks.values()) {
      if (entries.length > 1 || entries[0]?.value === anything) return false;
    }
    return true;
  }

  descendsFrom(other: Image): boolean {
    for (let at = this.parent; at; at = at.parent) if (at === other) return true;
    return false;
  }
}

/** Values that may be there: after a kill all that was acknowledged counts, after a power cut what was flushed. */
export function allowedOf(entries: readonly Entry[], after: 'clean' | 'kill' | 'power'): Entry[] {
  if (after === 'clean') return entries.slice(-1);
  if (after === 'power') return [...entries];
  return entries.slice(entries.findLastIndex((entry) => entry.acked));
}

/** The value of a block, or null when it is not one value throughout. */
export function valueOf(bytes: Uint8Array, start: number, blockBytes: number): number | null {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + start, blockBytes / 4);
  const first = words[0] ?? 0;
  for (const word of words) if (word !== first) return null;
  return first;
}

export function fill(target: Uint8Array, start: number, blockBytes: number, value: number): void {
  new Int32Array(target.buffer, target.byteOffset + start, blockBytes / 4).fill(value);
}
