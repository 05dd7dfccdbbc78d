import type { KeyValue } from '../../cluster-store.ts';
import { StorError } from '@stor/protocol';
import { checkEnvelopeHead, encodeEnvelopeHead, envelopeHeadBytes } from './envelope.ts';
import { countField, listField, textField } from './field.ts';
import { JsonParts, type JsonPart } from './json-parts.ts';
import { kvLevel } from './kv-limits.ts';
import { statusField } from './kv-result.ts';
import type { KvImage, LeaseRecord } from './kv-state.ts';
import type { RememberedRequest } from './remembered-requests.ts';

/** Of one piece (bytes), and of the records looked at for it: a turn of the process stays short. */
const pieceBytes = 64 * 1024;
const pieceRecords = 1_000;
const encoder = new TextEncoder();

/**
 * A log snapshot of the state, piece by piece: an envelope whose header has all but the values. The state
 * is never in memory twice. The records of the image must not change, the lists of it are its own. Empty
 * pieces are pauses: as its length stands in front of the header, that is made twice.
 */
export function* snapshotPieces(image: KvImage): Generator<Uint8Array> {
  let headerBytes = 0;
  let count = 0;
  for (const text of headerTexts(image)) {
    headerBytes += Buffer.byteLength(text);
    if (++count % pieceRecords === 0) yield new Uint8Array();
  }
  // a program that does not know the level must not take it for what it knows
  yield encodeEnvelopeHead(headerBytes, image.level ?? 1);
  for (const texts of groups(headerTexts(image), (text) => text.length)) {
    yield encoder.encode(texts.join(''));
  }
  for (const items of groups(image.items, ({ value }) => value.length)) {
    yield Buffer.concat(items.map(({ value }) => value));
  }
}

/** In one piece. */
export function encodeSnapshot(image: KvImage): Uint8Array {
  return Buffer.concat([...snapshotPieces(image)]);
}

/** The JSON of the header: each record of a list, and what is between them. */
function* headerTexts(image: KvImage): Generator<string> {
  const { extra, revision, sequence, level, items, leases, forgottenUpTo, requests } = image;
  const first = JSON.stringify({ ...extra, revision, sequence, level, forgottenUpTo });
  yield first.slice(0, -1);
  yield* listTexts('items', items, itemFields);
  yield* listTexts('leases', leases, ({ leaseId, ttlMs }) => [leaseId, ttlMs]);
  yield* listTexts('requests', requests, requestFields);
  yield '}';
}

function* listTexts<T>(
  name: string,
  list: readonly T[],
  fields: (each: T) => unknown[],
): Generator<string> {
  yield `,"${name}":[`;
  for (const [i, each] of list.entries())
    yield `${i > 0 ? ',' : ''}${JSON.stringify(fields(each))}`;
  yield ']';
}

function itemFields({ key, createRevision, modRevision, leaseId, value }: KeyValue): unknown[] {
  return [key, createRevision, modRevision, leaseId, value.length];
}

function requestFields({ id, sequence, result }: RememberedRequest): unknown[] {
  const { status, succeeded, revision } = result;
  return [id, sequence, status, succeeded ? 1 : 0, revision];
}

/** As many as make up a piece, or so many that a pause is due. */
function* groups<T>(list: Iterable<T>, sizeOf: (each: T) => number): Generator<T[]> {
  let group: T[] = [];
  let bytes = 0;
  for (const each of list) {
    group.push(each);
    bytes += sizeOf(each);
    if (bytes < pieceBytes && group.length < pieceRecords) continue;
    yield group;
    group = [];
    bytes = 0;
  }
  yield group;
}

/** The other direction: takes the bytes in any pieces. PROTOCOL when they are no snapshot that it knows. */
export class SnapshotReader {
  readonly #head = new Uint8Array(envelopeHeadBytes);
  #headBytes = 0;
  #headerLeft = 0;
  readonly #header = new JsonParts();
  readonly #fields: Record<string, unknown> = {};
  readonly #items: KeyValue[] = [];
  readonly #leases: LeaseRecord[] = [];
  readonly #requests: RememberedRequest[] = [];
  /** the item whose value is being read, and how much of that is there */
  #at = 0;
  #valueBytes = 0;

