import type { EventNote } from '@stor/protocol';

/** The same reason and object count up the event that began at most so long ago (ms). */
export const eventWindowMs = 10 * 60_000;
/** Events older than this are dropped (ms). */
export const maxEventAgeMs = 7 * 24 * 3_600_000;
/** More than these are not kept: about 3 MB of the cluster store. */
export const maxEvents = 5_000;
/** A message is cut there (characters): it is one sentence. */
export const maxMessageLength = 500;

/** What lies in the cluster store of an event. */
export interface EventRecord {
  id: string;
  type: string;
  reason: string;
  object: { kind: string; id: string; name: string };
  volumeId: string;
  volume: string;
  node: string;
  message: string;
  count: number;
  firstMs: number;
  lastMs: number;
}

/** Notes of one reason and object that are not written yet. */
export interface PendingNote {
  note: EventNote;
  count: number;
  firstMs: number;
  lastMs: number;
}

const timeDigits = 12;

/** An id that sorts by time: 12 hex digits of ms since 1970, then 4 by chance (2 bytes). */
export function eventId(wallMs: number, random: Uint8Array): string {
  const time = Math.max(0, Math.floor(wallMs)).toString(16).padStart(timeDigits, '0');
  const chance = Array.from(random.subarray(0, 2), (byte) => byte.toString(16).padStart(2, '0'));
  return `e-${time}${chance.join('')}`;
}

/** When the event began, as its id says; NaN when it is no such id. */
export function eventTimeMs(id: string): number {
  return /^e-[0-9a-f]{16}$/.test(id) ? Number.parseInt(id.slice(2, 2 + timeDigits), 16) : NaN;
}

/** Notes with the same key are one event. */
export function dedupKey(of: { reason: string; object: { kind: string; id: string } }): string {
  return `${of.reason} ${of.object.kind} ${of.object.id}`;
}

/** Adds a note to those that wait; the newest message stands. */
export function gather(old: PendingNote | undefined, note: EventNote, nowMs: number): PendingNote {
  const count = note.count ?? 1;
  if (!old) return { note, count, firstMs: nowMs, lastMs: nowMs };
  return { note, count: old.count + count, firstMs: old.firstMs, lastMs: nowMs };
}

/** May the event take up more of its kind, or has a new one to begin? */
export function isOpenAt(id: string, nowMs: number): boolean {
  const ageMs = nowMs - eventTimeMs(id);
  return ageMs >= -eventWindowMs && ageMs < eventWindowMs;
}

/** The event with what has happened since counted in. */
export function counted(record: EventRecord, pending: PendingNote, node: string): EventRecord {
  const { note, count, lastMs } = pending;
  return {
    ...record,
    type: note.type,
    node,
    message: cut(note.message),
    count: record.count + count,
    lastMs: Math.max(record.lastMs, lastMs),
  };
}

export function cut(message: string): string {
  return message.length <= maxMessageLength
    ? message
    : `${message.slice(0, maxMessageLength - 1)}…`;
}

/** Which of these ids (ascending) are too old or too many. */
export function surplusEvents(ids: readonly string[], nowMs: number): string[] {
  const tooMany = Math.max(0, ids.length - maxEvents);
  return ids.filter((id, index) => index < tooMany || nowMs - eventTimeMs(id) > maxEventAgeMs);
}
