import { StorError } from '@stor/protocol';

const decoder = new TextDecoder('utf-8', { fatal: true });
const [openBrace, closeBrace, openBracket, closeBracket] = [0x7b, 0x7d, 0x5b, 0x5d];
const [comma, colon, quote, backslash] = [0x2c, 0x3a, 0x22, 0x5c];

/** A member of a JSON object; of one that is a list first an empty list, then each element. */
export interface JsonPart {
  name: string;
  value: unknown;
  isElement: boolean;
}

/**
 * Reads a JSON object whose bytes come piece by piece, and never has it as a whole: members that are lists
 * are given element by element. It knows what `JSON.stringify` writes, which has no white space.
 */
export class JsonParts {
  #depth = 0;
  #isText = false;
  #isEscaped = false;
  #name: string | null = null;
  /** within the list that is the value of `#name` */
  #isList = false;
  #isOver = false;
  /** of the name, value or element that is being read: what earlier pieces had of it */
  #kept: Uint8Array[] = [];
  #parts: JsonPart[] = [];

  /** What is complete with these bytes. PROTOCOL when they are not of a JSON object. */
  add(piece: Uint8Array): JsonPart[] {
    this.#parts = [];
    let start = 0;
    for (let at = 0; at < piece.length; at++) {
      const byte = piece[at] as number;
      if (this.#isText) this.#inText(byte);
      else if (byte === quote) this.#isText = true;
      else if (this.#isBoundary(byte, () => at === start && this.#kept.length === 0)) {
        this.#cross(byte, this.#take(piece.subarray(start, at)));
        start = at + 1;
      }
    }
    if (start < piece.length) this.#kept.push(piece.slice(start));
    return this.#parts;
  }

  /** PROTOCOL when the object is not over. */
  end(): void {
    if (!this.#isOver || this.#kept.length > 0) throw malformed();
  }

  #inText(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (byte === backslash) this.#isEscaped = true;
    else if (byte === quote) this.#isText = false;
  }

  /** Follows the depth; true for what begins or ends the object, a name, a value, a list or an element. */
  #isBoundary(byte: number, isFirst: () => boolean): boolean {
    if (this.#isOver) throw malformed();
    const level = this.#isList ? 2 : 1;
    switch (byte) {
      case openBrace:
      case openBracket:
        this.#depth += 1;
        if (this.#depth === 1) return true;
        return byte === openBracket && this.#depth === 2 && this.#name !== null && isFirst();
      case closeBrace:
      case closeBracket:
        this.#depth -= 1;
        return this.#depth < level;
      case comma:
        return this.#depth === level;
      case colon:
        return this.#depth === 1 && this.#name === null;
      default:
        return false;
    }
  }

  #cross(byte: number, bytes: Uint8Array): void {
    if (byte === openBracket) {
      this.#give([]);
      this.#isList = true;
    } else if (byte === colon) {
      this.#name = textOf(parse(bytes));
    } else if (byte !== openBrace) {
      if (bytes.length > 0) this.#give(parse(bytes));
      if (byte === closeBracket) this.#isList = false;
      if (!this.#isList) this.#name = null;
      this.#isOver = byte === closeBrace;
    }
  }

  #give(value: unknown): void {
    if (this.#name === null) throw malformed();
    this.#parts.push({ name: this.#name, value, isElement: this.#isList });
  }

  #take(last: Uint8Array): Uint8Array {
    if (this.#kept.length === 0) return last;
    const bytes = Buffer.concat([...this.#kept, last]);
    this.#kept = [];
    return bytes;
  }
}

function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(bytes));
  } catch (error) {
    throw malformed(error);
  }
}

function textOf(value: unknown): string {
  if (typeof value !== 'string') throw malformed();
  return value;
}

function malformed(cause?: unknown): StorError {
  return new StorError('PROTOCOL', 'cluster store record has a header that is not a JSON object', {
    cause,
  });
}
