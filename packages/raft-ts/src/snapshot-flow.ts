import { crc32 } from './core/crc32.ts';
import type { RaftLimits } from './core/limits.ts';
import type { OwnSnapshot, RawNode } from './core/raw-node.ts';
import type { RaftStorage } from './core/storage.ts';
import type { ChunkOrder, LogPosition, RaftMessage, Snapshot } from './core/types.ts';
import { RaftError } from './errors.ts';
import type { Settings } from './raft-options.ts';
import { SnapshotMaker } from './snapshot-maker.ts';

/** What the flow needs of the node that it belongs to. */
export interface SnapshotFlowNode {
  raw: RawNode;
  settings: Settings;
  limits: RaftLimits;
  isStopped: () => boolean;
  /** there may be something to save, send or apply */
  pump: () => void;
  send: (messages: RaftMessage[]) => void;
  fail: (error: unknown) => void;
  /** the state machine is as this snapshot says */
  restored: (snapshot: Snapshot) => void;
}

/**
 * Log snapshots of one member on their ways: from the state machine into the store, from the store to
 * followers, from the store into the state machine. On each of them a few chunks are in memory.
 */
export class SnapshotFlow {
  readonly #node: SnapshotFlowNode;
  readonly #maker: SnapshotMaker;
  #cancelWork: (() => void) | null = null;
  #nextIndex: number;
  #appliedBytes = 0;
  /** the newest cannot be read any more: another one has to take its place */
  #isDamaged = false;
  #restoring: { snapshot: Snapshot; done: Promise<void> } | null = null;
  #isSending = false;
  #sending: Promise<void> = Promise.resolve();

  constructor(node: SnapshotFlowNode, newestIndex: number) {
    this.#node = node;
    this.#maker = new SnapshotMaker(node.limits.snapshotChunkBytes);
    this.#nextIndex = newestIndex + node.settings.snapshotEntries;
  }

  /** The state machine is being given a snapshot: nothing may be applied. */
  get isRestoring(): boolean {
    return this.#restoring !== null;
  }

  applied(bytes: number): void {
    this.#appliedBytes += bytes;
  }

  // --- from the state machine into the store ---

  /** Begins a snapshot when it is due, and returns what is to be saved of it now; null: nothing. */
  ownWork(): OwnSnapshot | null {
    const { raw, settings } = this.#node;
    // a leader's snapshot takes the place of the state that this one is of
    if (raw.log.mustRestore) this.#maker.abandon();
    else if (!this.#maker.isActive && this.#isDue()) this.#begin();
    const taken = this.#maker.take();
    this.#workLater();
    if (!taken) return null;
    const { pieces, snapshot } = taken;
    if (!snapshot) return { pieces, compaction: null };
    const start = raw.compactionPoint(settings.trailingEntries, snapshot.index);
    return { pieces, compaction: { snapshot, start } };
  }

  #isDue(): boolean {
    const { raw, limits } = this.#node;
    const { appliedIndex } = raw.status;
    return (
      this.#isDamaged ||
      appliedIndex >= this.#nextIndex ||
      this.#appliedBytes >= limits.snapshotLogBytes
    );
  }

