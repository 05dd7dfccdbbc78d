import {
  StorError,
  hasCode,
  replicaLeaseMs,
  type BackgroundClass,
  type SnapshotId,
} from '@stor/protocol';
import type { BufferPool, Clock } from '@stor/runtime';

import type { Bitmap } from '../core/replication/bitmap.ts';
import { CallAges } from '../core/replication/call-ages.ts';
import { MemberSpace } from '../core/replication/member-space.ts';
import type { ChunkSums } from '../core/replication/settle-choice.ts';
import { SpaceCredits } from '../core/replication/space-credits.ts';
import { maxAwakeStepMs, reconnectMaxMs, reconnectMinMs } from '../replication/limits.ts';
import { allocatedBitmap, ownedBitmap, regionBitmap } from '../peer/peer-snapshots.ts';
import type { RoomPromise } from '../core/store/space-ledger.ts';
import type { ReplicaSnapshot, SnapshotStore } from '../replica-snapshots.ts';
import type { GateSession, ReplicaGate } from '../replication/replica-gate.ts';
import {
  noGeneration,
  type Generation,
  type GenerationHistory,
  type ReplicaStore,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';
import { LocalImage, type LocalAccess } from './local-image.ts';
import type { Adopt, Member, MemberEvents, MemberImage, OpenAnswer } from './member.ts';

export interface LocalMemberOptions {
  replica: { id: string; nodeId: string; diskId: string };
  epoch: number;
  holder: string;
  store: () => ReplicaStore | null;
  gate: ReplicaGate;
  /** how long an older primary may still count on a lease of the replica (ms) */
  leaseRemainingMs: () => number;
  clock: Clock;
  events: MemberEvents;
  buffers: BufferPool;
}

/** The replica on a disk of this lane, used through its gate: another primary's fence ends it (I2). */
export class LocalMember implements Member {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly diskId: string;
  readonly isLocal = true;
  readonly instance = '';
  readonly credits = new SpaceCredits();
  readonly unackedBytes = 0;
  answer: OpenAnswer | null = null;
  ackedSequence = Infinity;
  generation: Generation = noGeneration;
  space: MemberSpace | null = null;
  session: GateSession | null = null;
  /** before any call but a client's read or write: what those were given before is done then */
  beforeCall: () => void = () => {};
  /** new chunks of writes that are under way */
  #allocating = 0;
  #room: RoomPromise | null = null;
  readonly #options: LocalMemberOptions;
  readonly #ages = new CallAges(maxAwakeStepMs);
  readonly #access: LocalAccess;
  readonly #live: LocalImage;
  /** what fails when the replica is given up while its disk has not answered */
  readonly #waiting = new Map<number, StoreDone>();
  #nextCall = 1;
  #stopped = false;
  #opening = false;
  #backoffMs = reconnectMinMs;
  #cancelTimer: (() => void) | null = null;
  #unwatch: (() => void) | null = null;
  #closedMs = -Infinity;

  constructor(options: LocalMemberOptions) {
    this.#options = options;
    this.replicaId = options.replica.id;
    this.nodeId = options.replica.nodeId;
    this.diskId = options.replica.diskId;
    this.#access = {
      use: (done) => this.#use(done),
      counted: (done) => this.#counted(done),
      buffers: options.buffers,
    };
    this.#live = new LocalImage(this.#access, null);
  }

  get isOpen(): boolean {
    return this.session?.alive === true;
  }
  get allocated(): Bitmap | null {
    return this.space?.allocated ?? null;
  }
  get sizeBytes(): number {
    return this.session?.store.sizeBytes ?? 0;
  }
  get snapshots(): readonly ReplicaSnapshot[] {
    return this.#snapshots?.snapshots() ?? [];
  }
  get headParent(): SnapshotId | null {
    return this.#snapshots?.headParent ?? null;
  }
  get #snapshots(): SnapshotStore | null {
    return this.session && snapshotsOf(this.session.store);
  }
  /**
   * While the replica is open a fence of it ends this primary in the same turn, so it needs no
   * lease. Once it is closed its disk may come to another process, and that can tell nobody here.
   */
  get leaseUntilMs(): number {
    return this.isOpen ? Infinity : this.#closedMs + replicaLeaseMs;
  }
  get markedCount(): number {
    return this.session?.store.markedCount ?? 0;
  }

  start(): void {
    if (this.#stopped || this.#opening || this.isOpen) return;
    const { gate, epoch, events } = this.#options;
    this.#unwatch ??= gate.watch(epoch, (reason) => {
      events.superseded(reason);
    });
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#opening = true;
    this.#open().then(
      (store) => {
        this.#opening = false;
        if (store && this.isOpen && !this.#stopped) this.#opened(store);
      },
      (error: unknown) => {
        this.#opening = false;
        const failure = StorError.from(error);
        if (hasCode(failure, 'STALE_EPOCH')) this.#options.events.superseded(failure);
        this.drop(failure);
      },
    );
  }

  stop(drained: boolean): void {
    this.#stopped = true;
    this.#unwatch?.();
    this.#cancelTimer?.();
    if (this.session) this.#options.gate.close(this.session, drained);
    this.#failWaiting(new StorError('ABORTED', 'the primary has stopped'));
  }

  /** A disk may break while nothing of this volume is under way there, or hang. */
  tick(nowMs: number): void {
    this.#ages.tick(nowMs);
    if (!this.isOpen) return;
    const failure = this.session?.store.failure;
    if (failure) this.drop(failure);
    else if (this.#options.store() !== this.session?.store) {
      this.drop(new StorError('UNAVAILABLE', `the disk of ${this.replicaId} is not open any more`));
    }
    const slowMs = this.#ages.oldestMs;
    if (!this.isOpen || !this.#options.events.isTooSlow(this, slowMs)) return;
    const seconds = Math.round(slowMs / 1_000);
    this.drop(new StorError('TIMEOUT', `the local disk has owed an answer for ${seconds} s`));
  }

  drop(error: StorError): void {
    if (this.#stopped) return;
    if (this.isOpen) this.#closedMs = this.#options.clock.monotonicMs();
    if (this.session) this.#options.gate.close(this.session);
    if (this.answer && hasCode(error, 'DISK_FAILED')) this.answer.failure = error;
    this.#cancelTimer?.();
    this.#cancelTimer = this.#options.clock.after(this.#backoffMs, () => {
      this.#cancelTimer = null;
      this.start();
    });
    this.#backoffMs = Math.min(this.#backoffMs * 2, reconnectMaxMs);
    this.#options.events.lost(this, error);
    this.#failWaiting(new StorError('UNAVAILABLE', error.message, { cause: error }));
  }

  /** A disk that hangs may never answer: whoever waits goes on elsewhere. */
  #failWaiting(error: StorError): void {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const done of waiting) done(error);
  }

  /** Chunks that a new write may take: what is free less what writes under way will take. */
  get availableChunks(): number {
    return (this.session?.store.freeChunks() ?? 0) - this.#allocating;
  }
  get isFull(): boolean {
    return this.availableChunks < 1;
  }

  /** What is available is known here at any time. */
  requestRoom(chunks: number, done: (granted: boolean) => void): void {
    done(this.availableChunks >= chunks);
  }

  askTurn(_ofClass: BackgroundClass, _bytes: number, done: () => void): void {
    done();
  }

  /** A write is given to it that may take so many new chunks: nobody else is promised them. */
  reserve(chunks: number): void {
    this.#allocating += chunks;
    this.#room?.raise(chunks);
  }

  /** Such a write is over. */
  release(chunks: number): void {
    if (chunks === 0) return;
    this.#allocating -= chunks;
    this.#room?.lower(this.#allocating);
  }

  read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
    adopt: Adopt | null = null,
  ): void {
    this.#live.read(offset, length, target, start, done, adopt);
  }
  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void {
    this.#live.readUnverified(offset, length, target, start, valid, done);
  }
  sums(
    offset: number,
    length: number,
    done: (error: StorError | null, sums: ChunkSums | null) => void,
  ): void {
    this.#live.sums(offset, length, done);
  }
  copy(
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array,
    sums: Uint32Array,
    done: StoreDone,
  ): void {
    this.#live.copy(sequence, offset, length, bytes, sums, done);
  }
  copyZero(sequence: number, offset: number, length: number, done: StoreDone): void {
    this.#live.copyZero(sequence, offset, length, done);
  }
  flush(done: StoreDone): void {
    this.#use(done)?.flush(this.#counted(done, true, false));
  }
  recordSetView(view: SetView, done: StoreDone): void {
    this.#use(done)?.recordSetView(view, this.#counted(done, true));
  }
  checkpoint(done: StoreDone): void {
    this.flush(done);
  }
  retire(generation: Generation, done: StoreDone): void {
    const store = this.#use(done);
    if (!store) return;
    store.retireMarks(generation, this.#counted(done, true));
    // where the next checkpoint's retire counts from
    store.cutMarks();
  }
  adopt(generation: Generation, history: GenerationHistory | null, done: StoreDone): void {
    this.#use(done)?.adoptGeneration(generation, history, this.#counted(done, true));
  }
  history(done: (error: StorError | null, history: GenerationHistory | null) => void): void {
    const store = this.#use((error) => {
      done(error, null);
    });
    if (store) done(null, store.history());
  }
  changedSince(
    generation: Generation,
    done: (error: StorError | null, regions: number[] | null) => void,
  ): void {
    const store = this.#use((error) => {
      done(error, null);
    });
    if (store) done(null, store.regionsChangedSince(generation));
  }

  view(snapshotId: SnapshotId): MemberImage {
    return new LocalImage(this.#access, snapshotId);
  }

  takeSnapshot(snapshotId: SnapshotId, kind: 'prepared' | 'incomplete', done: StoreDone): void {
    const store = this.#useSnapshots(done);
    if (!store) return;
    this.space?.frozen();
    store.takeSnapshot(snapshotId, this.#options.epoch, kind, this.#counted(done, true));
  }
  confirmSnapshot(snapshotId: SnapshotId, done: StoreDone, sizeBytes?: number): void {
    const store = this.#useSnapshots(done);
    store?.confirmSnapshot(snapshotId, this.#counted(done, true), sizeBytes);
  }
  dropSnapshot(snapshotId: SnapshotId, done: StoreDone): void {
    this.#useSnapshots(done)?.dropSnapshot(snapshotId, this.#counted(done, true));
  }

  rollback(snapshotId: SnapshotId, done: StoreDone): void {
    const store = this.#useSnapshots(done);
    if (!store) return;
    const counted = this.#counted((error) => {
      if (!error) this.space?.replaced(allocatedBitmap(store), ownedBitmap(store));
      done(error);
    }, true);
    store.rollback(snapshotId, counted);
  }

  resize(sizeBytes: number, done: StoreDone): void {
    const store = this.#useSnapshots(done);
    if (!store) return;
    const counted = this.#counted((error) => {
      if (!error) this.space?.grown(sizeBytes);
      done(error);
    }, true);
    store.resize(sizeBytes, counted);
  }

  changedChunks(
    from: SnapshotId | null,
    to: SnapshotId | null,
    done: (error: StorError | null, chunks: Bitmap | null) => void,
  ): void {
    const store = this.#useSnapshots((error) => {
      done(error, null);
    });
    if (store) done(null, store.changedChunks(from, to));
  }

  listSnapshots(done: StoreDone): void {
    if (this.#use(done)) done(null);
  }

  refreshSpace(): void {
    const store = this.session?.alive ? snapshotsOf(this.session.store) : null;
    if (store) this.space?.learned(this.space.version, ownedBitmap(store));
  }

  async #open(): Promise<ReplicaStore | null> {
    const { replica, epoch, holder, gate, events } = this.#options;
    const store = this.#options.store();
    if (!store) throw new StorError('NOT_FOUND', `replica ${replica.id} is not on this node`);
    const session = await gate.open(store, epoch, holder, (reason) => {
      if (hasCode(reason, 'STALE_EPOCH')) events.superseded(reason);
      else if (this.session && !this.session.alive) this.drop(reason);
    });
    if (this.#stopped) {
      gate.close(session);
      return null;
    }
    this.session = session;
    this.#room = store.promiseRoom(() => session.alive || session.inFlight > 0);
    this.#room.raise(this.#allocating);
    if (!session.alive) throw new StorError('STALE_EPOCH', 'a newer primary fenced the replica');
    return store;
  }

  #opened(store: ReplicaStore): void {
    this.#backoffMs = reconnectMinMs;
    this.#ages.reset();
    this.space = new MemberSpace(allocatedBitmap(store), ownedBitmap(store));
    this.generation = store.generation;
    this.answer = {
      keptMemory: store.keptMemory && store.failure === null,
      failure: store.failure,
      highestEpoch: store.highestEpoch,
      setView: store.setView,
      generation: store.generation,
      marks: regionBitmap(store, store.marks()),
      leasesOverMs: Math.min(
        this.answer?.leasesOverMs ?? Infinity,
        this.#options.clock.monotonicMs() + this.#options.leaseRemainingMs(),
      ),
      drainedEpoch: this.session?.drainedEpoch ?? null,
    };
    this.#options.events.opened(this, this.answer);
  }

  /** The store while this primary may use it; else answers the caller. */
  #use(done: StoreDone): ReplicaStore | null {
    this.beforeCall();
    if (this.session?.alive) return this.session.store;
    done(new StorError('UNAVAILABLE', 'the local replica is not open'));
    return null;
  }

  #useSnapshots(done: StoreDone): (ReplicaStore & SnapshotStore) | null {
    const store = this.#use(done);
    if (!store) return null;
    const snapshots = snapshotsOf(store);
    if (!snapshots) done(new StorError('FAILED_PRECONDITION', 'the store keeps no snapshots'));
    return snapshots;
  }

  /** Counts a store call, and gives the replica up when it turns out to have failed (I7). */
  #counted(done: StoreDone, isSync = false, changes = true): StoreDone {
    const { session } = this;
    if (!session) return done;
    const id = this.#nextCall++;
    this.#waiting.set(id, done);
    this.#ages.begin(id, isSync);
    return session.tracked((error) => {
      this.#ages.end(id);
      // given up meanwhile: who asked was told so
      if (!this.#waiting.delete(id)) return;
      done(error);
      if (error && session.store.failure && session.alive) this.drop(session.store.failure);
    }, changes);
  }

  /** Counts a store call of a client's write, whose payload is in use until it is over. */
  tracked(session: GateSession, done: StoreDone): StoreDone {
    const id = this.#nextCall++;
    this.#ages.begin(id, false);
    return session.tracked((error) => {
      this.#ages.end(id);
      done(error);
    });
  }
}
