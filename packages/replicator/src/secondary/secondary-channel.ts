import {
  StorError,
  blockBytes,
  decodePeerView,
  hasCode,
  parsePeerBody,
  peerControl,
  peerFailureOf,
  peerFlagKeepAllocated,
  peerFlagUnverified,
  peerFlagView,
  peerFrame,
  peerSumsBodyBytes,
  peerViewBytes,
  type BackgroundClass,
  type PeerControl,
  type PeerControlReply,
  type PeerFrameType,
  type PeerHeader,
  type SnapshotId,
} from '@stor/protocol';
import { crc32, hashBlocks, type SharedBytes } from '@stor/runtime';

import { AppliedPrefix } from '../core/replication/applied-prefix.ts';
import { CreditWindow } from '../core/replication/credit-window.ts';
import { hashBytes } from '../core/replication/settle-choice.ts';
import { historyOfPeer, peerHistoryOf } from '../peer/peer-history.ts';
import { peerSpaceOf, regionBitmap, textOf } from '../peer/peer-snapshots.ts';
import type { BackgroundTurns } from '../background-turns.ts';
import type { LeasePromises } from '../core/replication/lease-promises.ts';
import type { LinkOutput } from '../peer/outbox.ts';
import type { GateSession } from '../replication/replica-gate.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';
import type { ReplicaView } from '../replica-snapshots.ts';
import type { ReplicaStore, StoreDone } from '../replica-store.ts';

/** What a channel needs of the link that carries it. */
export interface ChannelOwner {
  readonly output: LinkOutput;
  readonly turns: BackgroundTurns;
  /** The channel has something to acknowledge at the end of this turn. */
  acknowledgeSoon(channel: SecondaryChannel): void;
  /** What is being received, for longer than this call; null: to be copied. */
  keepReceived(bytes: number): SharedBytes | null;
  /** Bytes held for slow writes and unsent answers changed: the link pauses reading on too many. */
  backlogChanged(bytes: number): void;
  /** The replica failed: the channel is over and the failure is to be reported (I7). */
  failed(channel: SecondaryChannel, error: StorError): void;
}

/**
 * One replica as it follows one primary at one epoch. Frames are applied in the order in which they
 * come wherever they overlap (the store sees to that) and acknowledged as a prefix.
 */
export class SecondaryChannel {
  readonly number: number;
  readonly segment: number;
  readonly session: GateSession;
  readonly #store: ReplicaStore;
  readonly #owner: ChannelOwner;
  readonly #promises: LeasePromises;
  readonly #applied = new AppliedPrefix();
  readonly #credits: CreditWindow;
  /** what waits until everything that came before it is applied */
  #afterFrames: { frames: number; run: () => void }[] = [];
  #sums = new Uint32Array(64);
  ackQueued = false;
  /** its primary takes bitmaps as runs */
  runs = false;

  constructor(
    number: number,
    segment: number,
    session: GateSession,
    promises: LeasePromises,
    owner: ChannelOwner,
    lastPong: number,
  ) {
    this.number = number;
    this.segment = segment;
    this.session = session;
    this.#store = session.store;
    this.#owner = owner;
    this.#promises = promises;
    const isOpen = (): boolean => session.alive || session.inFlight > 0;
    this.#credits = new CreditWindow(session.store.promiseRoom(isOpen), lastPong);
  }

  get appliedSequence(): number {
    return this.#applied.sequence;
  }
  /** What the primary is told of room, in whatever it is told next. */
  get freeChunks(): number {
    return this.#store.failure ? 0 : this.#credits.tell();
  }
  freeChunksInPong(pong: number): number {
    return this.#store.failure ? 0 : this.#credits.tellInPong(pong);
  }