  #begin(): void {
    const { raw, settings } = this.#node;
    const { appliedIndex: index } = raw.status;
    const term = raw.log.termAt(index);
    if (term === undefined || index === raw.log.snapshot.index) return;
    this.#nextIndex = index + settings.snapshotEntries;
    this.#appliedBytes = 0;
    this.#isDamaged = false;
    const membership = raw.log.membershipAt(index);
    this.#maker.begin({ index, term, membership }, settings.stateMachine.snapshot());
    this.#maker.work();
  }

  /** Piece by piece, and other work between them: nothing stands still while a large state is written. */
  #workLater(): void {
    if (this.#cancelWork || !this.#maker.isActive || this.#maker.isReady) return;
    this.#cancelWork = this.#node.settings.clock.after(0, () => {
      this.#cancelWork = null;
      try {
        this.#maker.work();
      } catch (error) {
        this.#node.fail(error);
        return;
      }
      this.#node.pump();
    });
  }

  // --- from the store into the state machine ---

  /** Gives the state machine the snapshot that it must have, if there is one; then `restored` is called. */
  restore(): Promise<void> {
    const snapshot = this.#restoring ? null : this.#node.raw.takeSnapshot();
    if (!snapshot) return this.#restoring?.done ?? Promise.resolve();
    const done = this.#restore(snapshot);
    this.#restoring = { snapshot, done };
    return done;
  }

  async #restore(snapshot: Snapshot): Promise<void> {
    const { raw, settings } = this.#node;
    const isWanted = (): boolean =>
      !this.#node.isStopped() && raw.log.mustRestore && raw.log.snapshot === snapshot;
    let failure: unknown = null;
    try {
      await settings.stateMachine.restore(this.#contentOf(snapshot, isWanted));
    } catch (error) {
      failure = error;
    }
    this.#restoring = null;
    if (this.#node.isStopped()) return;
    if (failure !== null && isWanted()) {
      this.#node.fail(failure);
      return;
    }
    if (failure === null && raw.restored(snapshot)) {
      this.#appliedBytes = 0;
      this.#nextIndex = snapshot.index + settings.snapshotEntries;
      this.#node.restored(snapshot);
    }
    this.#node.pump();
  }

  async *#contentOf(snapshot: Snapshot, isWanted: () => boolean): AsyncGenerator<Uint8Array> {
    const { settings, limits } = this.#node;
    let checksum = 0;
    for (let offset = 0; offset < snapshot.sizeBytes;) {
      const length = Math.min(limits.snapshotChunkBytes, snapshot.sizeBytes - offset);
      const read = await settings.storage.readSnapshot(snapshot, offset, length);
      if (!isWanted()) throw new RaftError('ABORTED', 'a newer log snapshot has come');
      if (!read) throw new RaftError('CORRUPT', 'the log snapshot is not in the store any more');
      checksum = crc32(read.data, checksum);
      offset += length;
      // the last piece must not be taken for the end of a state that is not what was stored
      if (offset === snapshot.sizeBytes && checksum !== snapshot.checksum) {
        throw new RaftError('CORRUPT', 'the log snapshot in the store is not what was written');
      }
      yield read.data;
    }
  }

  // --- from the store to followers ---

  /** Sends the chunks that are ordered, one after the other, as fast as the store reads them. */
  sendChunks(): void {
    const order = this.#isSending ? null : this.#node.raw.takeChunkOrder();
    if (!order) return;
    this.#isSending = true;
    this.#sending = this.#send(order);
  }

  async #send(first: ChunkOrder): Promise<void> {
    const { raw, isStopped } = this.#node;
    try {
      for (let order: ChunkOrder | null = first; order; order = raw.takeChunkOrder()) {
        const read = await this.#read(order);
        if (isStopped()) return;
        const message = raw.chunkOf(order, read);
        if (message) this.#node.send([message]);
      }
    } catch (error) {
      this.#node.fail(error);
    } finally {
      this.#isSending = false;
    }
  }

  /**
   * Null: it is not there, or damaged. The state machine has all that was in it, so a new one is made with
   * the next entry, and the transfer begins anew with that.
   */
  async #read(order: ChunkOrder): ReturnType<RaftStorage['readSnapshot']> {
    const { snapshot, offset, length } = order;
    try {
      return await this.#node.settings.storage.readSnapshot(snapshot, offset, length);
    } catch (error) {
      if (!(error instanceof RaftError) || error.code !== 'CORRUPT') throw error;
      this.#noteDamage(snapshot, error);
      return null;
    }
  }

  #noteDamage({ index, term }: Snapshot, error: RaftError): void {
    const { raw, settings, pump } = this.#node;
    const { snapshot } = raw.log;
    const isNewest = snapshot.index === index && snapshot.term === term;
    if (!isNewest || this.#maker.isActive || this.#isDamaged) return;
    this.#isDamaged = true;
    settings.logger?.error({ index, error }, 'the log snapshot is damaged: another one is made');
    pump();
  }

  /** Snapshots that are being read: the store must keep them. */
  inUse(): LogPosition[] {
    const used = this.#node.raw.snapshotsInUse();
    return this.#restoring ? [...used, this.#restoring.snapshot] : used;
  }

  /** Nothing more is begun; what is being read is waited for. */
  async stop(): Promise<void> {
    this.#cancelWork?.();
    this.#maker.abandon();
    await this.#sending;
    await this.#restoring?.done;
  }
}
