import { closeSync, existsSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { sectorBytes } from '../../verify/stamp.ts';

const blockBytes = 4096;
const pieceBlocks = 256;
const sumBytes = 4;
const magic = Buffer.from('StorVrfy');

/** A stamped block of a replica: where it lies in `data`, and which block of the volume it is. */
interface Place {
  linear: number;
  block: number;
}

/**
 * Flips bits in the files of one replica while its agent runs. Both see the same page cache, so the
 * agent reads what was flipped at once, and the disk has it when the page is written back.
 */
export class BitFlipper {
  readonly #data: number;
  readonly #sums: number;
  readonly #random: () => number;

  constructor(diskPath: string, replicaId: string, random: () => number) {
    const folder = join(diskPath, 'lineages', replicaId);
    if (!existsSync(join(folder, 'data'))) throw new Error(`there is no replica in ${folder}`);
    this.#data = openSync(join(folder, 'data'), 'r+');
    this.#sums = openSync(join(folder, 'sums'), 'r+');
    this.#random = random;
  }

  close(): void {
    closeSync(this.#data);
    closeSync(this.#sums);
  }

  /** All blocks that the verifying writer has stamped. */
  places(): Place[] {
    const { size } = fstatSync(this.#data);
    const found: Place[] = [];
    const piece = Buffer.alloc(pieceBlocks * blockBytes);
    for (let at = 0; at < size; at += piece.length) {
      const length = readSync(this.#data, piece, 0, piece.length, at);
      for (let from = 0; from + blockBytes <= length; from += blockBytes) {
        if (!piece.subarray(from, from + magic.length).equals(magic)) continue;
        const sector = Number(piece.readBigUInt64BE(from + 16));
        const block = (sector * sectorBytes) / blockBytes;
        if (Number.isInteger(block)) found.push({ linear: (at + from) / blockBytes, block });
      }
    }
    return found;
  }

  /**
   * Flips a bit of the bytes (`data`) or of the checksum (`sums`) of so many blocks that `mayFlip`
   * accepts; returns which blocks of the volume they are.
   */
  flip(what: 'data' | 'sums', count: number, mayFlip: (block: number) => boolean): number[] {
    const places = this.places().filter(({ block }) => mayFlip(block));
    const flipped: number[] = [];
    while (flipped.length < count && places.length > 0) {
      const [place] = places.splice(Math.floor(this.#random() * places.length), 1);
      if (!place) break;
      const { linear, block } = place;
      if (what === 'data') {
        this.#flipAt(this.#data, linear * blockBytes + Math.floor(this.#random() * blockBytes));
      } else this.#flipAt(this.#sums, linear * sumBytes + Math.floor(this.#random() * sumBytes));
      flipped.push(block);
    }
    return flipped;
  }

  #flipAt(file: number, at: number): void {
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, at);
    byte[0] = (byte[0] ?? 0) ^ (1 << Math.floor(this.#random() * 8));
    writeSync(file, byte, 0, 1, at);
  }
}
