import { inOnePiece, membershipOf, type SaveBatch } from '../../packages/raft-ts/src/index.ts';
import type { SeededRandom } from '../../packages/runtime/src/testing/index.ts';

/** Bytes are made from numbers on both sides, so that orders stay small. */
export type RaftOrder =
  | { op: 'open'; path: string }
  | { op: 'begin' }
  | {
      op: 'save';
      term: number;
      commit: number;
      first: number;
      count: number;
      entryBytes: number;
      /** a snapshot at this index, and the log cut there; 0: none */
      snapshot: number;
      snapshotTerm: number;
    };

const membership = membershipOf(['a', 'b', 'c']);

function dataOf(index: number, term: number, length: number): Uint8Array {
  // not compressible, so that LevelDB has to write it
  const bytes = Buffer.alloc(length);
  let state = (index * 0x9e3779b1 + term) >>> 0;
  for (let at = 0; at < length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  return new Uint8Array(bytes);
}

export function batchOf(order: Exclude<RaftOrder, { op: 'open' }>): SaveBatch {
  if (order.op === 'begin') {
    return {
      hardState: { term: 0, vote: null, commit: 0 },
      snapshot: { index: 0, term: 0, membership, sizeBytes: 0, checksum: 0 },
      log: { type: 'reset', position: { index: 0, term: 0 } },
      entries: [],
    };
  }
  const { term, commit, first, count, entryBytes, snapshot, snapshotTerm } = order;
  const position = { index: snapshot, term: snapshotTerm };
  return {
    hardState: { term, vote: 'a', commit },
    ...(snapshot > 0
      ? inOnePiece({ ...position, membership, data: dataOf(snapshot, 0, 20_000) })
      : { snapshot: null }),
    log: snapshot > 0 ? { type: 'compact', position } : { type: 'keep' },
    entries: Array.from({ length: count }, (_, i) => ({
      ...{ index: first + i, term, type: 'normal' as const },
      data: dataOf(first + i, term, entryBytes),
    })),
  };
}

/** Orders as a member gets them: entries added, ends replaced in a later term, the log cut. */
export class RaftScript {
  readonly #random: SeededRandom;
  readonly #terms: number[] = [];
  #term = 1;
  #commit = 0;
  #start = 0;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }

  next(): Exclude<RaftOrder, { op: 'open' }> {
    const last = this.#terms.length;
    let first = last + 1;
    if (this.#random.next() < 0.1) {
      this.#term += 1;
      // an end that was not committed is replaced
      first = Math.max(this.#commit, this.#start) + 1;
    }
    const count = this.#pick(5) + 1;
    this.#terms.length = first - 1;
    for (let i = 0; i < count; i++) this.#terms.push(this.#term);
    let snapshot = 0;
    if (this.#commit - this.#start > 20 && this.#random.next() < 0.2) {
      snapshot = this.#start + 1 + this.#pick(this.#commit - this.#start);
      this.#start = snapshot;
    }
    const commit = this.#commit;
    this.#commit += this.#pick(this.#terms.length - this.#commit + 1);
    return {
      ...{ op: 'save', term: this.#term, commit, first, count, snapshot },
      snapshotTerm: this.#terms[snapshot - 1] ?? 0,
      entryBytes: this.#random.next() < 0.1 ? 250_000 : 4 * (1 + this.#pick(2_000)),
    };
  }
}