  /** The primary says that it has heard that pong. */
  pinged(heardPong: number): void {
    this.#whenApplied(() => {
      this.#credits.heard(heardPong);
    });
  }

  #whenApplied(run: () => void): void {
    const frames = this.#applied.received;
    if (this.#applied.finished >= frames) run();
    else this.#afterFrames.push({ frames, run });
  }
  get markedCount(): number {
    return this.#store.markedCount;
  }

  /** The primary is told now that the replica knows no newer epoch than its own (I6). */
  promise(nowMs: number): void {
    this.#promises.promised(this.session.epoch, nowMs);
  }

  /** One frame of the primary; `body` is where its body begins. Throws PROTOCOL. */
  frame(header: PeerHeader, bytes: Buffer, body: number): void {
    // the epoch is checked in the turn in which the work is issued: a dead session does nothing (I2)
    if (!this.session.alive) return;
    const isView = (header.flags & peerFlagView) !== 0;
    const image = isView ? this.#view(decodePeerView(bytes, body)) : this.#store;
    if (image && header.length > 0 && header.offset + header.length > paddedBytes(image)) {
      throw new StorError('PROTOCOL', 'a range beyond the end of the replica');
    }
    const from = isView ? body + peerViewBytes : body;
    switch (header.type) {
      case peerFrame.write:
        if (isView) this.#writeView(header, bytes, from, image);
        else this.#write(header, bytes, from);
        return;
      case peerFrame.zero:
        this.#zero(header, image);
        return;
      case peerFrame.flush:
        this.#flush(header.sequence);
        return;
      case peerFrame.read:
        this.#read(header, image);
        return;
      case peerFrame.sums:
        this.#sumsOf(header, image);
        return;
      case peerFrame.control:
        this.#control(
          header.sequence,
          parsePeerBody(peerControl, bytes, body, body + header.bodyBytes),
        );
        return;
      default:
        throw new StorError('PROTOCOL', `a primary sent a frame of type ${header.type}`);
    }
  }

  acknowledge(): void {
    this.ackQueued = false;
    if (!this.session.alive) return;
    this.#owner.output.send(
      peerFrame.ack,
      0,
      this.segment,
      this.number,
      this.#applied.sequence,
      this.#applied.bytes,
      Math.min(this.freeChunks, 0xffffffff),
      null,
    );
  }

  /** Null: there is no such snapshot. */
  #view(snapshotId: SnapshotId): ReplicaView | null {
    return snapshotsOf(this.#store)?.view(snapshotId) ?? null;
  }

  /** Takes the sums of a write out of its frame; returns where its blocks begin. */
  #takeSums(length: number, bytes: Buffer, body: number): number {
    const blocks = length / blockBytes;
    if (this.#sums.length < blocks) this.#sums = new Uint32Array(blocks);
    for (let block = 0; block < blocks; block++) {
      this.#sums[block] = bytes.readUInt32BE(body + block * 4);
    }
    return body + blocks * 4;
  }

  #write(header: PeerHeader, bytes: Buffer, body: number): void {
    const { offset, length, sequence } = header;
    const start = this.#takeSums(length, bytes, body);
    const frameBytes = header.bodyBytes;
    try {
      if (this.#store.writeInline(offset, length, bytes, start, this.#sums, 0)) {
        if (this.#applied.done(sequence, frameBytes)) this.#owner.acknowledgeSoon(this);
        return;
      }
    } catch (error) {
      this.#fail(StorError.from(error));
      return;
    }
    this.#writeSlowly(this.#store, header, bytes, start);
  }

  /** Of a snapshot that is gone the write is done: nobody can read it any more. */
  #writeView(
    header: PeerHeader,
    bytes: Buffer,
    body: number,
    view: ReplicaStore | ReplicaView | null,
  ): void {
    const start = this.#takeSums(header.length, bytes, body);
    if (view) this.#writeSlowly(view, header, bytes, start);
    else if (this.#applied.done(header.sequence, header.bodyBytes)) {
      this.#owner.acknowledgeSoon(this);
    }
  }

  #writeSlowly(
    image: ReplicaStore | ReplicaView,
    header: PeerHeader,
    bytes: Buffer,
    start: number,
  ): void {
    const { offset, length, sequence, bodyBytes } = header;
    // the receive buffer is gone after this call, the store's slow path is not
    const memory = this.#owner.keepReceived(length);
    const { buffers } = this.#owner.output;
    const copy = memory ? null : buffers.take(length);
    if (copy) bytes.copy(copy, 0, start, start + length);
    const token = this.#applied.begin(sequence, bodyBytes);
    this.#owner.backlogChanged(length);
    const done = this.session.tracked((error) => {
      if (copy) buffers.give(copy);
      memory?.release();
      this.#owner.backlogChanged(-length);
      this.#finished(token, error);
    });
    image.write(offset, length, copy ?? bytes, copy ? 0 : start, this.#sums, 0, done);
  }

  #zero(header: PeerHeader, image: ReplicaStore | ReplicaView | null): void {
    const token = this.#applied.begin(header.sequence, header.bodyBytes);
    const keep = (header.flags & peerFlagKeepAllocated) !== 0;
    const done = this.session.tracked((error) => {
      this.#finished(token, error);
    });
    if (!image) done(null);
    else if ('snapshotId' in image) image.zero(header.offset, header.length, done);
    else image.zero(header.offset, header.length, keep, done);
  }

  #finished(token: object, error: StorError | null): void {
    // a snapshot that was dropped meanwhile: see #writeView
    if (error && error.code !== 'NOT_FOUND') {
      this.#fail(error);
      return;
    }
    if (!this.#applied.applied(token) || !this.session.alive) return;
    this.#owner.acknowledgeSoon(this);
    while ((this.#afterFrames[0]?.frames ?? Infinity) <= this.#applied.finished) {
      this.#afterFrames.shift()?.run();
    }
  }

  #flush(sequence: number): void {
    this.#store.flush(
      this.session.tracked((error) => {
        if (error) this.#fail(error);
        else if (this.session.alive) {
          const { segment, number } = this;
          this.#owner.output.send(peerFrame.flushed, 0, segment, number, sequence, 0, 0, null);
        }
      }, false),
    );
  }

  #read(header: PeerHeader, image: ReplicaStore | ReplicaView | null): void {
    const { offset, length, sequence } = header;
    if (!image) {
      this.#requestFailed(sequence, snapshotIsGone());
      return;
    }
    const blocks = length / blockBytes;
    const flags = header.flags & peerFlagUnverified;
    const unverified = flags !== 0;
    const front = unverified ? blocks : blocks * 4;
    const reply = Buffer.allocUnsafe(front + length);
    this.#owner.backlogChanged(length);
    const done = this.session.tracked((error) => {
      this.#owner.backlogChanged(-length);
      if (!this.session.alive) return;
      if (error) {
        this.#readFailed(sequence, error);
        return;
      }
      if (!unverified) {
        for (let block = 0; block < blocks; block++) {
          const at = front + block * blockBytes;
          reply.writeUInt32BE(crc32(reply.subarray(at, at + blockBytes)), block * 4);
        }
      }
      this.#reply(peerFrame.readReply, flags, sequence, offset, length, reply);
    });
    if (unverified) {
      const valid = reply.subarray(0, blocks);
      image.readUnverified(offset, length, reply, front, valid, done);
    } else {
      image.read(offset, length, reply, front, done);
    }
  }

  #sumsOf(header: PeerHeader, image: ReplicaStore | ReplicaView | null): void {
    const { offset, length, sequence } = header;
    if (!image) {
      this.#requestFailed(sequence, snapshotIsGone());
      return;
    }
    const blocks = length / blockBytes;
    const data = Buffer.allocUnsafe(length);
    const reply = Buffer.allocUnsafe(peerSumsBodyBytes(length));
    const valid = reply.subarray(blocks * hashBytes);
    this.#owner.backlogChanged(length);
    const done = this.session.tracked((error) => {
      this.#owner.backlogChanged(-length);
      if (!this.session.alive) return;
      if (error) {
        this.#readFailed(sequence, error);
        return;
      }
      hashBlocks(data, 0, blocks, blockBytes, reply, 0);
      this.#reply(peerFrame.sumsReply, 0, sequence, offset, length, reply);
    });
    image.readUnverified(offset, length, data, 0, valid, done);
  }

  /** The primary needs more than was kept for it. */
  #room(request: number, chunks: number): void {
    this.#whenApplied(() => {
      const freeChunks = this.#store.failure ? 0 : this.#credits.tell(chunks);
      this.#controlReply(request, { freeChunks, sequence: this.#applied.sequence });
    });
  }

  /**
   * Nothing of the replica is held while this waits, and nothing waits for it: a fence goes before. The
   * turn is over at once, for who asked may wait for those of others.
   */
  #turn(request: number, ofClass: BackgroundClass, bytes: number): void {
    const isWanted = (): boolean => this.session.alive;
    this.#owner.turns.ask(ofClass, bytes, isWanted, (turn) => {
      turn.end();
      this.#controlReply(request, {});
    });
  }

  #control(sequence: number, control: PeerControl): void {
    if (control.op === 'room') {
      this.#room(sequence, control.chunks);
      return;
    }
    if (control.op === 'turn') {
      this.#turn(sequence, control.class, control.bytes);
      return;
    }
    const done = this.session.tracked((error) => {
      if (error) {
        this.#requestFailed(sequence, error);
        // an order that has no room leaves the replica as it was
        const isFatal = hasCode(error, 'DISK_FAILED', 'NO_SPACE') && !isOrder(control);
        if (isFatal || this.#store.failure) this.#fail(error);
      } else this.#controlReply(sequence, this.#resultOf(control));
    }, control.op !== 'checkpoint');
    switch (control.op) {
      case 'set-view':
        this.#store.recordSetView(control.view, done);
        return;
      case 'checkpoint':
        // every write before this frame was issued before this call, so the flush covers it
        this.#store.flush(done);
        return;
      case 'retire':
        this.#store.retireMarks(control.generation, done);
        // where the next checkpoint's retire counts from
        this.#store.cutMarks();
        return;
      case 'adopt':
        this.#store.adoptGeneration(
          control.generation,
          control.history && historyOfPeer(control.history),
          done,
        );
        return;
      case 'history':
      case 'changed-since':
      case 'changed-chunks':
      case 'snapshots':
      case 'space':
        done(null);
        return;
      case 'extents':
        throw new StorError('PROTOCOL', 'extents are asked for on the channel of a reader');
      default:
        this.#order(control, done);
    }
  }

  /** What changes the snapshots, or the size. */
  #order(control: PeerSnapshotOrder, done: StoreDone): void {
    const store = snapshotsOf(this.#store);
    if (!store) {
      done(new StorError('FAILED_PRECONDITION', 'the store of the replica keeps no snapshots'));
      return;
    }
    switch (control.op) {
      case 'take-snapshot':
        store.takeSnapshot(control.snapshotId, this.session.epoch, control.kind, done);
        return;
      case 'confirm-snapshot':
        store.confirmSnapshot(control.snapshotId, done, control.sizeBytes);
        return;
      case 'drop-snapshot':
        store.dropSnapshot(control.snapshotId, done);
        return;
      case 'rollback':
        store.rollback(control.snapshotId, done);
        return;
      case 'resize':
        store.resize(control.sizeBytes, done);
        return;
    }
  }

  /** What is answered to a request that is done, as it is in this moment. */
  #resultOf(control: PeerControl): PeerControlReply {
    const store = snapshotsOf(this.#store);
    switch (control.op) {
      case 'history':
        return { history: peerHistoryOf(this.#store.history()) };
      case 'changed-since': {
        const regions = this.#store.regionsChangedSince(control.generation);
        return { regions: regions && textOf(regionBitmap(this.#store, regions), this.runs) };
      }
      case 'changed-chunks': {
        const chunks = store?.changedChunks(control.from, control.to) ?? null;
        return { chunks: chunks && textOf(chunks, this.runs) };
      }
      case 'snapshots': {
        const { sizeBytes } = this.#store;
        const headParent = store?.headParent ?? null;
        return { snapshots: store?.snapshots() ?? [], headParent, sizeBytes };
      }
      case 'rollback':
      case 'space':
        return peerSpaceOf(this.#store, this.freeChunks, this.runs);
      default:
        return {};
    }
  }

  #readFailed(sequence: number, error: StorError): void {
    this.#requestFailed(sequence, error);
    // a read that failed fails no replica (I9); a replica that has failed fails them all
    if (this.#store.failure) this.#fail(error);
  }

  #controlReply(sequence: number, reply: PeerControlReply): void {
    if (!this.session.alive) return;
    const body = Buffer.from(JSON.stringify(reply));
    this.#reply(peerFrame.controlReply, 0, sequence, 0, 0, body);
  }

  #requestFailed(sequence: number, error: StorError): void {
    if (!this.session.alive) return;
    const body = Buffer.from(JSON.stringify(peerFailureOf(error)));
    this.#reply(peerFrame.requestFailed, 0, sequence, 0, 0, body);
  }

  #reply(
    type: PeerFrameType,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    body: Uint8Array,
  ): void {
    const { segment, number } = this;
    this.#owner.output.send(type, flags, segment, number, sequence, offset, length, body);
  }

  #fail(error: StorError): void {
    if (!this.session.alive) return;
    this.#owner.failed(this, error);
  }
}

const orders = [
  'take-snapshot',
  'confirm-snapshot',
  'drop-snapshot',
  'rollback',
  'resize',
] as const;
type PeerSnapshotOrder = Extract<PeerControl, { op: (typeof orders)[number] }>;

function isOrder(control: PeerControl): boolean {
  return orders.some((op) => op === control.op);
}

function paddedBytes(image: { readonly sizeBytes: number }): number {
  return Math.ceil(image.sizeBytes / blockBytes) * blockBytes;
}

function snapshotIsGone(): StorError {
  return new StorError('NOT_FOUND', 'the replica has no such snapshot');
}
