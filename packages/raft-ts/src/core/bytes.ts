import { RaftError } from '../errors.ts';
import { maxPeerIdBytes } from './limits.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });
const two32 = 2 ** 32;

/** Big-endian values into a buffer that grows. */
export class BytesWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(sizeHint = 128) {
    this.#bytes = new Uint8Array(sizeHint);
    this.#view = new DataView(this.#bytes.buffer);
  }

  u8(value: number): void {
    this.#reserve(1);
    this.#view.setUint8(this.#length, value);
    this.#length += 1;
  }

  u32(value: number): void {
    this.#reserve(4);
    this.#view.setUint32(this.#length, value);
    this.#length += 4;
  }

  /** 8 bytes; the integers that a double holds exactly */
  u53(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new RaftError('INTERNAL', `${value} is not a whole number below 2^53`);
    }
    this.u32(Math.floor(value / two32));
    this.u32(value % two32);
  }

  text(value: string): void {
    const bytes = encoder.encode(value);
    if (bytes.length > maxPeerIdBytes) {
      throw new RaftError('INVALID_ARGUMENT', `'${value}' is longer than ${maxPeerIdBytes} bytes`);
    }
    this.u8(bytes.length);
    this.raw(bytes);
  }

  bytes(value: Uint8Array): void {
    this.u32(value.length);
    this.raw(value);
  }

  raw(value: Uint8Array): void {
    this.#reserve(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
  }

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }
}

/** The same values out of bytes from outside: never beyond their end, else CORRUPT. */
export class BytesReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #offset = 0;

  /** `what` names the thing in the message of an error. */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#what = what;
  }

  fail(reason: string): never {
    throw new RaftError('CORRUPT', `${this.#what} is damaged at byte ${this.#offset}: ${reason}`);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  flag(): boolean {
    const value = this.u8();
    if (value > 1) this.fail(`${value} is neither yes nor no`);
    return value === 1;
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  u53(): number {
    const high = this.u32();
    if (high >= 2 ** 21) this.fail('a number above 2^53');
    return high * two32 + this.u32();
  }

  text(): string {
    const length = this.u8();
    const start = this.#take(length);
    try {
      return decoder.decode(this.#bytes.subarray(start, start + length));
    } catch {
      return this.fail('a name that is not UTF-8');
    }
  }

  /** A copy. */
  bytes(): Uint8Array {
    const length = this.u32();
    const start = this.#take(length);
    return new Uint8Array(this.#bytes.subarray(start, start + length));
  }

  expectEnd(): void {
    if (this.#offset !== this.#bytes.length) this.fail('bytes are left over');
  }

  #take(count: number): number {
    const start = this.#offset;
    if (count > this.#bytes.length - start) this.fail('it ends too early');
    this.#offset += count;
    return start;
  }
}
