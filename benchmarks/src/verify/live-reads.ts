import { recogniseSector, sectorBytes, type SectorContent } from './stamp.ts';
import type { WriteModel } from './write-model.ts';

/** A read that is under way, and what each of its sectors may turn out to hold. */
export interface LiveRead {
  offset: number;
  length: number;
  allowed: Set<number>[];
  /** sectors that a write met while the read was under way: reading them settles nothing */
  shared: boolean[];
}

/**
 * Checks what is read while writes go on. A read may find whatever the model allowed when it began,
 * and every write of the range issued since. When no write met it, what it found is settled: reads
 * never go back (I5), so nothing older may be found later.
 */
export class LiveReads {
  readonly #model: WriteModel;
  readonly #seed: number;
  /** of the range (bytes) */
  readonly #start: number;
  readonly #underWay = new Set<LiveRead>();

  constructor(model: WriteModel, seed: number, start: number) {
    this.#model = model;
    this.#seed = seed;
    this.#start = start;
  }

  begin(offset: number, length: number): LiveRead {
    const read: LiveRead = { offset, length, allowed: [], shared: [] };
    for (let at = 0; at < length; at += sectorBytes) {
      const candidates = this.#model.candidates(this.#sectorOf(offset + at));
      read.allowed.push(new Set(candidates));
      read.shared.push(candidates.some((id) => this.#model.isInFlight(id)));
    }
    this.#underWay.add(read);
    return read;
  }

  /** A write of this range begins; `id` is its number in the model. */
  issued(id: number, offset: number, length: number): void {
    for (const read of this.#underWay) {
      const from = Math.max(offset, read.offset);
      const to = Math.min(offset + length, read.offset + read.length);
      for (let at = from; at < to; at += sectorBytes) {
        const index = (at - read.offset) / sectorBytes;
        read.allowed[index]?.add(id);
        read.shared[index] = true;
      }
    }
  }

  /** What is wrong with the bytes, in words; empty when nothing is. */
  finish(read: LiveRead, bytes: Buffer): string[] {
    this.#underWay.delete(read);
    const problems: string[] = [];
    read.allowed.forEach((allowed, index) => {
      const at = read.offset + index * sectorBytes;
      const content = recogniseSector(bytes, index * sectorBytes, at / sectorBytes, this.#seed);
      const found = [...allowed].filter((id) => matches(content, id)).at(-1);
      if (found === undefined) {
        const wanted = [...allowed].join(' or ');
        problems.push(
          `a read at ${at} found ${JSON.stringify(content)} where write ${wanted} may be`,
        );
      } else if (read.shared[index] === false) {
        this.#model.observe(this.#sectorOf(at), found);
      }
    });
    return problems;
  }

  /** The read failed. */
  drop(read: LiveRead): void {
    this.#underWay.delete(read);
  }

  #sectorOf(offset: number): number {
    return (offset - this.#start) / sectorBytes;
  }
}

function matches(content: SectorContent, id: number): boolean {
  if (content.kind === 'zero') return id <= 0;
  return content.kind === 'write' && content.sequence === id;
}
