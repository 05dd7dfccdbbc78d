import { StorError } from '@stor/protocol';
import type { WatchedChange, WatchKind, WatchPosition, WatchStart } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoreRoles } from '../volume/describe-cluster.ts';
import { WatchedState } from './watched-state.ts';
import type { WatchedName } from './watched-state.ts';

/**
 * How much of what has changed is kept for those who read slowly or come back: so many changes, and so
 * many characters of JSON (the objects themselves take some times that in memory). What all watchers
 * of a node share, so no watcher has a queue of its own.
 */
export const watchLimits = { changes: 20_000, chars: 32 * 1024 * 1024 };
export type WatchLimits = typeof watchLimits;

/** What became of one revision. */
export interface WatchEntry {
  /** counts entries here */
  seq: number;
  revision: number;
  changes: readonly WatchedChange[];
  chars: number;
  /** who led then */
  roles: string;
}

/**
 * The objects that can be watched, as of one revision after the other, and the last of the changes.
 * Watchers are cursors into it.
 */
export class WatchHistory {
  readonly #limits: WatchLimits;
  readonly #store: string;
  readonly #objects = new WatchedState();
  #entries: WatchEntry[] = [];
  #changes = 0;
  #chars = 0;
  #lastSeq = 0;
  #revision = 0;
  /** changes up to it are not kept */
  #floor = 0;
  #isReady = false;
  #roles: StoreRoles = { leaderId: null, learners: [] };

  /** `store` tells apart stores whose revisions do not continue each other's. */
  constructor(store: string, limits: WatchLimits = watchLimits) {
    this.#store = store;
    this.#limits = limits;
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  get revision(): number {
    return this.#revision;
  }

  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Begins with this state: what is returned is to be given to `fill`, some at a time. */
  begin(state: ClusterState, roles: StoreRoles): WatchedName[] {
    this.#isReady = false;
    this.#roles = roles;
    this.#objects.prepare(state);
    return this.#objects.all(state);
  }

  fill(state: ClusterState, names: readonly WatchedName[]): void {
    this.#objects.update(state, names, this.#roles);
  }

  /** All is filled in. What was kept of before is not. */
  ready(state: ClusterState): void {
    this.#isReady = true;
    this.#entries = [];
    this.#changes = 0;
    this.#chars = 0;
    // whoever is behind this is told that it is too late
    this.#lastSeq += 1;
    this.#floor = state.revision;
    this.#revision = state.revision;
  }

  /** The records of these keys have changed. */
  apply(state: ClusterState, keys: readonly string[]): void {
    this.#add(state, this.#objects.affected(state, keys));
  }

  /** The store's leader or learners are others, or nothing but time has passed. */
  look(state: ClusterState, roles: StoreRoles): void {
    const isSame = rolesText(roles) === rolesText(this.#roles);
    this.#roles = roles;
    this.#add(state, isSame ? [] : this.#objects.nodes());
  }

  /** Where a watcher of these kinds is that has all entries up to this one, or all. */
  position(kinds: ReadonlySet<WatchKind>, entry?: WatchEntry): WatchPosition {
    const revision = entry?.revision ?? this.#revision;
    return { history: this.#historyOf(kinds, entry?.roles), revision };
  }

  objects(kind: WatchKind): ReadonlyMap<string, WatchedChange['object']> {
    return this.#objects.objects(kind);
  }

  /**
   * The `seq` after which a watcher goes on that comes with a position. Null: it gets all objects.
   * COMPACTED: what it lacks is not kept. UNAVAILABLE: it knows more than this node does yet.
   */
  resume({ after, listAgain }: WatchStart, kinds: ReadonlySet<WatchKind>): number | null {
    if (!after || after.history === '') return null;
    const isOurs = storeOf(after.history) === this.#store;
    if (isOurs && after.revision > this.#revision) {
      throw new StorError(
        'UNAVAILABLE',
        `this node is at revision ${this.#revision} and has not heard of ${after.revision} yet: try again`,
      );
    }
    if (listAgain) return null;
    if (after.history !== this.#historyOf(kinds) || after.revision < this.#floor) {
      throw new StorError(
        'COMPACTED',
        `changes after revision ${after.revision} are not kept on this node (it has those after ${this.#floor}): list again and watch from there`,
        { details: { keptAfter: String(this.#floor) } },
      );
    }
    const next = this.#entries.find(({ revision }) => revision > after.revision);
    return next ? next.seq - 1 : this.#lastSeq;
  }

  /** The entry after `seq`; null: there is none yet. TOO_SLOW when it is not kept any more. */
  after(seq: number): WatchEntry | null {
    const first = this.#entries[0]?.seq ?? this.#lastSeq + 1;
    if (seq < first - 1) {
      throw new StorError(
        'TOO_SLOW',
        `the changes were not read in time: ${this.#limits.changes} changes or ${this.#limits.chars} characters are kept; list again and watch from there`,
      );
    }
    return this.#entries[seq + 1 - first] ?? null;
  }

  #add(state: ClusterState, names: readonly WatchedName[]): void {
    const { changes, chars } = this.#objects.update(state, names, this.#roles);
    const { revision } = state;
    this.#revision = revision;
    if (!this.#isReady || changes.length === 0) return;
    const roles = rolesText(this.#roles);
    this.#entries.push({ seq: ++this.#lastSeq, revision, changes, chars, roles });
    this.#changes += changes.length;
    this.#chars += chars;
    let dropped = 0;
    for (const entry of this.#entries) {
      const isWithin = this.#changes <= this.#limits.changes && this.#chars <= this.#limits.chars;
      // the last one stays, however large: it is being sent
      if (isWithin || dropped === this.#entries.length - 1) break;
      this.#changes -= entry.changes.length;
      this.#chars -= entry.chars;
      this.#floor = entry.revision;
      dropped += 1;
    }
    if (dropped > 0) this.#entries.splice(0, dropped);
  }

  /** Who leads is in no record: a watcher of nodes that knows another leader must see them anew. */
  #historyOf(kinds: ReadonlySet<WatchKind>, roles = rolesText(this.#roles)): string {
    return kinds.has('node') ? `${this.#store} ${roles}` : this.#store;
  }
}

function storeOf(history: string): string {
  return history.split(' ', 1)[0] ?? '';
}

function rolesText({ leaderId, learners = [] }: StoreRoles): string {
  return [leaderId ?? '-', ...[...learners].sort()].join(',');
}
