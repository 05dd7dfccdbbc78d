import { blockBytes, chunkBytes, regionBytes } from '@stor/protocol';
import type { Clock, Files } from '@stor/runtime';
import { ColdReads, type HotBlocks } from '../core/store/block-cache.ts';
import type { LayerImage } from '../core/store/layer-image.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import type { SlotTable } from '../core/store/slot-table.ts';
import { pendingFlag } from '../core/store/slot-table.ts';
import type { SlotFiles } from './slot-files.ts';

export interface InlineIoParts {
  tables: ReplicaTables;
  image: LayerImage;
  slotTable: SlotTable;
  slots: SlotFiles;
  hot: HotBlocks;
  clock: Clock;
  files: Pick<Files, 'threadReadBytes'>;
}

/** Reads and writes that end in the turn in which they are asked for, when that cannot block. */
export class InlineIo {
  readonly #tables: ReplicaTables;
  readonly #image: LayerImage;
  readonly #slotTable: SlotTable;
  readonly #slots: SlotFiles;
  readonly #hot: HotBlocks;
  readonly #clock: Clock;
  readonly #coldReads: ColdReads;

  constructor(parts: InlineIoParts) {
    this.#tables = parts.tables;
    this.#image = parts.image;
    this.#slotTable = parts.slotTable;
    this.#slots = parts.slots;
    this.#hot = parts.hot;
    this.#clock = parts.clock;
    const { files } = parts;
    this.#coldReads = new ColdReads(() => files.threadReadBytes?.() ?? null);
  }

  /** False when something must be made durable first. Throws what the file system throws. */
  write(
    offset: number,
    length: number,
    bytes: Uint8Array,
    start: number,
    sums: Uint32Array,
    sumsStart: number,
  ): boolean {
    const tables = this.#tables;
    const { slotOf, top } = this.#image;
    const { words } = this.#slotTable;
    const end = offset + length;
    for (let position = offset; position < end;) {
      const chunk = Math.floor(position / chunkBytes);
      const slotPlusOne = slotOf.get(chunk);
      if (slotPlusOne <= 0 || !this.#slots.isWarm(slotPlusOne - 1)) return false;
      // a frozen slot is copied first
      if (((words[slotPlusOne - 1] ?? 0) & ~pendingFlag) !== top) return false;
      // a chunk lies in one region (I8)
      if (!tables.isMarked(Math.floor(position / regionBytes))) return false;
      position = (chunk + 1) * chunkBytes;
    }
    for (let position = offset; position < end;) {
      const chunk = Math.floor(position / chunkBytes);
      const count = (Math.min(end, (chunk + 1) * chunkBytes) - position) / blockBytes;
      const done = position - offset;
      const linear =
        (slotOf.get(chunk) - 1) * (chunkBytes / blockBytes) +
        (position - chunk * chunkBytes) / blockBytes;
      const sum = sumsStart + done / blockBytes;
      this.#slots.writeSync(linear, count, bytes, start + done, sums, sum);
      tables.use(Math.floor(position / regionBytes));
      position += count * blockBytes;
    }
    this.#hot.add(offset / blockBytes, length / blockBytes);
    return true;
  }

  /** False when it may have to wait for the disk, or on any error. */
  read(offset: number, length: number, target: Uint8Array, start: number): boolean {
    const end = offset + length;
    const { slotOf } = this.#image;
    for (let position = offset; position < end; position += blockBytes) {
      if (slotOf.get(Math.floor(position / chunkBytes)) <= 0) continue;
      if (!this.#hot.has(position / blockBytes)) return false;
    }
    const beganMs = this.#clock.monotonicMs();
    try {
      for (let position = offset; position < end;) {
        const chunk = Math.floor(position / chunkBytes);
        const count = (Math.min(end, (chunk + 1) * chunkBytes) - position) / blockBytes;
        const at = start + position - offset;
        const slotPlusOne = slotOf.get(chunk);
        const linear =
          (slotPlusOne - 1) * (chunkBytes / blockBytes) +
          (position - chunk * chunkBytes) / blockBytes;
        if (slotPlusOne <= 0) target.fill(0, at, at + count * blockBytes);
        else if (!this.#slots.readSync(linear, count, target, at)) return false;
        position += count * blockBytes;
      }
    } catch {
      return false;
    }
    const warmth = this.#coldReads.note(this.#clock.monotonicMs() - beganMs);
    if (warmth !== 'warm') this.#hot.drop(offset / blockBytes, length / blockBytes);
    if (warmth === 'all cold') {
      this.#hot.clear();
      this.#slots.coolDown();
    }
    return true;
  }
}
