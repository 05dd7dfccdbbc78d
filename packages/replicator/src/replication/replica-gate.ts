import { StorError } from '@stor/protocol';

import { LeasePromises } from '../core/replication/lease-promises.ts';
import type { ReplicaStore, StoreDone } from '../replica-store.ts';

/**
 * The right of one primary, at one epoch, to use one replica. A session is alive from its fence
 * until another one opens, or it is closed; a dead one issues nothing any more (I2).
 */
export class GateSession {
  readonly epoch: number;
  readonly holder: string;
  readonly store: ReplicaStore;
  alive = true;
  /** epoch of the session before, when its primary ended in order; null when it did not */
  readonly drainedEpoch: number | null;
  /** store calls issued and not answered */
  inFlight = 0;
  /** of these, those that may change what the replica holds or has marked */
  #changing = 0;
  /** Called in the turn in which the session dies by another's hand. */
  readonly onDisplaced: (reason: StorError) => void;
  #waiting: { isOver: () => boolean; resolve: () => void }[] = [];

  constructor(
    store: ReplicaStore,
    epoch: number,
    holder: string,
    drainedEpoch: number | null,
    onDisplaced: (reason: StorError) => void,
  ) {
    this.drainedEpoch = drainedEpoch;
    this.store = store;
    this.epoch = epoch;
    this.holder = holder;
    this.onDisplaced = onDisplaced;
  }

  /**
   * Counts a store call in; the returned callback counts it out. Call only while alive. A flush
   * changes nothing, so a fence need not wait for it.
   */
  tracked(done: StoreDone, changes = true): StoreDone {
    this.inFlight += 1;
    if (changes) this.#changing += 1;
    return (error) => {
      this.inFlight -= 1;
      if (changes) this.#changing -= 1;
      try {
        done(error);
      } finally {
        if (this.inFlight === 0 || this.#changing === 0) this.#look();
      }
    };
  }

  /** Resolves when no store call of this session is under way. */
  drained(): Promise<void> {
    return this.#until(() => this.inFlight === 0);
  }

  /** Resolves when nothing of this session can change the replica any more. */
  changesOver(): Promise<void> {
    return this.#until(() => this.#changing === 0);
  }

  #until(isOver: () => boolean): Promise<void> {
    if (isOver()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push({ isOver, resolve });
    });
  }

  #look(): void {
    const over = this.#waiting.filter(({ isOver }) => isOver());
    if (over.length === 0) return;
    this.#waiting = this.#waiting.filter((each) => !over.includes(each));
    for (const { resolve } of over) resolve();
  }
}

/**
 * One gate per replica of this lane. Opening fences: what was accepted under older sessions is
 * finished before the answer, and nothing of them starts afterwards (I2).
 */
export class ReplicaGate {
  /** what was said to primaries elsewhere; one in this process ends in the turn of the fence */
  readonly promises = new LeasePromises();
  #session: GateSession | null = null;
  #highestAsked = 0;
  /** the last session's primary ended in order at this epoch, and nobody has opened since */
  #drainedEpoch: number | null = null;
  readonly #watchers = new Set<{ epoch: number; onNewer: (reason: StorError) => void }>();
  #queue: Promise<void> = Promise.resolve();

  /** STALE_EPOCH (details.highestEpoch), DISK_FAILED. */
  async open(
    store: ReplicaStore,
    epoch: number,
    holder: string,
    onDisplaced: (reason: StorError) => void,
  ): Promise<GateSession> {
    this.#refuseStale(store, epoch, holder);
    this.#highestAsked = epoch;
    // the older session dies now, in this turn, not when its drain is over
    this.#displace(epoch);
    for (const watcher of [...this.#watchers]) {
      if (watcher.epoch < epoch) watcher.onNewer(staleEpoch(watcher.epoch, epoch));
    }
    const turn = this.#queue.then(() => this.#openInTurn(store, epoch, holder, onDisplaced));
    this.#queue = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  async #openInTurn(
    store: ReplicaStore,
    epoch: number,
    holder: string,
    onDisplaced: (reason: StorError) => void,
  ): Promise<GateSession> {
    this.#refuseStale(store, epoch, holder);
    const older = this.#session;
    this.#displace(epoch);
    if (older) await older.changesOver();
    this.#refuseStale(store, epoch, holder);
    await fenced(store, epoch);
    this.#refuseStale(store, epoch, holder);
    const session = new GateSession(store, epoch, holder, this.#drainedEpoch, onDisplaced);
    this.#drainedEpoch = null;
    this.#session = session;
    return session;
  }

  /**
   * Calls back in the turn in which a higher epoch asks for the replica, whether a session of this
   * epoch is open or not: a primary of this process ends then, whatever else it has (I6).
   */
  watch(epoch: number, onNewer: (reason: StorError) => void): () => void {
    const watcher = { epoch, onNewer };
    this.#watchers.add(watcher);
    return () => {
      this.#watchers.delete(watcher);
    };
  }

  /**
   * Ends a session from its own side. `drained`: every member has applied the same writes. That is
   * remembered in memory only: what is true of page caches is true as long as this process lives.
   */
  close(session: GateSession, drained = false): void {
    if (drained && session.alive && session === this.#session) {
      this.#drainedEpoch = session.epoch;
    }
    session.alive = false;
  }

  #displace(epoch: number): void {
    const older = this.#session;
    if (!older?.alive) return;
    older.alive = false;
    older.onDisplaced(
      older.epoch < epoch
        ? staleEpoch(older.epoch, epoch)
        : new StorError('ABORTED', 'the primary opened the replica again'),
    );
  }

  #refuseStale(store: ReplicaStore, epoch: number, holder: string): void {
    const highest = Math.max(store.highestEpoch, this.#highestAsked);
    if (epoch < highest) throw staleEpoch(epoch, highest);
    const current = this.#session;
    if (current && current.epoch === epoch && current.holder !== holder) {
      throw new StorError(
        'STALE_EPOCH',
        `epoch ${epoch} is held by ${current.holder}; an epoch is never granted twice`,
        { details: { highestEpoch: String(epoch) } },
      );
    }
  }
}

function staleEpoch(epoch: number, highest: number): StorError {
  return new StorError(
    'STALE_EPOCH',
    `epoch ${epoch} is over: the replica has seen epoch ${highest}`,
    { details: { highestEpoch: String(highest) } },
  );
}

/** A failed replica is still fenced in memory by its gate; it serves nothing anyway. */
function fenced(store: ReplicaStore, epoch: number): Promise<void> {
  return new Promise((resolve, reject) => {
    store.fence(epoch, (error) => {
      if (error && error.code !== 'DISK_FAILED' && error.code !== 'NO_SPACE') reject(error);
      else resolve();
    });
  });
}
