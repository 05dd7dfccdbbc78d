import { scrubEveryMs, scrubRateBytes } from '@stor/protocol';
import type {
  Scrub,
  ScrubCounts,
  ScrubPosition,
  ScrubProgress,
  ScrubResult,
  ScrubSettings,
  VolumeId,
} from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** Ends of scrubs that are remembered of one volume. */
export const maxScrubHistory = 10;

export interface ScrubRunRecord {
  id: string;
  /** schedule, order */
  reason: string;
  startedAtMs: number;
  paused: boolean;
  /** why it does not go on, as its primary said; '' else */
  message: string;
  position: ScrubPosition;
  counts: ScrubCounts;
  /** null: no primary has said it yet */
  bytesRemaining: number | null;
  bytesPerSecond: number;
  /** when a primary last said how far it is, by the wall clock; 0: never */
  seenAtMs: number;
}

/** What lies in the cluster store of the scrubs of one volume. */
export interface ScrubRecord {
  volumeId: VolumeId;
  run: ScrubRunRecord | null;
  /** oldest first */
  history: (Omit<ScrubResult, 'reason'> & { reason: string })[];
}

export const defaultScrubSettings: ScrubSettings = {
  everyMs: scrubEveryMs,
  rateBytesPerSecond: scrubRateBytes,
};

const noCounts: ScrubCounts = { bytes: 0, found: 0, repaired: 0, kept: 0, diverged: 0 };

export function scrubSettings(state: ClusterState): ScrubSettings {
  return state.scrubSettings?.value ?? defaultScrubSettings;
}

/** A record with a run that begins now; one that is under way stays, and goes on if it is paused. */
export function begun(
  old: ScrubRecord | null,
  volumeId: VolumeId,
  { reason, nowWallMs }: { reason: ScrubResult['reason']; nowWallMs: number },
): ScrubRecord {
  const record = old ?? { volumeId, run: null, history: [] };
  if (record.run) return { ...record, run: { ...record.run, paused: false } };
  const run: ScrubRunRecord = {
    id: `${reason}-${nowWallMs}`,
    reason,
    startedAtMs: nowWallMs,
    paused: false,
    message: '',
    position: { segment: 0, chunk: 0 },
    counts: { ...noCounts },
    bytesRemaining: null,
    bytesPerSecond: 0,
    seenAtMs: 0,
  };
  return { ...record, run };
}

/** Null when nothing changes. */
export function pausedTo(record: ScrubRecord, paused: boolean): ScrubRecord | null {
  if (!record.run || record.run.paused === paused) return null;
  return { ...record, run: { ...record.run, paused } };
}

/** What its primary says; null when it is of another run. */
export function progressed(
  record: ScrubRecord,
  progress: ScrubProgress,
  nowWallMs: number,
): ScrubRecord | null {
  const { run } = record;
  if (run?.id !== progress.runId) return null;
  const { message, bytesRemaining, bytesPerSecond } = progress;
  // what a newer version counts besides stays
  const counts = { ...run.counts, ...progress.counts };
  const position = { ...run.position, ...progress.position };
  const seen = { message, position, counts, bytesRemaining, bytesPerSecond, seenAtMs: nowWallMs };
  const next = { ...record, run: { ...run, ...seen } };
  return progress.state === 'finished' ? ended(next, true, nowWallMs) : next;
}

/** The run is over, at its end or before. */
export function ended(record: ScrubRecord, complete: boolean, nowWallMs: number): ScrubRecord {
  const { run } = record;
  if (!run) return record;
  const { id: runId, reason, startedAtMs, counts } = run;
  const result = { runId, reason, startedAtMs, endedAtMs: nowWallMs, complete, counts };
  return { ...record, run: null, history: [...record.history, result].slice(-maxScrubHistory) };
}

/** When the next run begins by itself, by the wall clock (ms); null: never, or one is under way. */
export function nextDueMs(
  record: ScrubRecord | null,
  volume: StoredVolume,
  { everyMs }: ScrubSettings,
): number | null {
  if (everyMs <= 0 || record?.run) return null;
  const last = record?.history.at(-1);
  if (last) return last.startedAtMs + everyMs;
  // the first ones are spread, so that volumes made together are not read together
  return volume.metadata.createdAtMs + Math.round(everyMs * fractionOf(volume.metadata.id));
}

/** From 0 to 1, the same for the same id, even over many ids. */
export function fractionOf(id: string): number {
  // FNV-1a over the id
  let hash = 0x811c9dc5;
  for (let i = 0; i < id.length; i++) {
    hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193) >>> 0;
  }
  // and a mix, because ids that differ at their end only would lie close together
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

/** For people and programs. */
export function describeScrub(
  volume: StoredVolume,
  record: ScrubRecord | null,
  settings: ScrubSettings,
): Scrub {
  const run = record?.run ?? null;
  const { name, id } = volume.metadata;
  const history = (record?.history ?? []).map((result) => ({
    ...result,
    reason: result.reason === 'order' ? ('order' as const) : ('schedule' as const),
  }));
  const base = {
    volume: name,
    volumeId: id,
    counts: run?.counts ?? noCounts,
    bytesRemaining: run?.bytesRemaining ?? 0,
    bytesPerSecond: run?.bytesPerSecond ?? 0,
    startedAtMs: run?.startedAtMs ?? null,
    nextDueMs: nextDueMs(record, volume, settings),
    history,
  };
  if (!run) return { ...base, state: 'idle', message: '', etaMs: null };
  if (run.paused) {
    return { ...base, bytesPerSecond: 0, state: 'paused', message: '', etaMs: null };
  }
  const isAttached = volume.status.attachment !== null;
  const message =
    run.seenAtMs === 0 || !isAttached
      ? isAttached
        ? 'its primary begins'
        : 'attached nowhere: a node is asked to attach it'
      : run.message;
  if (message !== '') {
    return { ...base, bytesPerSecond: 0, state: 'waiting', message, etaMs: null };
  }
  const etaMs =
    run.bytesPerSecond > 0 ? Math.ceil((base.bytesRemaining / run.bytesPerSecond) * 1_000) : null;
  return { ...base, state: 'running', message: '', etaMs };
}

/** Of all volumes that are ready, by name. */
export function describeScrubs(state: ClusterState): Scrub[] {
  const settings = scrubSettings(state);
  return [...state.volumes.values()]
    .filter(({ value }) => value.status.phase === 'ready')
    .map(({ value }) =>
      describeScrub(value, state.scrubs.get(value.metadata.id)?.value ?? null, settings),
    )
    .sort((a, b) => (a.volume < b.volume ? -1 : 1));
}

/** One sentence about a run that has ended. */
export function scrubSentence(
  name: string,
  { counts, complete }: ScrubRecord['history'][0],
): string {
  const { found, repaired, kept, diverged } = counts;
  const what = `the scrub of volume ${name} ${complete ? 'has read everything' : 'was ended before its end'}`;
  if (found === 0 && repaired === 0 && diverged === 0) return `${what}: nothing was wrong`;
  return `${what}: ${found} bad blocks found, ${repaired} blocks repaired, ${kept} kept as errors, ${diverged} differ between replicas`;
}
