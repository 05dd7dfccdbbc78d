import { invariant } from '../errors.ts';
import { entryOverheadBytes, maxAppendEntries } from './limits.ts';
import { decodeMembership, type Membership } from './membership.ts';
import type { Entry, LogPosition, Snapshot } from './types.ts';

export function entryBytes(entry: Entry): number {
  return entry.data.length + entryOverheadBytes;
}

function sumOf(entries: Entry[]): number {
  return entries.reduce((sum, entry) => sum + entryBytes(entry), 0);
}

export interface LoadedLog {
  snapshot: Snapshot;
  /** the log begins after this position */
  start: LogPosition;
  entries: Entry[];
  commit: number;
  /** see StoredState */
  recoverTo?: LogPosition;
}

/**
 * The log, wholly in memory: log snapshots keep it short, and a leader reads it all the time.
 *
 * Invariants: start <= applied <= committed <= last; applied <= saved <= last; start <= snapshot.
 * `saved` is the last index that the store holds: only saved entries are applied, so the state
 * machine never knows more than would survive a restart.
 */
export class RaftLog {
  #entries: Entry[];
  /** of all entries, with what each costs besides its data */
  #bytes: number;
  #start: LogPosition;
  #snapshot: Snapshot;
  #unsavedSnapshot = false;
  #unappliedSnapshot: boolean;
  #committed: number;
  #saved: number;
  #applied: number;
  /** the memberships in the log, oldest first; the first is that of the snapshot */
  #memberships: { index: number; membership: Membership }[];

