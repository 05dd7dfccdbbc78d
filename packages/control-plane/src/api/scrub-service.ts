import {
  maxScrubEveryMs,
  maxScrubRateBytes,
  minScrubEveryMs,
  minScrubRateBytes,
  StorError,
} from '@stor/protocol';
import type { Scrub, ScrubSettings } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { EventLog } from '../agent/event-log.ts';
import type { ClusterStore } from '../cluster-store.ts';
import {
  begun,
  describeScrub,
  ended,
  pausedTo,
  scrubSentence,
  scrubSettings,
} from '../core/scrub/scrub-record.ts';
import type { ScrubRecord } from '../core/scrub/scrub-record.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { scrubKey, scrubSettingsKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StoredVolume } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';

const maxConflicts = 20;

type Change = (record: ScrubRecord | null, volume: StoredVolume) => ScrubRecord | null;

/** The verbs of scrubs. What they order is in the records: primaries and the leader act on it. */
export class ScrubService {
  readonly #store: ClusterStore;
  readonly #events: EventLog;
  readonly #clock: Clock;

  constructor(options: { store: ClusterStore; events: EventLog; clock: Clock }) {
    this.#store = options.store;
    this.#events = options.events;
    this.#clock = options.clock;
  }

  async list(volume: string): Promise<{ scrubs: Scrub[]; settings: ScrubSettings }> {
    const state = await readSoon((options) => readState(this.#store, options));
    const settings = scrubSettings(state);
    return { scrubs: volumesOf(state, volume).map((each) => described(state, each)), settings };
  }

  start(volume: string): Promise<{ scrubs: Scrub[] }> {
    return this.#changeAll(volume, (record, { metadata }) => {
      if (record?.run && !record.run.paused) return null;
      const begin = { reason: 'order' as const, nowWallMs: this.#clock.wallMs() };
      return begun(record, metadata.id, begin);
    });
  }

  pause(volume: string, paused: boolean): Promise<{ scrubs: Scrub[] }> {
    return this.#changeAll(volume, (record) => record && pausedTo(record, paused));
  }

  stop(volume: string): Promise<{ scrubs: Scrub[] }> {
    return this.#changeAll(volume, (record) =>
      record?.run ? ended(record, false, this.#clock.wallMs()) : null,
    );
  }

  async set(request: { everyMs?: number; rateBytesPerSecond?: number }): Promise<ScrubSettings> {
    checkSettings(request);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readState(this.#store);
      const settings = { ...scrubSettings(state) };
      if (request.everyMs !== undefined) settings.everyMs = request.everyMs;
      if (request.rateBytesPerSecond !== undefined) {
        settings.rateBytesPerSecond = request.rateBytesPerSecond;
      }
      const modRevision = state.scrubSettings?.modRevision ?? 0;
      const { succeeded } = await this.#store.transact({
        compare: [{ key: scrubSettingsKey, modRevision }],
        operations: [{ type: 'put', key: scrubSettingsKey, value: encodeRecord(settings) }],
      });
      if (succeeded) return settings;
    }
    throw new StorError('CONFLICT', 'the scrub settings change too often: try again');
  }

  async #changeAll(volume: string, change: Change): Promise<{ scrubs: Scrub[] }> {
    const ids = volumesOf(await readState(this.#store), volume).map((each) => each.metadata.id);
    for (const id of ids) await this.#change(id, change);
    const state = await readState(this.#store);
    const left = ids.flatMap((id) => state.volumes.get(id)?.value ?? []);
    return { scrubs: left.map((each) => described(state, each)) };
  }

  /** Nothing happens to a volume that is gone meanwhile. */
  async #change(id: string, change: Change): Promise<void> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readState(this.#store);
      const volume = state.volumes.get(id)?.value;
      const old: Versioned<ScrubRecord> | null = state.scrubs.get(id) ?? null;
      const record = volume && change(old?.value ?? null, volume);
      if (!volume || !record) return;
      const key = scrubKey(id);
      const { succeeded } = await this.#store.transact({
        compare: [{ key, modRevision: old?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (!succeeded) continue;
      this.#noteStopped(volume, old?.value ?? null, record);
      return;
    }
    throw new StorError('CONFLICT', `the scrub of ${id} changes too often: try again`);
  }

  #noteStopped(volume: StoredVolume, old: ScrubRecord | null, record: ScrubRecord): void {
    const result = record.history.at(-1);
    if (!old?.run || record.run || !result) return;
    this.#events.note({
      type: 'normal',
      reason: 'scrub-stopped',
      object: { kind: 'volume', id: record.volumeId },
      message: scrubSentence(volume.metadata.name, result),
    });
  }
}

function described(state: ClusterState, volume: StoredVolume): Scrub {
  const record = state.scrubs.get(volume.metadata.id)?.value ?? null;
  return describeScrub(volume, record, scrubSettings(state));
}

/** All that are ready by name, or the one that is named. NOT_FOUND. */
function volumesOf(state: ClusterState, nameOrId: string): StoredVolume[] {
  if (nameOrId === '') {
    return [...state.volumes.values()]
      .map(({ value }) => value)
      .filter(({ status }) => status.phase === 'ready')
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }
  const id = state.names.get(nameOrId)?.value ?? nameOrId;
  const volume = state.volumes.get(id);
  if (volume) return [volume.value];
  const name = JSON.stringify(nameOrId.slice(0, 128));
  throw new StorError('NOT_FOUND', `there is no volume ${name}: see "storctl volume ls"`);
}

function checkSettings(request: { everyMs?: number; rateBytesPerSecond?: number }): void {
  const { everyMs, rateBytesPerSecond: rate } = request;
  const isEvery =
    everyMs === undefined ||
    everyMs === 0 ||
    (Number.isSafeInteger(everyMs) && everyMs >= minScrubEveryMs && everyMs <= maxScrubEveryMs);
  if (!isEvery) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `volumes cannot be scrubbed every ${everyMs} ms: give 0 (never by themselves), or ${minScrubEveryMs} to ${maxScrubEveryMs}`,
    );
  }
  const isRate =
    rate === undefined ||
    (Number.isSafeInteger(rate) && rate >= minScrubRateBytes && rate <= maxScrubRateBytes);
  if (isRate) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `scrubs cannot read ${rate} bytes in a second: give ${minScrubRateBytes} to ${maxScrubRateBytes}`,
  );
}
