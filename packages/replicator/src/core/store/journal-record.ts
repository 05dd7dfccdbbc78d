import { StorError } from '@stor/protocol';
import type { Generation, ReplicaIdentity, SetView } from '../../replica-store.ts';
import { getU64, putU64 } from './format.ts';
import { getLayer, type Layer, type LayerChange, putLayer } from './layer-table.ts';
import { layerEntryBytes } from './table-page.ts';

/**
 * A change of metadata. Every record says what *is* afterwards, not what to do, so applying it again
 * (replay over pages that already contain it) changes nothing.
 */
export type JournalRecord =
  /** a replica with this head in this lineage, which is there from now on if it was not */
  | {
      type: 'create';
      replica: number;
      identity: ReplicaIdentity;
      lineage: number;
      folder: string;
      head: Layer;
    }
  /** the replica is not there; its layers are hidden */
  | { type: 'delete'; replica: number }
  /** entries: slot, chunk, word (0: nobody's), in threes; `lineage` stands in the replica's place */
  | { type: 'slots'; lineage: number; entries: Uint32Array }
  | { type: 'layers'; lineage: number; changes: LayerChange[] }
  | { type: 'resize'; replica: number; sizeBytes: number }
  /** of the first format, read only: an empty replica with a lineage of its own */
  | { type: 'create1'; replica: number; identity: ReplicaIdentity }
  /** of the first format, read only: chunk, slot + 1 (0: the chunk is free), alternating */
  | { type: 'chunks'; replica: number; entries: Uint32Array }
  | { type: 'mark'; replica: number; regions: Uint32Array }
  /** the regions lose their mark and are stamped with the generation */
  | { type: 'retire'; replica: number; generation: Generation; regions: Uint32Array }
  | { type: 'generation'; replica: number; generation: Generation }
  /** the replica is equal to a source of that generation; changes up to `after` are not known here */
  | { type: 'adopt'; replica: number; generation: Generation; after: Generation }
  | { type: 'fence'; replica: number; epoch: number }
  | { type: 'view'; replica: number; view: SetView }
  /** the regions are stamped with the generation, or keep a later one */
  | { type: 'stamp'; replica: number; generation: Generation; regions: Uint32Array };

const typeNumbers = {
  create1: 1,
  delete: 2,
  chunks: 3,
  mark: 4,
  retire: 5,
  generation: 6,
  adopt: 7,
  fence: 8,
  view: 9,
  stamp: 10,
  create: 11,
  slots: 12,
  layers: 13,
  resize: 14,
} as const satisfies Record<JournalRecord['type'], number>;

/** type u16, flags u16, body length u32, number of the replica or lineage u32, zero u32 */
export const recordHeaderBytes = 16;
const generationBytes = 16;
/** place u32, zero u32, then the layer as in its table */
const layerChangeBytes = 8 + layerEntryBytes;
/** Most layers that one record may change; they fit into the smallest frame. */
export const maxLayerChanges = 128;

type CreateBody = Omit<Extract<JournalRecord, { type: 'create' }>, 'type' | 'replica'>;

function createText(record: CreateBody): string {
  const { identity, lineage, folder, head } = record;
  return JSON.stringify({ identity, lineage, folder, head });
}

function ownerOf(record: JournalRecord): number {
  return record.type === 'slots' || record.type === 'layers' ? record.lineage : record.replica;
}

export function encodedRecordBytes(record: JournalRecord): number {
  return recordHeaderBytes + padded(bodyBytesOf(record));
}