  constructor(loaded: LoadedLog) {
    this.#entries = loaded.entries.slice();
    this.#bytes = sumOf(this.#entries);
    this.#start = loaded.start;
    this.#snapshot = loaded.snapshot;
    this.#saved = this.lastIndex;
    this.#committed = Math.max(loaded.commit, loaded.snapshot.index);
    this.#applied = loaded.snapshot.index;
    this.#unappliedSnapshot = loaded.snapshot.index > 0;
    this.#memberships = [{ index: loaded.snapshot.index, membership: loaded.snapshot.membership }];
    this.#noteMemberships(loaded.entries);
    invariant(this.#start.index <= this.#snapshot.index, 'the log begins after its snapshot');
    invariant(this.#committed <= this.lastIndex, 'the commit index is beyond the log');
  }

  get firstIndex(): number {
    return this.#start.index + 1;
  }
  get lastIndex(): number {
    return this.#start.index + this.#entries.length;
  }
  get lastTerm(): number {
    return this.#entries.at(-1)?.term ?? this.#start.term;
  }
  /** What the log takes in memory. */
  get bytes(): number {
    return this.#bytes;
  }
  get committed(): number {
    return this.#committed;
  }
  get saved(): number {
    return this.#saved;
  }
  get applied(): number {
    return this.#applied;
  }
  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** The newest in the log, committed or not: the one in force. */
  get membership(): Membership {
    return this.#newestMembership.membership;
  }
  /** The index of the entry or snapshot that it came with. */
  get membershipIndex(): number {
    return this.#newestMembership.index;
  }
  get #newestMembership(): { index: number; membership: Membership } {
    const newest = this.#memberships.at(-1);
    invariant(newest !== undefined, 'no membership is known');
    return newest;
  }

  /** The one that the log up to `index`, not before the snapshot, tells of. */
  membershipAt(index: number): Membership {
    const known = this.#memberships.findLast((each) => each.index <= index);
    invariant(known !== undefined, `the membership at index ${index} is not known`);
    return known.membership;
  }

  #noteMemberships(entries: Entry[]): void {
    for (const { index, type, data } of entries) {
      if (type !== 'config' || index <= this.#snapshot.index) continue;
      this.#memberships.push({ index, membership: decodeMembership(data) });
    }
  }

  /** Undefined for what is compacted away or not there yet. */
  termAt(index: number): number | undefined {
    if (index === this.#start.index) return this.#start.term;
    return this.#entries[index - this.firstIndex]?.term;
  }

  matches(index: number, term: number): boolean {
    return this.termAt(index) === term;
  }

  /** Section 5.4.1 of the paper: may one with this last entry lead us? */
  isUpToDate(lastIndex: number, lastTerm: number): boolean {
    return lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.lastIndex);
  }

  /** Entries from `index` on, at least one if there is one, then as many as fit `maxBytes`. */
  entriesFrom(index: number, maxBytes: number, lastIndex = this.lastIndex): Entry[] {
    const begin = index - this.firstIndex;
    invariant(begin >= 0, `entry ${index} is compacted away`);
    const stop = Math.min(lastIndex - this.firstIndex + 1, begin + maxAppendEntries);
    let end = begin;
    let bytes = 0;
    for (; end < stop; end++) {
      const entry = this.#entries[end];
      if (!entry) break;
      bytes += entryBytes(entry);
      if (bytes > maxBytes && end > begin) break;
    }
    return this.#entries.slice(begin, end);
  }

  bytesBetween(afterIndex: number, throughIndex: number): number {
    let bytes = 0;
    const begin = Math.max(0, afterIndex + 1 - this.firstIndex);
    for (let i = begin; i < this.#entries.length && i + this.firstIndex <= throughIndex; i++) {
      const entry = this.#entries[i];
      if (entry) bytes += entryBytes(entry);
    }
    return bytes;
  }

  /** A leader adds to its own log. */
  append(entries: Entry[]): void {
    for (const entry of entries) {
      invariant(entry.index === this.lastIndex + 1, `entry ${entry.index} leaves a gap`);
      invariant(entry.term >= this.lastTerm, `entry ${entry.index} has a lower term`);
      this.#entries.push(entry);
      this.#bytes += entryBytes(entry);
    }
    this.#noteMemberships(entries);
  }

  /**
   * A follower takes a leader's entries, which follow on (previousIndex, previousTerm). Returns the
   * last index that is now known to equal the leader's, or null when the logs do not meet there.
   * Only a real conflict cuts the log: an old, shorter append must not undo a longer one.
   */
  appendAfter(previousIndex: number, previousTerm: number, entries: Entry[]): number | null {
    if (!this.matches(previousIndex, previousTerm)) return null;
    const conflict = entries.findIndex((entry) => !this.matches(entry.index, entry.term));
    if (conflict >= 0) {
      const rest = entries.slice(conflict);
      this.#cutFrom(previousIndex + 1 + conflict);
      this.append(rest);
    }
    return previousIndex + entries.length;
  }

  #cutFrom(index: number): void {
    invariant(index > this.#committed, `entry ${index} is committed and conflicts with a leader's`);
    if (index > this.lastIndex) return;
    this.#bytes -= sumOf(this.#entries.splice(index - this.firstIndex));
    this.#saved = Math.min(this.#saved, index - 1);
    this.#memberships = this.#memberships.filter((each) => each.index < index);
  }

  /**
   * The highest index up to `index` whose term is not above `term`: the logs cannot agree at any
   * index above it, so a whole term is skipped in one step of probing.
   */
  findConflictByTerm(index: number, term: number): LogPosition {
    for (let i = Math.min(index, this.lastIndex); i > 0; i--) {
      const own = this.termAt(i);
      if (own === undefined) return { index: i, term: 0 };
      if (own <= term) return { index: i, term: own };
    }
    return { index: 0, term: 0 };
  }

  commitTo(index: number): void {
    if (index <= this.#committed) return;
    invariant(
      index <= this.lastIndex,
      `the leader knows entry ${index} to be here, but the log ends at ${this.lastIndex}: ` +
        'entries that were acknowledged are lost',
    );
    this.#committed = index;
  }

  /** Counting commits only entries of the leader's own term (section 5.4.2, figure 8). */
  commitOwnTerm(index: number, term: number): boolean {
    if (index <= this.#committed || !this.matches(index, term)) return false;
    this.commitTo(index);
    return true;
  }

  /** A leader's snapshot replaces the whole log. */
  restore(snapshot: Snapshot): void {
    invariant(snapshot.index > this.#committed, 'a snapshot would undo committed entries');
    this.#entries = [];
    this.#bytes = 0;
    this.#start = { index: snapshot.index, term: snapshot.term };
    this.#snapshot = snapshot;
    this.#memberships = [{ index: snapshot.index, membership: snapshot.membership }];
    this.#unsavedSnapshot = true;
    this.#unappliedSnapshot = true;
    this.#committed = snapshot.index;
    this.#saved = snapshot.index;
  }

  unsavedEntries(): Entry[] {
    return this.#entries.slice(this.#saved + 1 - this.firstIndex);
  }

  unsavedSnapshot(): Snapshot | null {
    return this.#unsavedSnapshot ? this.#snapshot : null;
  }

  /** The store holds this snapshot now, unless a newer one came meanwhile. */
  snapshotSaved(index: number): void {
    if (this.#snapshot.index === index) this.#unsavedSnapshot = false;
  }

  /**
   * The store holds the log up to (index, term). If a leader replaced that entry while it was being
   * written, nothing is known: what replaced it is written next.
   */
  entriesSaved(last: LogPosition): void {
    if (last.index > this.#saved && this.matches(last.index, last.term)) this.#saved = last.index;
  }

  /** A snapshot that the state machine must take before any entry. */
  unappliedSnapshot(): Snapshot | null {
    return this.#unappliedSnapshot && !this.#unsavedSnapshot ? this.#snapshot : null;
  }

  /** The state machine has it; false when a leader's newer one has come meanwhile. */
  snapshotApplied(snapshot: Snapshot): boolean {
    if (!this.#unappliedSnapshot || this.#snapshot !== snapshot) return false;
    this.#unappliedSnapshot = false;
    this.#applied = snapshot.index;
    return true;
  }

  /** The state machine is behind the snapshot: it has to take that first. */
  get mustRestore(): boolean {
    return this.#unappliedSnapshot;
  }

  /** Committed and saved entries that the state machine has not seen; counted as applied. */
  takeCommitted(maxBytes: number): Entry[] {
    if (this.#unappliedSnapshot) return [];
    const last = Math.min(this.#committed, this.#saved);
    if (last <= this.#applied) return [];
    const entries = this.entriesFrom(this.#applied + 1, maxBytes, last);
    this.#applied += entries.length;
    return entries;
  }

  /** The state machine's own snapshot, at its applied index, is saved; the log begins at `start`. */
  compact(snapshot: Snapshot, start: LogPosition): void {
    invariant(snapshot.index <= this.#applied, 'a snapshot of what is not applied');
    if (snapshot.index < this.#snapshot.index) return;
    this.#snapshot = snapshot;
    this.#memberships = [
      { index: snapshot.index, membership: snapshot.membership },
      ...this.#memberships.filter(({ index }) => index > snapshot.index),
    ];
    if (start.index <= this.#start.index) return;
    invariant(start.index <= snapshot.index, 'the log would begin after its snapshot');
    invariant(this.matches(start.index, start.term), 'the log would begin at another entry');
    const count = start.index - this.#start.index;
    this.#bytes -= sumOf(this.#entries.slice(0, count));
    this.#entries = this.#entries.slice(count);
    this.#start = start;
  }
}
