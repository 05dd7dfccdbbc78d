import { crc32 } from './crc32.ts';
import { maxSnapshotBytes } from './limits.ts';
import type { ArrivingSnapshot, Snapshot, SnapshotChunk } from './types.ts';

/**
 * A log snapshot on its way to one follower, in chunks, which are read from the store when it is their
 * turn. The snapshot it began with is kept to the end, so that a leader that takes new ones all the time
 * still comes to an end with one. The window of chunks under way is bounded; what was not answered in
 * time is sent again from where the follower is, so a lost connection costs a window and not the whole.
 */
export class SnapshotTransfer {
  readonly snapshot: Snapshot;
  readonly #chunkBytes: number;
  readonly #windowBytes: number;
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

  /** Chunks to read and send now. */
  take(): { offset: number; length: number }[] {
    const { sizeBytes } = this.snapshot;
    const chunks = [];
    while (this.#sent < sizeBytes && this.#sent - this.#acknowledged < this.#windowBytes) {
      const length = Math.min(this.#chunkBytes, sizeBytes - this.#sent);
      chunks.push({ offset: this.#sent, length });
      this.#sent += length;
    }
    if (sizeBytes === 0 && !this.#isEmptySent) chunks.push({ offset: 0, length: 0 });
    this.#isEmptySent = true;
    return chunks;
  }

  /** The follower has so many bytes; true when that is news. Fewer than before: it lost them. */
  acknowledge(bytes: number): boolean {
    if (bytes === this.#acknowledged || bytes > this.snapshot.sizeBytes) return false;
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
    const { sizeBytes } = this.snapshot;
    const last = Math.max(0, sizeBytes - this.#chunkBytes);
    this.#sent = this.#acknowledged === sizeBytes ? last : this.#acknowledged;
    this.#isEmptySent = false;
    return true;
  }
}

/**
 * How much a follower has of a snapshot that comes in chunks; the chunks themselves go into the store one
 * by one. At most one, and never more than its size.
 */
export class SnapshotAssembly {
  /** the term of who sent the last chunk of it */
  #leaderTerm = 0;
  #arriving: ArrivingSnapshot | null = null;

  /** Goes on with what the store has. One that is whole already was not needed then, nor is it now. */
  constructor(stored: ArrivingSnapshot | null = null) {
    if (stored && stored.bytes < stored.totalBytes) this.#arriving = { ...stored };
  }

  /**
   * Takes a chunk if it is the next one; `nextOffset` is how far it is complete, and `isTaken` says that
   * this chunk has to be stored. The checksum is of all bytes up to the end of the chunk: so chunks of
   * two leaders, whose bytes for one state may differ, are never mixed, and a wrong one makes it begin
   * anew.
   */
  add(chunk: SnapshotChunk): { nextOffset: number; isTaken: boolean; snapshot: Snapshot | null } {
    const { snapshotIndex: index, snapshotTerm: term, totalBytes, membership } = chunk;
    const refused = { nextOffset: 0, isTaken: false, snapshot: null };
    if (!this.#isOf(chunk)) {
      // A late one of the same leader must not end its newer one. One of another leader may be older
      // than what a former leader began: that will never be finished.
      const isLate = chunk.term === this.#leaderTerm && index < (this.#arriving?.index ?? 0);
      if (isLate || totalBytes > maxSnapshotBytes) return refused;
      // what is behind its beginning cannot be stored: the one before it would be dropped in vain
      if (chunk.offset !== 0) return refused;
      this.#arriving = { index, term, totalBytes, bytes: 0, checksum: 0 };
    }
    const arriving = this.#arriving;
    if (!arriving) return refused;
    this.#leaderTerm = chunk.term;
    const { offset, data } = chunk;
    if (offset !== arriving.bytes || offset + data.length > totalBytes) {
      return { nextOffset: arriving.bytes, isTaken: false, snapshot: null };
    }
    const checksum = crc32(data, arriving.checksum);
    if (checksum !== chunk.checksum) {
      this.clear();
      return refused;
    }
    arriving.checksum = checksum;
    arriving.bytes += data.length;
    const nextOffset = arriving.bytes;
    if (nextOffset < totalBytes) return { nextOffset, isTaken: true, snapshot: null };
    this.clear();
    const snapshot = { index, term, membership, sizeBytes: totalBytes, checksum };
    return { nextOffset, isTaken: true, snapshot };
  }

  #isOf({ snapshotIndex, snapshotTerm, totalBytes }: SnapshotChunk): boolean {
    const arriving = this.#arriving;
    return (
      arriving !== null &&
      arriving.index === snapshotIndex &&
      arriving.term === snapshotTerm &&
      arriving.totalBytes === totalBytes
    );
  }

  clear(): void {
    this.#arriving = null;
  }
}
