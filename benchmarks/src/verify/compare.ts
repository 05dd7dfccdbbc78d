import type { AckHistory } from './ack-history.ts';
import { recogniseSector, sectorBytes, type SectorContent } from './stamp.ts';

export interface Comparison {
  sectors: number;
  /** sectors that hold the stamp of a write */
  stamped: number;
  /** sectors whose contents are none of those that the model allows */
  wrong: number;
  /** aligned 4 KiB blocks that are half of one write and half of an older one (I10) */
  torn: number;
  /** the first few findings, in words */
  problems: string[];
}

const maxProblems = 20;
const sectorsPerBlock = 4096 / sectorBytes;

/** Compares what was read with what the log allows, piece by piece, in ascending order. */
export class ModelComparer {
  readonly #history: AckHistory;
  readonly result: Comparison = { sectors: 0, stamped: 0, wrong: 0, torn: 0, problems: [] };

  constructor(history: AckHistory) {
    this.#history = history;
  }

  /** `offset` is the volume offset of the bytes; both are multiples of 4 KiB. */
  add(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += 4096) this.#addBlock(offset + at, bytes, at);
  }

  #addBlock(offset: number, bytes: Buffer, at: number): void {
    const { model, seed } = this.#history;
    const first = (offset - this.#history.offset) / sectorBytes;
    /** what each sector may hold that it does hold: several only where zeros have several origins */
    const found: number[][] = [];
    for (let index = 0; index < sectorsPerBlock; index += 1) {
      this.result.sectors += 1;
      const home = offset / sectorBytes + index;
      const content = recogniseSector(bytes, at + index * sectorBytes, home, seed);
      const candidates = model.candidates(first + index);
      const matching = candidates.filter((id) => matches(content, id));
      if (content.kind === 'write') this.result.stamped += 1;
      if (matching.length === 0) this.#wrong(home, content, candidates);
      found.push(matching);
    }
    this.#checkWhole(offset, first, found);
    found.forEach((matching, index) => {
      const id = matching.at(-1);
      if (id !== undefined) model.observe(first + index, id);
    });
  }

  #wrong(home: number, content: SectorContent, candidates: readonly number[]): void {
    this.result.wrong += 1;
    const allowed = candidates.map(describe).join(' or ');
    this.#report(
      `sector ${home} (offset ${home * sectorBytes}) holds ${describeContent(content)}; allowed: ${allowed}`,
    );
  }

  /**
   * A write that covered the block whole is there whole, unless a later one hides a part (I10).
   * Zeros of which it is not known who wrote them say nothing.
   */
  #checkWhole(offset: number, first: number, found: readonly number[][]): void {
    const { model } = this.#history;
    const certain = found.flatMap((matching) => (matching.length === 1 ? matching : []));
    for (const id of certain) {
      const covers = found.every((_, index) => model.candidates(first + index).includes(id));
      const undecided = model.candidates(first).length > 1;
      if (id === 0 || !covers || !undecided) continue;
      const older = certain.find((other) => other !== id && !model.mayFollow(other, id));
      if (older === undefined) continue;
      this.result.torn += 1;
      this.#report(
        `block at ${offset} is torn between ${describe(id)} and the older ${describe(older)}`,
      );
      return;
    }
  }

  #report(problem: string): void {
    if (this.result.problems.length < maxProblems) this.result.problems.push(problem);
  }
}

function matches(content: SectorContent, id: number): boolean {
  if (content.kind === 'zero') return id <= 0;
  return content.kind === 'write' && content.sequence === id;
}

function describeContent(content: SectorContent): string {
  if (content.kind === 'garbage') return content.reason;
  return content.kind === 'zero' ? 'zeros' : `write ${content.sequence}`;
}

function describe(id: number): string {
  if (id === 0) return 'zeros (never written)';
  return id < 0 ? `zeros by write ${-id}` : `write ${id}`;
}
