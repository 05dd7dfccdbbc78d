import { crc32 } from './crc32.ts';
import { maxSnapshotBytes } from './limits.ts';
import type { Snapshot, SnapshotChunk } from './types.ts';

/**
 * A log snapshot on its way to one follower, in chunks. The snapshot it began with is kept to the
 * end, so that a leader that takes new ones all the time still comes to an end with one. The window
 * of chunks under way is bounded; what was not answered in time is sent again from where the
 * follower is, so a lost connection costs a window and not the whole.
 */
export class SnapshotTransfer {
  readonly snapshot: Snapshot;
  readonly #chunkBytes: number;
  readonly #windowBytes: number;
  /** of all bytes up to an offset, for each where a chunk began or ended */
  readonly #checksums = new Map<number, number>([[0, 0]]);
  #acknowledged = 0;
  #sent = 0;
  /** an empty snapshot is one empty chunk */
  #isEmptySent = false;
  #silentTicks = 0;
  #patienceTicks: number;
  readonly #firstPatienceTicks: number;

  constructor(
    snapshot: Snapshot,
    options: { chunkBytes: number; window: number; patienceTicks: number },
  ) {
    this.snapshot = snapshot;
    this.#chunkBytes = options.chunkBytes;
    this.#windowBytes = options.chunkBytes * options.window;
    this.#firstPatienceTicks = options.patienceTicks;
    this.#patienceTicks = options.patienceTicks;
  }

  /** Chunks to send now. */
  take(): Omit<SnapshotChunk, 'type' | 'from' | 'to' | 'term'>[] {
    const { data } = this.snapshot;
    const chunks = [];
    while (this.#sent < data.length && this.#sent - this.#acknowledged < this.#windowBytes) {
      chunks.push(this.#chunkAt(this.#sent));
      this.#sent = Math.min(this.#sent + this.#chunkBytes, data.length);
    }
    if (data.length === 0 && !this.#isEmptySent) chunks.push(this.#chunkAt(0));
    this.#isEmptySent = true;
    return chunks;
  }

  #chunkAt(offset: number): Omit<SnapshotChunk, 'type' | 'from' | 'to' | 'term'> {
    const { index, term, membership, data: all } = this.snapshot;
    const data = all.subarray(offset, offset + this.#chunkBytes);
    const before = this.#checksums.get(offset) ?? crc32(all.subarray(0, offset));
    const checksum = this.#checksums.get(offset + data.length) ?? crc32(data, before);
    this.#checksums.set(offset + data.length, checksum);
    const totalBytes = all.length;
    return {
      snapshotIndex: index,
      snapshotTerm: term,
      membership,
      totalBytes,
      offset,
      data,
      checksum,
    };
  }

  /** The follower has so many bytes; true when that is news. Fewer than before: it lost them. */
  acknowledge(bytes: number): boolean {
    if (bytes === this.#acknowledged || bytes > this.snapshot.data.length) return false;
    this.#sent = bytes < this.#acknowledged ? bytes : Math.max(this.#sent, bytes);
    this.#acknowledged = bytes;
    this.#silentTicks = 0;
    this.#patienceTicks = this.#firstPatienceTicks;
    return true;
  }

  /**
   * One tick of time; true when there is something to send again. The wait doubles with each time in
   * vain: a slow link must not be filled with repetitions.
   */
  tick(): boolean {
    if (++this.#silentTicks < this.#patienceTicks) return false;
    this.#silentTicks = 0;
    this.#patienceTicks *= 2;
    // when it has all, the last chunk asks what became of it
    const last = Math.max(0, this.snapshot.data.length - this.#chunkBytes);
    const hasAll = this.#acknowledged === this.snapshot.data.length;
    this.#sent = hasAll ? last : this.#acknowledged;
    this.#isEmptySent = false;
    return true;
  }
}

/** What a follower has of a snapshot that comes in chunks. At most one, and never more than its size. */
export class SnapshotAssembly {
  /** the term of who sent the last chunk of it */
  #leaderTerm = 0;
  #snapshotIndex = 0;
  #snapshotTerm = 0;
  #totalBytes = 0;
  #bytes = 0;
  #checksum = 0;
  #chunks: Uint8Array[] = [];

  /**
   * Takes a chunk if it is the next one; `nextOffset` is how far it is complete. The checksum is of
   * all bytes up to the end of the chunk: so chunks of two leaders, whose bytes for one state may
   * differ, are never mixed, and a wrong one makes it begin anew.
   */
  add(chunk: SnapshotChunk): { nextOffset: number; snapshot: Snapshot | null } {
    const { snapshotIndex, snapshotTerm, totalBytes, offset, data, checksum, membership } = chunk;
    const isKnown =
      snapshotIndex === this.#snapshotIndex &&
      snapshotTerm === this.#snapshotTerm &&
      totalBytes === this.#totalBytes;
    if (!isKnown) {
      // A late one of the same leader must not end its newer one. One of another leader may be older
      // than what a former leader began: that will never be finished.
      const isLate = chunk.term === this.#leaderTerm && snapshotIndex < this.#snapshotIndex;
      if (isLate || totalBytes > maxSnapshotBytes) return { nextOffset: 0, snapshot: null };
      this.clear();
      this.#snapshotIndex = snapshotIndex;
      this.#snapshotTerm = snapshotTerm;
      this.#totalBytes = totalBytes;
    }
    this.#leaderTerm = chunk.term;
    if (offset !== this.#bytes || offset + data.length > totalBytes) {
      return { nextOffset: this.#bytes, snapshot: null };
    }
    const next = crc32(data, this.#checksum);
    if (next !== checksum) {
      this.clear();
      return { nextOffset: 0, snapshot: null };
    }
    this.#checksum = next;
    this.#bytes += data.length;
    this.#chunks.push(data);
    if (this.#bytes < totalBytes) return { nextOffset: this.#bytes, snapshot: null };
    const snapshot = { index: snapshotIndex, term: snapshotTerm, membership, data: this.#join() };
    this.clear();
    return { nextOffset: totalBytes, snapshot };
  }

  #join(): Uint8Array {
    const data = new Uint8Array(this.#totalBytes);
    let offset = 0;
    for (const chunk of this.#chunks) {
      data.set(chunk, offset);
      offset += chunk.length;
    }
    return data;
  }

  clear(): void {
    this.#snapshotIndex = 0;
    this.#snapshotTerm = 0;
    this.#totalBytes = 0;
    this.#bytes = 0;
    this.#checksum = 0;
    this.#chunks = [];
  }
}