  add(piece: Uint8Array): void {
    let rest = this.#addHead(piece);
    if (this.#headerLeft > 0) {
      const part = rest.subarray(0, this.#headerLeft);
      for (const each of this.#header.add(part)) this.#take(each);
      this.#headerLeft -= part.length;
      rest = rest.subarray(part.length);
    }
    if (rest.length > 0) this.#addValues(rest);
  }

  #addHead(piece: Uint8Array): Uint8Array {
    const missing = envelopeHeadBytes - this.#headBytes;
    if (missing === 0) return piece;
    const part = piece.subarray(0, missing);
    this.#head.set(part, this.#headBytes);
    this.#headBytes += part.length;
    if (this.#headBytes === envelopeHeadBytes) {
      this.#headerLeft = checkEnvelopeHead(this.#head, kvLevel);
    }
    return piece.subarray(part.length);
  }

  #take({ name, value, isElement }: JsonPart): void {
    if (!isElement) this.#fields[name] = value;
    else if (name === 'items') this.#items.push(decodeItem(value));
    else if (name === 'leases') this.#leases.push(decodeLease(value));
    else if (name === 'requests') this.#requests.push(decodeRequest(value));
    else listField(this.#fields[name], name).push(value);
  }

  #addValues(bytes: Uint8Array): void {
    let from = 0;
    while (from < bytes.length) {
      const value = this.#nextValue();
      if (!value)
        throw new StorError('PROTOCOL', 'cluster store record has bytes after its last value');
      const part = bytes.subarray(from, from + value.length - this.#valueBytes);
      value.set(part, this.#valueBytes);
      this.#valueBytes += part.length;
      from += part.length;
    }
  }

  /** The first one that is not whole. */
  #nextValue(): Uint8Array | undefined {
    while (this.#items[this.#at]?.value.length === this.#valueBytes) {
      this.#at += 1;
      this.#valueBytes = 0;
    }
    return this.#items[this.#at]?.value;
  }

  end(): KvImage {
    this.#header.end();
    if (this.#nextValue())
      throw new StorError('PROTOCOL', 'cluster store record is cut off in its values');
    const { revision, sequence, level, forgottenUpTo, items, leases, requests, ...extra } =
      this.#fields;
    const lists = { items, leases, requests };
    for (const [name, list] of Object.entries(lists)) listField(list, name);
    return {
      revision: countField(revision, 'revision'),
      sequence: countField(sequence, 'sequence'),
      ...(level === undefined ? {} : { level: countField(level, 'level') }),
      items: this.#items,
      leases: this.#leases,
      forgottenUpTo: countField(forgottenUpTo, 'forgottenUpTo'),
      requests: this.#requests,
      extra,
    };
  }
}

/** PROTOCOL when the bytes are no snapshot that this program knows. */
export function decodeSnapshot(bytes: Uint8Array): KvImage {
  const reader = new SnapshotReader();
  reader.add(bytes);
  return reader.end();
}

function decodeItem(item: unknown): KeyValue {
  const [key, createRevision, modRevision, leaseId, length] = listField(item, 'item');
  const valueBytes = countField(length, 'value length');
  // a record that is damaged must not make us take all memory
  if (valueBytes > maxStoredValueBytes) {
    throw new StorError('PROTOCOL', `cluster store record has a value of ${valueBytes} bytes`);
  }
  return {
    key: textField(key, 'key'),
    createRevision: countField(createRevision, 'createRevision'),
    modRevision: countField(modRevision, 'modRevision'),
    leaseId: textField(leaseId, 'leaseId'),
    value: new Uint8Array(valueBytes),
  };
}

/** Far above any value that was ever allowed. */
const maxStoredValueBytes = 64 * 1024 * 1024;

function decodeLease(item: unknown): LeaseRecord {
  const [leaseId, ttlMs] = listField(item, 'lease');
  return { leaseId: textField(leaseId, 'leaseId'), ttlMs: countField(ttlMs, 'ttlMs') };
}

function decodeRequest(item: unknown): RememberedRequest {
  const [id, sequence, status, succeeded, revision] = listField(item, 'request');
  return {
    id: textField(id, 'id'),
    sequence: countField(sequence, 'sequence'),
    result: {
      status: statusField(status),
      succeeded: countField(succeeded, 'succeeded') === 1,
      revision: countField(revision, 'revision'),
    },
  };
}
