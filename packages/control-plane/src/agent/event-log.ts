import { StorError } from '@stor/protocol';
import type { EventNote, StorEvent } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore, KeyValue } from '../cluster-store.ts';
import {
  counted,
  cut,
  dedupKey,
  eventId,
  gather,
  isOpenAt,
  surplusEvents,
} from '../core/events/event-record.ts';
import type { EventRecord, PendingNote } from '../core/events/event-record.ts';
import { StateEvents } from '../core/events/state-events.ts';
import { eventKey, eventsPrefix } from '../resources/keys.ts';
import { nodeName, withNodeNames } from '../resources/cluster-state.ts';
import { decodeEvent, encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { maxBatchItems } from '../resources/batch-limits.ts';

/** Kinds of notes that wait to be written; what is more is counted as dropped. */
const maxPending = 256;
/** A first note is written after this (ms): what happens at once is written together. */
const firstWriteMs = 100;
/** Repeated ones are gathered for so long (ms): a storm costs a write per this time. */
const repeatWriteMs = 5_000;
/** While the cluster store does not answer (ms). */
const retryMs = 5_000;
/** New events of one node in a minute; what is more is counted as dropped. */
const maxNewPerMinute = 300;
/** How often records are looked at for what has happened (ms). */
const lookMs = 2_000;
/** How often the leader drops old events (ms). */
const trimMs = 60_000;

interface EventLogOptions {
  store: ClusterStore;
  cache: StateCache;
  nodeId: string;
  nodeName: string;
  clock: Clock;
  random: Random;
  logger: Logger;
}

interface Written {
  record: EventRecord;
  modRevision: number;
}

/**
 * What happened, for people: kept in the cluster store, bounded, the same thing counted up. `note`
 * never waits and never fails; what cannot be written is tried again as long as there is room.
 */
export class EventLog {
  readonly #options: EventLogOptions;
  readonly #pending = new Map<string, PendingNote>();
  /** events of this node that may be counted up, by what they are about */
  readonly #open = new Map<string, Written & { writtenMs: number }>();
  #dropped = 0;
  #newInMinute = 0;
  #minuteEndsMs = 0;
  #cancel: (() => void) | null = null;
  #cancelTrim: () => void = () => {};
  readonly #changes = new StateEvents();
  #lookedRevision = -1;
  #cancelLook: () => void = () => {};
  #work: Promise<void> | null = null;
  #closed = false;

  constructor(options: EventLogOptions) {
    this.#options = options;
    this.#trimLater();
    this.#lookLater();
  }

  /** Something happened. */
  note(note: EventNote): void {
    if (this.#closed) return;
    const key = dedupKey(note);
    const known = this.#pending.get(key);
    if (!known && this.#pending.size >= maxPending) {
      this.#dropped += note.count ?? 1;
      return;
    }
    this.#pending.set(key, gather(known, note, this.#options.clock.wallMs()));
    this.#writeAfter(firstWriteMs);
  }

  /** As of now, oldest change first; see StorApi.listEvents. */
  async list(
    request: { volume: string; afterRevision: number; limit: number },
    options: { timeoutMs?: number } = {},
  ): Promise<{ events: StorEvent[]; revision: number }> {
    const { revision, items } = await this.#options.store.list(eventsPrefix, options);
    const { volume, afterRevision, limit } = request;
    const events: StorEvent[] = [];
    for (const item of items) {
      if (item.modRevision <= afterRevision) continue;
      const record = this.#decoded(item);
      if (!record || (volume !== '' && !isAbout(record, volume))) continue;
      const type = record.type === 'warning' ? 'warning' : 'normal';
      events.push({ ...record, type, resourceVersion: item.modRevision });
    }
    events.sort((a, b) => a.resourceVersion - b.resourceVersion);
    return { events: limit > 0 ? events.slice(-limit) : events, revision };
  }

  /** Writes what waits, if that goes at once. */
  async close(): Promise<void> {
    this.#cancelTrim();
    this.#cancelLook();
    this.#cancel?.();
    this.#closed = true;
    await this.#work;
    if (this.#pending.size > 0 && this.#options.store.status().leaderId !== null) {
      await this.#write(1_000);
    }
  }

  #writeAfter(ms: number): void {
    if (this.#cancel || this.#work || this.#closed) return;
    this.#cancel = this.#options.clock.after(ms, () => {
      this.#cancel = null;
      this.#work = this.#write(null).then((nextMs) => {
        this.#work = null;
        if (nextMs !== null) this.#writeAfter(nextMs);
      });
    });
  }

  /** When to write again (ms); null: nothing waits. */
  async #write(timeoutMs: number | null): Promise<number | null> {
    const nowMs = this.#options.clock.wallMs();
    this.#noteDropped();
    this.#forgetClosed(nowMs);
    const due = [...this.#pending].filter(([key]) => this.#isDue(key, nowMs));
    let lost = false;
    try {
      const others = due.some(([key]) => !this.#open.has(key)) ? await this.#others(nowMs) : null;
      for (const [key, pending] of due) {
        this.#pending.delete(key);
        const other = others?.get(key) ?? null;
        if (!(await this.#writeOne(key, pending, other, timeoutMs))) lost = true;
      }
    } catch (error) {
      const { message } = StorError.from(error);
      this.#options.logger.debug({ error: message }, 'events are not written yet');
      return retryMs;
    }
    if (lost) return firstWriteMs;
    return this.#pending.size > 0 || this.#dropped > 0 ? repeatWriteMs : null;
  }

  /** What was written a short time ago is gathered; clocks that go back do not hold it up. */
  #isDue(key: string, nowMs: number): boolean {
    const open = this.#open.get(key);
    return this.#closed || !open || Math.abs(nowMs - open.writtenMs) >= repeatWriteMs;
  }

  /** False: another node counted it up meanwhile, or it was dropped; the next look finds out. */
  async #writeOne(
    key: string,
    pending: PendingNote,
    other: Written | null,
    timeoutMs: number | null,
  ): Promise<boolean> {
    const { store, clock, nodeName: node } = this.#options;
    const own = this.#open.get(key) ?? null;
    const base = own && other && other.modRevision > own.modRevision ? other : (own ?? other);
    const nowMs = clock.wallMs();
    if (!base && pending.note.reason !== 'events-dropped' && !this.#mayBegin(nowMs)) {
      this.#dropped += pending.count;
      return true;
    }
    const message = withNodeNames(this.#options.cache.state, pending.note.message);
    const told = { ...pending, note: { ...pending.note, message } };
    const record = base ? counted(base.record, told, node) : this.#begin(told);
    const stored = eventKey(record.id);
    try {
      const { succeeded, revision } = await store.transact(
        {
          compare: [{ key: stored, modRevision: base?.modRevision ?? 0 }],
          operations: [{ type: 'put', key: stored, value: encodeRecord(record) }],
        },
        timeoutMs === null ? {} : { timeoutMs },
      );
      if (succeeded) {
        this.#open.set(key, { record, modRevision: revision, writtenMs: nowMs });
        return true;
      }
    } catch (error) {
      this.#putBack(key, pending);
      throw error;
    }
    this.#putBack(key, pending);
    return false;
  }

  #putBack(key: string, pending: PendingNote): void {
    this.#open.delete(key);
    const newer = this.#pending.get(key);
    this.#pending.set(key, {
      note: newer?.note ?? pending.note,
      count: pending.count + (newer?.count ?? 0),
      firstMs: pending.firstMs,
      lastMs: newer?.lastMs ?? pending.lastMs,
    });
  }

  #begin({ note, count, firstMs, lastMs }: PendingNote): EventRecord {
    const { random, nodeName: node } = this.#options;
    const { kind, id } = note.object;
    const volumeId = note.volumeId ?? (note.object.kind === 'volume' ? note.object.id : '');
    return {
      id: eventId(firstMs, random.bytes(2)),
      type: note.type,
      reason: note.reason,
      object: { kind, id, name: note.object.name ?? this.#nameOf(kind, id) },
      volumeId,
      volume: volumeId === '' ? '' : this.#nameOf('volume', volumeId),
      node,
      message: cut(note.message),
      count,
      firstMs,
      lastMs,
    };
  }

  #nameOf(kind: string, id: string): string {
    const { state } = this.#options.cache;
    if (kind === 'node') return nodeName(state, id);
    if (kind === 'disk') return state.disks.get(id)?.value.path ?? id;
    if (kind === 'cluster') return state.cluster?.value.name ?? id;
    if (kind !== 'volume') return id;
    const volume = state.volumes.get(id) ?? state.deleted.get(id);
    return volume?.value.metadata.name ?? id;
  }

  /** Events of any node that began a short time ago: they are counted up. */
  async #others(nowMs: number): Promise<Map<string, Written>> {
    const { items } = await this.#options.store.list(eventsPrefix, { local: true });
    const found = new Map<string, Written>();
    for (const item of items) {
      if (!isOpenAt(item.key.slice(eventsPrefix.length), nowMs)) continue;
      const record = this.#decoded(item);
      if (record) found.set(dedupKey(record), { record, modRevision: item.modRevision });
    }
    return found;
  }

  #decoded(item: KeyValue): EventRecord | null {
    try {
      return decodeEvent(item.key, item.value);
    } catch (error) {
      const { message } = StorError.from(error);
      this.#options.logger.warn({ error: message }, 'an event cannot be read');
      return null;
    }
  }

  #mayBegin(nowMs: number): boolean {
    if (nowMs >= this.#minuteEndsMs || this.#minuteEndsMs - nowMs > 60_000) {
      this.#minuteEndsMs = nowMs + 60_000;
      this.#newInMinute = 0;
    }
    this.#newInMinute += 1;
    return this.#newInMinute <= maxNewPerMinute;
  }

  #noteDropped(): void {
    if (this.#dropped === 0) return;
    const { nodeId, nodeName: name, clock } = this.#options;
    const note: EventNote = {
      type: 'warning',
      reason: 'events-dropped',
      object: { kind: 'node', id: nodeId },
      message: `node ${name} had more events than are written in a minute: its log has them`,
      count: this.#dropped,
    };
    const key = dedupKey(note);
    this.#pending.set(key, gather(this.#pending.get(key), note, clock.wallMs()));
    this.#dropped = 0;
  }

  #forgetClosed(nowMs: number): void {
    for (const [key, { record }] of this.#open) {
      if (!isOpenAt(record.id, nowMs)) this.#open.delete(key);
    }
  }

  /** Each node looks, the leader tells. */
  #lookLater(): void {
    this.#cancelLook = this.#options.clock.after(lookMs, () => {
      this.#lookLater();
      const { cache, store } = this.#options;
      const { revision } = cache.state;
      if (!cache.loaded || revision === this.#lookedRevision) return;
      this.#lookedRevision = revision;
      const notes = this.#changes.look(cache.state);
      if (store.status().isLeader) for (const note of notes) this.note(note);
    });
  }

  #trimLater(): void {
    this.#cancelTrim = this.#options.clock.after(trimMs, () => {
      this.#trimLater();
      if (this.#options.store.status().isLeader) void this.trim();
    });
  }

  /** Drops what is too old or too much; the leader calls it now and then. */
  async trim(): Promise<void> {
    const { store, clock, logger } = this.#options;
    try {
      const { items } = await store.list(eventsPrefix, { local: true });
      const ids = items.map(({ key }) => key.slice(eventsPrefix.length));
      const surplus = surplusEvents(ids, clock.wallMs());
      for (let at = 0; at < surplus.length; at += maxBatchItems) {
        const operations = surplus
          .slice(at, at + maxBatchItems)
          .map((id) => ({ type: 'delete' as const, key: eventKey(id) }));
        await store.transact({ compare: [], operations });
      }
    } catch (error) {
      logger.debug({ error: StorError.from(error).message }, 'old events are not dropped yet');
    }
  }
}

function isAbout(record: EventRecord, volume: string): boolean {
  return record.volumeId === volume || record.volume === volume;
}
