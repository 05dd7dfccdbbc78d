import { StorError } from '@stor/protocol';

/**
 * The form of everything the cluster store writes to a log, a snapshot or a peer: a JSON header,
 * which may grow fields that older members skip, and after it the values as raw bytes.
 *
 *   magic 'K' (1 byte) | version (1) | header length (4, big-endian) | header (UTF-8 JSON) | values
 */
export const envelopeVersion = 1;
const magic = 0x4b;
/** magic, version and length */
export const envelopeHeadBytes = 6;
const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });

export type Header = Record<string, unknown>;

export function encodeEnvelope(header: Header, values: Uint8Array[] = []): Uint8Array {
  const json = encoder.encode(JSON.stringify(header));
  const head = encodeEnvelopeHead(json.length);
  const valueBytes = values.reduce((sum, value) => sum + value.length, 0);
  const bytes = new Uint8Array(head.length + json.length + valueBytes);
  bytes.set(head);
  bytes.set(json, head.length);
  let at = head.length + json.length;
  for (const value of values) {
    bytes.set(value, at);
    at += value.length;
  }
  return bytes;
}

/** PROTOCOL when the bytes are not an envelope of this version. `values` is all after the header. */
export function decodeEnvelope(bytes: Uint8Array): { header: Header; values: Uint8Array } {
  const length = checkEnvelopeHead(bytes);
  if (length > bytes.length - envelopeHeadBytes) {
    throw new StorError('PROTOCOL', 'cluster store record is cut off in its header');
  }
  const end = envelopeHeadBytes + length;
  const header = parseHeader(bytes.subarray(envelopeHeadBytes, end));
  return { header, values: bytes.subarray(end) };
}

/** What is in front of a header of so many bytes. */
export function encodeEnvelopeHead(headerBytes: number, version = envelopeVersion): Uint8Array {
  const bytes = new Uint8Array(envelopeHeadBytes);
  bytes[0] = magic;
  bytes[1] = version;
  new DataView(bytes.buffer).setUint32(2, headerBytes);
  return bytes;
}

/** The length of the header (bytes). PROTOCOL when it is not an envelope of such a version. */
export function checkEnvelopeHead(bytes: Uint8Array, newest = envelopeVersion): number {
  if (bytes.length < envelopeHeadBytes || bytes[0] !== magic) {
    throw new StorError('PROTOCOL', 'not a cluster store record: wrong first byte or too short');
  }
  const version = bytes[1] ?? 0;
  if (version < 1 || version > newest) {
    throw new StorError(
      'PROTOCOL',
      `cluster store record of version ${version}, this program knows ${newest}: upgrade it`,
    );
  }
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(2);
}

function parseHeader(bytes: Uint8Array): Header {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(bytes));
  } catch (error) {
    throw new StorError('PROTOCOL', 'cluster store record has a header that is not JSON', {
      cause: error,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new StorError('PROTOCOL', 'cluster store record has a header that is not an object');
  }
  return value as Header;
}

/** Takes values of known length one after another; `end` checks that nothing is left over. */
export class ValueReader {
  readonly #values: Uint8Array;
  #at = 0;

  constructor(values: Uint8Array) {
    this.#values = values;
  }

  /** A copy: the received buffer may be large, shared or reused. */
  take(length: number): Uint8Array {
    if (length > this.#values.length - this.#at) {
      throw new StorError('PROTOCOL', 'cluster store record is cut off in its values');
    }
    const start = this.#at;
    this.#at += length;
    return new Uint8Array(this.#values.subarray(start, this.#at));
  }

  end(): void {
    if (this.#at !== this.#values.length) {
      throw new StorError('PROTOCOL', 'cluster store record has bytes after its last value');
    }
  }
}
