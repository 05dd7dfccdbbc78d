import { reaches, verifyStoredState, type StoredState } from './core/storage.ts';
import type { Entry, HardState, LogPosition, Snapshot } from './core/types.ts';
import { convertSnapshot, readSnapshots } from './level-snapshot-recovery.ts';
import { arrivingOf, type StoredContents } from './level-snapshots.ts';
import { RaftError } from './errors.ts';
import type { KeyValueLog, KeyValueOperation, KeyValueRange } from './key-value-log.ts';
import {
  decodeEntry,
  decodeHardState,
  decodeSequence,
  decodeStart,
  entryIndex,
  entryPrefix,
  keys,
  type Mark,
} from './level-records.ts';

/**
 * What a store holds, judged by the mark of what was acknowledged, which lies apart from it. Two
 * things look alike in a log that ends too early, and must be told apart (Alagappan et al.,
 * Protocol-Aware Recovery for Consensus-Based Storage, FAST '18): a write that a crash cut off, of
 * which nobody was told, and entries that somebody counts on. The first is cut; with the second the
 * member comes up recovering, and gives no vote until a leader has brought them back.
 */
export interface Found {
  state: StoredState;
  sequence: number;
  /** keys of entries that are to go: damaged, or behind a damage */
  cut: Uint8Array[];
  /** the store does not say what `state` says, and must be written */
  needsRepair: boolean;
  /** what is damaged or missing, for people; null: nothing */
  reason: string | null;
  contents: StoredContents;
  /** brings an older store to the present form; to be written with its name */
  conversion: KeyValueOperation[];
}

interface ReadEntries {
  entries: Entry[];
  /** all keys of entries there are */
  keys: Uint8Array[];
  reason: string | null;
}

/**
 * Null when nothing was ever saved. Without a mark, as in stores of format 1, damage is CORRUPT. `isOld`:
 * a log snapshot is one record, as in formats 1 and 2.
 */
export async function readStore(
  db: KeyValueLog,
  mark: Mark | null,
  isOld = false,
): Promise<Found | null> {
  const wanted = [keys.hardState, keys.snapshot, keys.start, keys.sequence];
  const [hardStateBytes, snapshotBytes, startBytes, sequenceBytes] = await db.getMany(wanted);
  if (!snapshotBytes || !startBytes) {
    if (!hardStateBytes && !snapshotBytes && !startBytes && !sequenceBytes && !mark?.sequence) {
      if (!(await hasAny(db, entryRange))) return null;
    }
    throw damaged('its hard state, snapshot or beginning is missing');
  }
  // without these two there is no log to recover: the member has to be replaced
  const { snapshot, contents, conversion } = isOld
    ? convertSnapshot(snapshotBytes)
    : await readSnapshots(db, snapshotBytes);
  const start = decodeStart(startBytes);
  const sequence = attempt(() => (sequenceBytes ? decodeSequence(sequenceBytes) : 0));
  const hardState = attempt(() => {
    if (!hardStateBytes) throw damaged('its hard state, snapshot or beginning is missing');
    return decodeHardState(hardStateBytes);
  });
  const read = await readEntries(db, start, snapshot);
  if (!mark) {
    if (hardState.error) throw hardState.error;
    if (read.reason !== null) throw new RaftError('CORRUPT', read.reason);
    const state = { hardState: hardState.value, snapshot, start, entries: read.entries };
    verifyStoredState(state);
    const found = { state, sequence: sequence.value ?? 0, cut: [], reason: null };
    return { ...found, needsRepair: true, contents, conversion };
  }
  const parts = { snapshot, start, read, hardState, sequence: sequence.value ?? 0 };
  const found = judge(mark, parts);
  const arriving = arrivingOf(contents.arriving);
  return {
    ...found,
    state: { ...found.state, ...(arriving ? { arriving } : {}) },
    contents,
    conversion,
  };
}

interface Parts {
  snapshot: Snapshot;
  start: LogPosition;
  read: ReadEntries;
  hardState: Attempt<HardState>;
  sequence: number;
}

