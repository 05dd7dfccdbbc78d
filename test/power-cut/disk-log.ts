import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import type { SeededRandom } from '../../packages/runtime/src/testing/index.ts';

const pageBytes = 4096;
const sectorBytes = 512;

type Write = { offset: number; bytes: Buffer; fua: boolean };

/**
 * What reached a disk, in order: writes with their content, and where the disk was told to make all of
 * them durable. From it the disk can be made as a power cut at any moment may have left it.
 */
export class DiskLog {
  readonly sizeBytes: number;
  readonly #writes: Write[] = [];
  /** how many writes had been answered when a flush was */
  readonly #flushes: number[] = [];
  readonly #now = new Map<number, Buffer>();

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  /** number of writes so far: a moment in the life of the disk */
  get position(): number {
    return this.#writes.length;
  }

  get flushes(): readonly number[] {
    return this.#flushes;
  }

  write(offset: number, bytes: Buffer, fua: boolean): void {
    this.#writes.push({ offset, bytes: Buffer.from(bytes), fua });
    apply(this.#now, offset, bytes);
  }

  flush(): void {
    if (this.#flushes.at(-1) !== this.position) this.#flushes.push(this.position);
  }

  read(target: Buffer, offset: number): void {
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      const within = at % pageBytes;
      const length = Math.min(pageBytes - within, target.length - done);
      const page = this.#now.get(Math.floor(at / pageBytes));
      if (page) page.copy(target, done, within, within + length);
      else target.fill(0, done, done + length);
      done += length;
    }
  }

  /**
   * An image of the disk after a power cut at `position`: everything that was flushed before, and of
   * the later writes any part, in any order, torn at sectors or at pages.
   */
  cut(path: string, position: number, random: SeededRandom): void {
    const flushed = this.#flushes.findLast((at) => at <= position) ?? 0;
    const pages = new Map<number, Buffer>();
    for (const { offset, bytes } of this.#writes.slice(0, flushed)) apply(pages, offset, bytes);
    const later = this.#writes.slice(flushed, position);
    // all of them, none of them, or some of them
    const share = [0, 1, 0.1, 0.5, 0.9][Math.floor(random.next() * 5)] ?? 1;
    for (const { offset, bytes, fua } of later) {
      if (fua || random.next() < share) apply(pages, offset, bytes);
      else if (random.next() < 0.3) tear(pages, offset, bytes, random);
    }
    store(path, this.sizeBytes, pages);
  }
}

function apply(pages: Map<number, Buffer>, offset: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length;) {
    const at = offset + done;
    const index = Math.floor(at / pageBytes);
    const within = at % pageBytes;
    const length = Math.min(pageBytes - within, bytes.length - done);
    let page = pages.get(index);
    if (!page) pages.set(index, (page = Buffer.alloc(pageBytes)));
    bytes.copy(page, within, done, done + length);
    done += length;
  }
}

/** Some sectors of a write, or some pages. */
function tear(
  pages: Map<number, Buffer>,
  offset: number,
  bytes: Buffer,
  random: SeededRandom,
): void {
  const piece = random.next() < 0.5 ? sectorBytes : pageBytes;
  for (let at = 0; at < bytes.length; at += piece) {
    if (random.next() < 0.5) apply(pages, offset + at, bytes.subarray(at, at + piece));
  }
}

function store(path: string, sizeBytes: number, pages: ReadonlyMap<number, Buffer>): void {
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, sizeBytes);
    for (const [index, page] of pages) writeSync(fd, page, 0, pageBytes, index * pageBytes);
  } finally {
    closeSync(fd);
  }
}
