import type { AckHistory } from './ack-history.ts';
import { recogniseSector, sectorBytes } from './stamp.ts';

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
    const found: (number | null)[] = [];
    for (let index = 0; index < sectorsPerBlock; index += 1) {
      const sector = first + index;
      this.result.sectors += 1;
      const home = offset / sectorBytes + index;
      const content = recogniseSector(bytes, at + index * sectorBytes, home, seed);
      const candidates = model.candidates(sector);
      const id =
        content.kind === 'garbage'
          ? null
          : (candidates.findLast((candidate) =>
              content.kind === 'zero' ? candidate <= 0 : candidate === content.sequence,
            ) ?? null);
      if (content.kind === 'write') this.result.stamped += 1;
      found.push(id);
      if (id === null) {
        this.result.wrong += 1;
        const seen =
          content.kind === 'garbage'
            ? content.reason
            : content.kind === 'zero'
              ? 'zeros'
              : `write ${content.sequence}`;
        this.#report(
          `sector ${home} (offset ${home * sectorBytes}) holds ${seen}; allowed: ${candidates.map(describe).join(' or ')}`,
        );
      }
    }
    this.#checkWhole(offset, first, found);
    found.forEach((id, index) => {
      if (id !== null) model.observe(first + index, id);
    });
  }

  /** A write that covered the block whole is there whole, unless a later one hides a part (I10). */
  #checkWhole(offset: number, first: number, found: (number | null)[]): void {
    const { model } = this.#history;
    for (const id of found) {
      if (id === null || id === 0) continue;
      const covers = found.every((_, index) => model.candidates(first + index).includes(id));
      const undecided = model.candidates(first).length > 1;
      if (!covers || !undecided) continue;
      const older = found.find(
        (other) => other !== null && other !== id && !model.mayFollow(other, id),
      );
      if (older === undefined) continue;
      this.result.torn += 1;
      this.#report(
        `block at ${offset} is torn between ${describe(id)} and the older ${describe(older ?? 0)}`,
      );
      return;
    }
  }

  #report(problem: string): void {
    if (this.result.problems.length < maxProblems) this.result.problems.push(problem);
  }
}

function describe(id: number): string {
  if (id === 0) return 'zeros (never written)';
  return id < 0 ? `zeros by write ${-id}` : `write ${id}`;
}
