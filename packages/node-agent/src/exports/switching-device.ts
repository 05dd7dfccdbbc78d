import type { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest, Extent } from '@stor/replicator';
import { KeptRequest } from './kept-request.ts';

type ExtentsDone = (error: StorError | null, extents: Extent[]) => void;
type Held = { startOn(device: BlockDevice): void; done(error: StorError): void };

/**
 * What one connection sees as its volume while the device behind it changes: between two of them
 * requests are held, in the order of their arrival. As many as one connection may have in flight,
 * so nothing here needs a bound of its own.
 */
export class SwitchingDevice implements BlockDevice {
  readonly sizeBytes: number;
  #target: BlockDevice | null = null;
  #failure: StorError | null = null;
  #held: Held[] = [];

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  get heldCount(): number {
    return this.#held.length;
  }

  get isFull(): boolean {
    return this.#target?.isFull === true;
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    return this.#target !== null && this.#target.readInline(offset, length, target, start);
  }
  holeBytes(offset: number, length: number): number {
    return this.#target?.holeBytes?.(offset, length) ?? 0;
  }
  read(request: BlockRequest): void {
    if (this.#target) this.#target.read(request);
    else this.#hold(KeptRequest.of('read', request));
  }
  write(request: BlockRequest): void {
    if (this.#target) this.#target.write(request);
    else this.#hold(KeptRequest.of('write', request));
  }
  writeZeroes(request: BlockRequest): void {
    if (this.#target) this.#target.writeZeroes(request);
    else this.#hold(KeptRequest.of('writeZeroes', request));
  }
  trim(request: BlockRequest): void {
    if (this.#target) this.#target.trim(request);
    else this.#hold(KeptRequest.of('trim', request));
  }
  flush(request: BlockRequest): void {
    if (this.#target) this.#target.flush(request);
    else this.#hold(KeptRequest.of('flush', request));
  }
  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    this.ask<Extent>((device, answer) => {
      device.extents(offset, length, limit, answer);
    }, done);
  }

  /** What changes nothing: asked of the device that there is, and again of the next one when it ends. */
  ask<T>(
    start: (device: BlockDevice, answer: (error: StorError | null, extents: T[]) => void) => void,
    done: (error: StorError | null, extents: T[]) => void,
  ): void {
    const target = this.#target;
    if (!target) {
      this.#hold({
        startOn: () => {
          this.ask(start, done);
        },
        done: (error) => {
          done(error, []);
        },
      });
      return;
    }
    start(target, (error, extents) => {
      if (error && !this.#failure && this.#target !== target) this.ask(start, done);
      else done(error, extents);
    });
  }

  /** From now on requests wait. Those that were started go on. */
  hold(): void {
    this.#target = null;
  }

  /** Requests that were started and neither answered nor done: they come before all that wait. */
  putBack(requests: readonly KeptRequest[]): void {
    if (this.#failure) for (const request of requests) request.done(this.#failure);
    else this.#held = [...requests, ...this.#held];
  }

  /** What waits is started in the order of its arrival, then everything goes straight on. */
  start(target: BlockDevice): void {
    if (this.#failure) return;
    this.#target = target;
    const held = this.#held;
    this.#held = [];
    for (const [at, request] of held.entries()) {
      // the device may be lost again while it takes them
      if (this.#target !== target) {
        this.#held = [...held.slice(at), ...this.#held];
        return;
      }
      request.startOn(target);
    }
  }

  /** For good: what waits is answered with the error and never begins, and so is all that comes. */
  fail(error: StorError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#target = null;
    for (const request of this.#held.splice(0)) request.done(error);
  }

  #hold(request: Held): void {
    if (this.#failure) request.done(this.#failure);
    else this.#held.push(request);
  }
}