function judge(mark: Mark, parts: Parts): Omit<Found, 'contents' | 'conversion'> {
  const { snapshot, read, hardState, sequence } = parts;
  let { start } = parts;
  let { entries } = read;
  if ((entries.at(-1)?.index ?? start.index) < snapshot.index) {
    // what is damaged is in the snapshot, too: the log goes on behind that
    entries = [];
    start = { index: snapshot.index, term: snapshot.term };
  }
  const last = entries.at(-1) ?? start;
  const cut = read.keys.filter((key) => !isKept(key, start, last));
  const reason = lossOf(mark, last, parts);
  const known = hardState.value;
  // the mark tells the vote that was given even when the log has forgotten it
  const isStale = !known || sequence < mark.sequence || known.term < mark.term;
  const { term, vote } = isStale ? mark : known;
  const commit = Math.min(Math.max(known?.commit ?? 0, snapshot.index), last.index);
  const recoverTo = reason === null ? mark.recoverTo : furthest(mark.last, mark.recoverTo);
  const state: StoredState = {
    hardState: { term, vote, commit: known && known.commit <= last.index ? known.commit : commit },
    snapshot,
    start,
    entries,
    ...(recoverTo ? { recoverTo } : {}),
  };
  verifyStoredState(state);
  return {
    state,
    sequence: Math.max(sequence, mark.sequence),
    cut,
    needsRepair: reason !== null || read.reason !== null || isStale || cut.length > 0,
    reason: reason ?? read.reason,
  };
}

/** Why something that was acknowledged is missing; null when nothing is. */
function lossOf(
  mark: Mark,
  last: LogPosition,
  { read, hardState, sequence }: Parts,
): string | null {
  if (sequence < mark.sequence) {
    return `it is as of save ${sequence}, but save ${mark.sequence} was acknowledged`;
  }
  const isEnd = last.index === mark.last.index && last.term === mark.last.term;
  // a save that is newer than the mark was never acknowledged, but may have replaced the end
  const isShort = sequence === mark.sequence ? !isEnd : last.index < mark.last.index;
  if (isShort && (read.reason !== null || sequence === mark.sequence)) {
    return read.reason ?? `it ends at entry ${last.index}, but entry ${mark.last.index} was there`;
  }
  const commit = hardState.value?.commit ?? 0;
  if (commit > last.index) {
    return `it ends at entry ${last.index}, but entry ${commit} was committed`;
  }
  return null;
}

function isKept(key: Uint8Array, start: LogPosition, last: LogPosition): boolean {
  const { value: index } = attempt(() => entryIndex(key));
  return index !== undefined && index > start.index && index <= last.index;
}

function furthest(a: LogPosition, b: LogPosition | null): LogPosition {
  return b && reaches(b, a) ? b : a;
}

/** Up to the first that is damaged or missing. */
async function readEntries(
  db: KeyValueLog,
  start: LogPosition,
  snapshot: Snapshot,
): Promise<ReadEntries> {
  const entries: Entry[] = [];
  const found: ReadEntries = { entries, keys: [], reason: null };
  let previous = start;
  for await (const [key, value] of db.range(entryRange)) {
    found.keys.push(key);
    if (found.reason !== null) continue;
    const { value: next, error } = attempt(() => decodeNext(key, value, previous));
    if (next?.isLinked) {
      entries.push(next.entry);
      previous = next.entry;
    } else if (next) {
      // An old end was found in the place of the one that replaced it. How much of it is old cannot
      // be seen: only what is in the snapshot is certain.
      found.reason = `the stored Raft log is damaged: ${next.why}`;
      while ((entries.at(-1)?.index ?? 0) > snapshot.index) entries.pop();
    } else {
      found.reason = error?.message ?? 'an entry is damaged';
    }
  }
  return found;
}

const entryRange = { gt: Uint8Array.of(entryPrefix), lt: Uint8Array.of(entryPrefix + 1) };

function decodeNext(
  key: Uint8Array,
  value: Uint8Array,
  previous: LogPosition,
): { entry: Entry; isLinked: boolean; why: string } {
  const { entry, previousTerm } = decodeEntry(key, value);
  if (entry.index !== previous.index + 1) {
    throw damaged(`entry ${previous.index + 1} is missing, entry ${entry.index} follows`);
  }
  const isLinked = previousTerm === previous.term;
  const why =
    `the one before entry ${entry.index} should be of term ${previousTerm} and is of term ` +
    `${previous.term}`;
  return { entry, isLinked, why };
}

export async function hasAny(db: KeyValueLog, range: KeyValueRange): Promise<boolean> {
  for await (const [key] of db.range({ ...range, limit: 1 })) return key.length > 0;
  return false;
}

function damaged(reason: string): RaftError {
  return new RaftError('CORRUPT', `the stored Raft log is damaged: ${reason}`);
}

type Attempt<T> = { value: T; error: null } | { value: undefined; error: RaftError };

/** What is damaged is an answer here; any other error is one. */
function attempt<T>(read: () => T): Attempt<T> {
  try {
    return { value: read(), error: null };
  } catch (error) {
    if (error instanceof RaftError && error.code === 'CORRUPT') return { value: undefined, error };
    throw error;
  }
}
