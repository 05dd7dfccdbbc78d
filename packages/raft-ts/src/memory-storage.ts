import { applyToExtent } from './core/log-extent.ts';
import { crc32 } from './core/crc32.ts';
import { membershipOf } from './core/membership.ts';
import {
  verifyStoredState,
  type RaftStorage,
  type SaveBatch,
  type StoredState,
} from './core/storage.ts';
import type { ArrivingSnapshot, LogPosition, Snapshot, SnapshotPiece } from './core/types.ts';
import { invariant } from './errors.ts';

/** A log snapshot that is not whole yet, with what there is of its content. */
interface Draft extends LogPosition {
  totalBytes: number | null;
  content: Uint8Array;
}

/** What a store holds, content of log snapshots included. Never changed, only replaced. */
export interface MemoryState extends StoredState {
  /** of the newest snapshot; absent: it has none */
  content?: Uint8Array;
  drafts?: { made?: Draft; arriving?: Draft };
  /** older ones that are being read */
  kept?: readonly { position: LogPosition; content: Uint8Array }[];
}

/** A store that forgets all when the process ends: for tests, and for trying things out. */
export class MemoryRaftStorage implements RaftStorage {
  #state: MemoryState | null;

  constructor(state: MemoryState | null = null) {
    this.#state = state;
  }

  load(): Promise<StoredState | null> {
    if (!this.#state) return Promise.resolve(null);
    verifyStoredState(this.#state);
    return Promise.resolve(storedOf(this.#state));
  }

  async save(batch: SaveBatch): Promise<void> {
    this.#state = applyBatch(this.#state, batch);
  }

  async readSnapshot(
    position: LogPosition,
    offset: number,
    length: number,
  ): Promise<{ data: Uint8Array; checksum: number } | null> {
    return this.#state && readContent(this.#state, position, offset, length);
  }
}

/** What `load` says of it. */
export function storedOf(state: MemoryState): StoredState {
  const { hardState, snapshot, start, entries, recoverTo } = state;
  const arriving = arrivingOf(state);
  return {
    hardState,
    snapshot,
    start,
    entries: entries.slice(),
    ...(recoverTo ? { recoverTo } : {}),
    ...(arriving ? { arriving } : {}),
  };
}

/** What a restart leaves of it: nobody reads older snapshots, nobody goes on with an own one. */
export function reopened(state: MemoryState): MemoryState {
  const arriving = state.drafts?.arriving;
  return { ...state, drafts: arriving ? { arriving } : {}, kept: [] };
}

function arrivingOf({ drafts }: MemoryState): ArrivingSnapshot | null {
  if (!drafts?.arriving) return null;
  const { index, term, totalBytes, content } = drafts.arriving;
  const checksum = crc32(content);
  return { index, term, totalBytes: totalBytes ?? 0, bytes: content.length, checksum };
}

/** As `RaftStorage.readSnapshot`. */
export function readContent(
  state: MemoryState,
  position: LogPosition,
  offset: number,
  length: number,
): { data: Uint8Array; checksum: number } | null {
  const isNewest = isSame(state.snapshot, position);
  const kept = state.kept?.find((each) => isSame(each.position, position))?.content;
  const content = isNewest ? (state.content ?? new Uint8Array()) : kept;
  if (!content) return null;
  const data = content.slice(offset, offset + length);
  invariant(data.length === length, 'the snapshot has no such bytes');
  return { data, checksum: crc32(content.subarray(0, offset + length)) };
}

/** The state after a batch; the model of what every store does. */
export function applyBatch(state: MemoryState | null, batch: SaveBatch): MemoryState {
  const before: MemoryState = state ?? {
    hardState: { term: 0, vote: null, commit: 0 },
    snapshot: { index: 0, term: 0, membership: membershipOf([]), sizeBytes: 0, checksum: 0 },
    start: { index: 0, term: 0 },
    entries: [],
  };
  const last = before.start.index + before.entries.length;
  const change = applyToExtent(before.start, last, batch);
  const kept = before.entries.filter(
    ({ index }) => !change.deletions.some((d) => d.first <= index && index <= d.last),
  );
  const first = batch.entries[0];
  const head = first ? kept.filter((entry) => entry.index < first.index) : kept;
  return {
    ...adopt(withPieces(before, batch.pieces ?? []), batch),
    hardState: batch.hardState ?? before.hardState,
    snapshot: batch.snapshot ?? before.snapshot,
    start: change.start,
    entries: [...head, ...batch.entries],
    ...(before.recoverTo && !batch.recovered ? { recoverTo: before.recoverTo } : {}),
  };
}

type Contents = Pick<MemoryState, 'content' | 'drafts' | 'kept'>;

function withPieces(state: MemoryState, pieces: readonly SnapshotPiece[]): MemoryState {
  let drafts = state.drafts ?? {};
  for (const { source, index, term, totalBytes, offset, data, checksum } of pieces) {
    const before = offset === 0 ? new Uint8Array() : drafts[source]?.content;
    const isNext = offset === 0 || isSame(drafts[source], { index, term });
    invariant(isNext && before?.length === offset, 'a piece of a snapshot leaves a gap');
    const content = new Uint8Array(offset + data.length);
    content.set(before);
    content.set(data, offset);
    invariant(crc32(content) === checksum, 'a piece of a snapshot has a wrong checksum');
    drafts = { ...drafts, [source]: { index, term, totalBytes, content } };
  }
  return { ...state, drafts };
}

/** The draft that the snapshot of a batch names becomes the newest; older ones go. */
function adopt(state: MemoryState, { snapshot, keep = [] }: SaveBatch): Contents {
  const { content, drafts = {}, kept = [] } = state;
  if (!snapshot) return { ...(content ? { content } : {}), drafts, kept };
  const source = (['made', 'arriving'] as const).find((each) => isWhole(drafts[each], snapshot));
  invariant(source !== undefined || snapshot.sizeBytes === 0, 'the snapshot is not whole');
  const older = [...kept, { position: state.snapshot, content: content ?? new Uint8Array() }];
  return {
    content: (source && drafts[source]?.content) ?? new Uint8Array(),
    drafts: openDrafts(drafts, snapshot),
    kept: older.filter(({ position }) => keep.some((each) => isSame(each, position))),
  };
}

/** What is not newer than the snapshot will never be needed. */
function openDrafts(
  { made, arriving }: NonNullable<MemoryState['drafts']>,
  { index }: Snapshot,
): NonNullable<MemoryState['drafts']> {
  return {
    ...(made && made.index > index ? { made } : {}),
    ...(arriving && arriving.index > index ? { arriving } : {}),
  };
}

function isWhole(draft: Draft | undefined, snapshot: Snapshot): boolean {
  if (!draft || !isSame(draft, snapshot)) return false;
  const { content } = draft;
  return content.length === snapshot.sizeBytes && crc32(content) === snapshot.checksum;
}

function isSame(a: LogPosition | undefined, b: LogPosition): boolean {
  return a?.index === b.index && a.term === b.term;
}
