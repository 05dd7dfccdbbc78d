import type { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest, Extent } from '@stor/replicator';

const pageBytes = 64 * 1024;

export type MemoryOperation = 'read' | 'write' | 'writeZeroes' | 'trim' | 'flush' | 'extents';

/** What a test wants of the next operations. */
export interface MemoryBehaviour {
  /** null answers during the call; a function gets the rest of the work and runs it when it likes */
  delay: ((operation: MemoryOperation, finish: () => void) => void) | null;
  /** the error to answer with, before anything is changed */
  fail: ((operation: MemoryOperation, request: BlockRequest | null) => StorError | null) | null;
  /** false: every read takes the slow way */
  readInline: boolean;
  /** false: it never knows at once what is a hole */
  knowsHoles: boolean;
}

/** A sparse block device in memory; it counts what it is asked. */
export class MemoryBlockDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly behaviour: MemoryBehaviour = {
    delay: null,
    fail: null,
    readInline: true,
    knowsHoles: true,
  };
  readonly calls: Record<MemoryOperation | 'readInline', number> = {
    readInline: 0,
    read: 0,
    write: 0,
    writeZeroes: 0,
    trim: 0,
    flush: 0,
    extents: 0,
  };
  /** calls that wanted durability by themselves */
  fuaCalls = 0;
  /** write calls that keep zeros allocated */
  noHoleCalls = 0;
  /** requests given and not finished */
  pending = 0;
  readonly #pages = new Map<number, Buffer>();

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (!this.behaviour.readInline || this.behaviour.delay || this.behaviour.fail) return false;
    this.calls.readInline += 1;
    this.#copyOut(offset, length, target, start);
    return true;
  }

  holeBytes(offset: number, length: number): number {
    if (!this.behaviour.knowsHoles || this.behaviour.delay) return 0;
    const [first] = this.#extents(offset, length, 1);
    return first && !first.allocated ? first.length : 0;
  }

  read(request: BlockRequest): void {
    const { offset, length, start } = request;
    const target = bytesOf(request);
    this.#run('read', request, () => {
      this.#copyOut(offset, length, target, start);
    });
  }

  write(request: BlockRequest): void {
    const { offset, length, start } = request;
    const bytes = bytesOf(request);
    // the payload is valid only during the call unless it says otherwise
    const payload =
      this.behaviour.delay && !request.retained
        ? Buffer.from(bytes.subarray(start, start + length))
        : bytes.subarray(start, start + length);
    this.#run('write', request, () => {
      this.#copyIn(offset, payload);
    });
  }

  writeZeroes(request: BlockRequest): void {
    const { offset, length, noHole } = request;
    if (noHole) this.noHoleCalls += 1;
    this.#run('writeZeroes', request, () => {
      if (noHole) this.#copyIn(offset, Buffer.alloc(length));
      else this.#clear(offset, length);
    });
  }

  trim(request: BlockRequest): void {
    const { offset, length } = request;
    this.#run('trim', request, () => {
      this.#clear(offset, length);
    });
  }

  flush(request: BlockRequest): void {
    this.#run('flush', request, () => {});
  }

  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    this.calls.extents += 1;
    this.pending += 1;
    const error = this.behaviour.fail?.('extents', null) ?? null;
    const finish = (): void => {
      this.pending -= 1;
      done(error, error ? [] : this.#extents(offset, length, limit));
    };
    if (this.behaviour.delay) this.behaviour.delay('extents', finish);
    else finish();
  }

  #run(operation: MemoryOperation, request: BlockRequest, work: () => void): void {
    this.calls[operation] += 1;
    if (request.fua) this.fuaCalls += 1;
    if (request.offset < 0 || request.offset + request.length > this.sizeBytes) {
      throw new Error(`${operation} outside the device`);
    }
    this.pending += 1;
    const error = this.behaviour.fail?.(operation, request) ?? null;
    const finish = (): void => {
      if (!error) work();
      this.pending -= 1;
      request.done(error);
    };
    if (this.behaviour.delay) this.behaviour.delay(operation, finish);
    else finish();
  }

  #copyOut(offset: number, length: number, target: Uint8Array, start: number): void {
    for (let at = 0; at < length;) {
      const inPage = (offset + at) % pageBytes;
      const part = Math.min(length - at, pageBytes - inPage);
      const page = this.#pages.get((offset + at - inPage) / pageBytes);
      if (page) target.set(page.subarray(inPage, inPage + part), start + at);
      else target.fill(0, start + at, start + at + part);
      at += part;
    }
  }

  #copyIn(offset: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const inPage = (offset + at) % pageBytes;
      const part = Math.min(bytes.length - at, pageBytes - inPage);
      const number = (offset + at - inPage) / pageBytes;
      let page = this.#pages.get(number);
      if (!page) {
        page = Buffer.alloc(pageBytes);
        this.#pages.set(number, page);
      }
      page.set(bytes.subarray(at, at + part), inPage);
      at += part;
    }
  }

  #clear(offset: number, length: number): void {
    for (let at = 0; at < length;) {
      const inPage = (offset + at) % pageBytes;
      const part = Math.min(length - at, pageBytes - inPage);
      const number = (offset + at - inPage) / pageBytes;
      if (part === pageBytes) this.#pages.delete(number);
      else this.#pages.get(number)?.fill(0, inPage, inPage + part);
      at += part;
    }
  }

  #extents(offset: number, length: number, limit: number): Extent[] {
    const extents: Extent[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min(at - (at % pageBytes) + pageBytes, offset + length);
      const allocated = this.#pages.has(Math.floor(at / pageBytes));
      const last = extents.at(-1);
      if (last && last.allocated === allocated) last.length += end - at;
      else if (extents.length === limit) break;
      else extents.push({ offset: at, length: end - at, allocated });
      at = end;
    }
    return extents;
  }
}

function bytesOf(request: BlockRequest): Uint8Array {
  if (!request.bytes) throw new Error('a request without bytes');
  return request.bytes;
}