function padded(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder();

function bodyBytesOf(record: JournalRecord): number {
  switch (record.type) {
    case 'create':
      return textEncoder.encode(createText(record)).length;
    case 'create1':
      return textEncoder.encode(JSON.stringify(record.identity)).length;
    case 'delete':
      return 0;
    case 'chunks':
    case 'slots':
      return record.entries.length * 4;
    case 'layers':
      return record.changes.length * layerChangeBytes;
    case 'resize':
      return 8;
    case 'mark':
      return record.regions.length * 4;
    case 'retire':
    case 'stamp':
      return generationBytes + record.regions.length * 4;
    case 'generation':
      return generationBytes;
    case 'adopt':
      return 2 * generationBytes;
    case 'fence':
      return 8;
    case 'view':
      return textEncoder.encode(JSON.stringify(record.view)).length;
  }
}

/** Writes the record at `at` and returns where the next one begins. `target` is zero there. */
export function encodeRecord(record: JournalRecord, target: Uint8Array, at: number): number {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  const body = at + recordHeaderBytes;
  const bodyBytes = bodyBytesOf(record);
  view.setUint16(at, typeNumbers[record.type], true);
  view.setUint32(at + 4, bodyBytes, true);
  view.setUint32(at + 8, ownerOf(record), true);
  switch (record.type) {
    case 'create':
      target.set(textEncoder.encode(createText(record)), body);
      break;
    case 'create1':
      target.set(textEncoder.encode(JSON.stringify(record.identity)), body);
      break;
    case 'delete':
      break;
    case 'chunks':
    case 'slots':
      putNumbers(view, body, record.entries);
      break;
    case 'layers':
      for (const [i, change] of record.changes.entries()) {
        view.setUint32(body + i * layerChangeBytes, change.place, true);
        if (change.layer) putLayer(view, body + i * layerChangeBytes + 8, change.layer);
      }
      break;
    case 'resize':
      putU64(view, body, record.sizeBytes);
      break;
    case 'mark':
      putNumbers(view, body, record.regions);
      break;
    case 'retire':
    case 'stamp':
      putGeneration(view, body, record.generation);
      putNumbers(view, body + generationBytes, record.regions);
      break;
    case 'generation':
      putGeneration(view, body, record.generation);
      break;
    case 'adopt':
      putGeneration(view, body, record.generation);
      putGeneration(view, body + generationBytes, record.after);
      break;
    case 'fence':
      putU64(view, body, record.epoch);
      break;
    case 'view':
      target.set(textEncoder.encode(JSON.stringify(record.view)), body);
      break;
  }
  return body + padded(bodyBytes);
}

/** Reads the record at `at`. Throws FOREIGN_DATA for a type that only a newer version knows. */
export function decodeRecord(
  source: Uint8Array,
  at: number,
): { record: JournalRecord; next: number } {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  const type = view.getUint16(at, true);
  const bodyBytes = view.getUint32(at + 4, true);
  const replica = view.getUint32(at + 8, true);
  const body = at + recordHeaderBytes;
  const next = body + padded(bodyBytes);
  if (next > source.length) {
    throw new StorError('DISK_FAILED', `journal record at byte ${at} reaches beyond its frame`);
  }
  return { record: decodeBody(type, replica, view, body, bodyBytes), next };
}

function decodeBody(
  type: number,
  replica: number,
  view: DataView,
  body: number,
  bodyBytes: number,
): JournalRecord {
  switch (type) {
    case typeNumbers.create:
      return { type: 'create', replica, ...getJson<CreateBody>(view, body, bodyBytes) };
    case typeNumbers.create1:
      return { type: 'create1', replica, identity: getJson(view, body, bodyBytes) };
    case typeNumbers.slots:
      return { type: 'slots', lineage: replica, entries: getNumbers(view, body, bodyBytes / 4) };
    case typeNumbers.layers:
      return { type: 'layers', lineage: replica, changes: getChanges(view, body, bodyBytes) };
    case typeNumbers.resize:
      return { type: 'resize', replica, sizeBytes: getU64(view, body) };
    case typeNumbers.delete:
      return { type: 'delete', replica };
    case typeNumbers.chunks:
      return { type: 'chunks', replica, entries: getNumbers(view, body, bodyBytes / 4) };
    case typeNumbers.mark:
      return { type: 'mark', replica, regions: getNumbers(view, body, bodyBytes / 4) };
    case typeNumbers.retire:
    case typeNumbers.stamp: {
      const regions = getNumbers(view, body + generationBytes, (bodyBytes - generationBytes) / 4);
      const name = type === typeNumbers.stamp ? 'stamp' : 'retire';
      return { type: name, replica, generation: getGeneration(view, body), regions };
    }
    case typeNumbers.generation:
      return { type: 'generation', replica, generation: getGeneration(view, body) };
    case typeNumbers.adopt:
      return {
        type: 'adopt',
        replica,
        generation: getGeneration(view, body),
        // records of the first version end here: nothing is known of what came before
        after: getGeneration(view, bodyBytes > generationBytes ? body + generationBytes : body),
      };
    case typeNumbers.fence:
      return { type: 'fence', replica, epoch: getU64(view, body) };
    case typeNumbers.view:
      return { type: 'view', replica, view: getJson(view, body, bodyBytes) };
    default:
      throw new StorError(
        'FOREIGN_DATA',
        `the journal holds records of type ${type}, which only a newer version of Stor knows: start that version`,
      );
  }
}

function putNumbers(view: DataView, at: number, numbers: Uint32Array): void {
  for (let i = 0; i < numbers.length; i++) view.setUint32(at + i * 4, numbers[i] ?? 0, true);
}

function getNumbers(view: DataView, at: number, count: number): Uint32Array {
  const numbers = new Uint32Array(count);
  for (let i = 0; i < count; i++) numbers[i] = view.getUint32(at + i * 4, true);
  return numbers;
}

function getChanges(view: DataView, at: number, bytes: number): LayerChange[] {
  const changes: LayerChange[] = [];
  for (let i = 0; i < bytes; i += layerChangeBytes) {
    const place = view.getUint32(at + i, true);
    changes.push({ place, layer: getLayer(view, at + i + 8, place) });
  }
  return changes;
}

function putGeneration(view: DataView, at: number, generation: Generation): void {
  putU64(view, at, generation.epoch);
  putU64(view, at + 8, generation.n);
}

function getGeneration(view: DataView, at: number): Generation {
  return { epoch: getU64(view, at), n: getU64(view, at + 8) };
}

/** The frame's checksum held, so the text is what this program wrote. */
function getJson<T>(view: DataView, at: number, bytes: number): T {
  const text = textDecoder.decode(new Uint8Array(view.buffer, view.byteOffset + at, bytes));
  return JSON.parse(text) as T;
}
