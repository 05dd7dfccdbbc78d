import type { Logger } from '@stor/runtime';
import { deviceErrno } from '../core/device-errno.ts';
import { maxTransferBytes, type FuseDisk, type FuseStep } from '../core/fuse-disk.ts';
import { linuxErrno, pageBytes } from '../core/fuse-numbers.ts';
import { dataReplyHeader, emptyReply, errorReply, writeReply } from '../core/fuse-replies.ts';
import { decodeFuseRequest, type FuseRequest } from '../core/fuse-requests.ts';
import { RequestBudget } from '../core/request-budget.ts';
import type { DeviceVolume } from './device-volume.ts';
import type { FuseChannel } from './fuse-channel.ts';

export interface FuseServerLimits {
  /** requests that are not answered; above it none are read */
  unanswered: number;
  /** the same for the bytes that they hold */
  unansweredBytes: number;
}

export const defaultFuseLimits: Readonly<FuseServerLimits> = {
  // the kernel sends 64 of those that nobody waits for; the rest is for callers that wait, like stat()
  unanswered: 256,
  // 64 of the largest, and as much again
  unansweredBytes: 128 * 1024 * 1024,
};

/** A request is read as a whole: the largest write, with its headers (bytes). */
const requestBytes = maxTransferBytes + pageBytes;
/** Data up to this size have a buffer of their own; larger ones share those that are kept (bytes). */
const copiedBytes = 64 * 1024;
/** Requests that are read in one turn, before the answers of others are looked at. */
const requestsPerTurn = 64;
/** Buffers that are kept for the next large reads and writes. */
const mostSpares = 16;

/** Errors of reading after which the next one is as good as this: see fuse_dev_do_read in Linux. */
const passingErrors: readonly string[] = ['EINTR', 'ENOENT'];

interface Taken {
  request: FuseRequest;
  /** of a write, or for a read */
  payload: Buffer;
  heldBytes: number;
  /** to be given back with the answer */
  buffer: Buffer | null;
}

/** Answers the kernel's requests for one file. Requests are answered in any order. */
export class FuseServer {
  readonly #channel: FuseChannel;
  readonly #disk: FuseDisk;
  readonly #volume: DeviceVolume;
  readonly #logger: Logger;
  readonly #budget: RequestBudget;
  readonly #spares: Buffer[] = [];
  /** where the next request is read to */
  #buffer = newBuffer();
  /** a thread waits for requests */
  #waits = false;
  /** they are read at the end of this turn */
  #isDue = false;
  /** nothing comes any more */
  #isOver = false;
  #resolveEnded: () => void = () => {};
  /** Resolves when the file system is unmounted and nothing is under way any more. */
  readonly ended: Promise<void>;

  constructor(parts: {
    channel: FuseChannel;
    disk: FuseDisk;
    volume: DeviceVolume;
    logger: Logger;
    limits?: Partial<FuseServerLimits>;
  }) {
    this.#channel = parts.channel;
    this.#disk = parts.disk;
    this.#volume = parts.volume;
    this.#logger = parts.logger;
    const { unanswered, unansweredBytes } = { ...defaultFuseLimits, ...parts.limits };
    this.#budget = new RequestBudget(unanswered, unansweredBytes);
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** Once, when the file system is mounted. */
  start(): void {
    this.#wait();
  }

  #wait(): void {
    if (this.#waits || this.#isOver) return;
    this.#waits = true;
    this.#channel.whenReadable(() => {
      this.#waits = false;
      this.#readAll();
    });
  }

  #readLater(): void {
    if (this.#isDue || this.#isOver) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      this.#readAll();
    });
  }

  /** What is there, as far as there is room; the answers that make room go on with it. */
  #readAll(): void {
    for (let n = 0; n < requestsPerTurn && !this.#isOver; n += 1) {
      if (!this.#budget.hasRoom) return;
      const length = this.#channel.readNow(this.#buffer);
      if (typeof length === 'number') this.#buffer = this.#receive(this.#buffer, length);
      else if (length === 'EAGAIN') {
        this.#wait();
        return;
      } else if (!passingErrors.includes(length)) this.#end(length);
    }
    this.#readLater();
  }

  #end(error: string): void {
    // ENODEV: unmounted; whatever else it is, nothing comes any more
    if (error !== 'ENODEV') this.#logger.error({ error }, 'requests of the kernel cannot be read');
    this.#isOver = true;
    this.#endIfOver();
  }

  #endIfOver(): void {
    if (this.#isOver && this.#budget.requests === 0) this.#resolveEnded();
  }

  /** Returns the buffer for the next one. */
  #receive(buffer: Buffer, length: number): Buffer {
    let request: FuseRequest;
    try {
      request = decodeFuseRequest(buffer.subarray(0, length));
    } catch (error) {
      this.#logger.error({ error: (error as Error).message }, 'a request was not understood');
      return buffer;
    }
    const step = this.#disk.step(request);
    if (step.kind === 'none') return buffer;
    if (step.kind === 'reply') {
      this.#answer([step.bytes]);
      return buffer;
    }
    const { next, taken } = this.#take(request, step, buffer);
    this.#budget.take(taken.heldBytes);
    void this.#perform(step, taken);
    return next;
  }

  #take(request: FuseRequest, step: FuseStep, buffer: Buffer): { next: Buffer; taken: Taken } {
    if (step.kind === 'write') {
      const payload = buffer.subarray(step.start, step.end);
      if (payload.length > copiedBytes) {
        const taken = { request, payload, heldBytes: buffer.length, buffer };
        return { next: this.#spares.pop() ?? newBuffer(), taken };
      }
      const own = Buffer.from(payload);
      return {
        next: buffer,
        taken: { request, payload: own, heldBytes: own.length, buffer: null },
      };
    }
    if (step.kind === 'read' && step.length > copiedBytes) {
      const large = this.#spares.pop() ?? newBuffer();
      const payload = large.subarray(0, step.length);
      return { next: buffer, taken: { request, payload, heldBytes: large.length, buffer: large } };
    }
    const payload = Buffer.allocUnsafe(step.kind === 'read' ? step.length : 0);
    return { next: buffer, taken: { request, payload, heldBytes: payload.length, buffer: null } };
  }

  /** Never rejects. */
  async #perform(
    step: Exclude<FuseStep, { kind: 'reply' | 'none' }>,
    { request, payload, heldBytes, buffer }: Taken,
  ): Promise<void> {
    const { unique } = request;
    let answer: Buffer[];
    let spare = buffer;
    try {
      if (step.kind === 'read') {
        await this.#volume.read(step.offset, payload);
        answer = [dataReplyHeader(unique, payload.length), payload];
      } else if (step.kind === 'write') {
        await this.#volume.write(step.offset, payload);
        answer = [writeReply(unique, payload.length)];
      } else if (step.kind === 'zero') {
        await this.#volume.zero(step.offset, step.length, { keepAllocated: step.keepAllocated });
        answer = [emptyReply(unique)];
      } else {
        await this.#volume.flush();
        answer = [emptyReply(unique)];
      }
    } catch (error) {
      // a connection that is being closed may use it for a moment still
      spare = null;
      answer = [errorReply(unique, deviceErrno(error) || linuxErrno.EIO)];
    }
    this.#answer(answer);
    if (spare && this.#spares.length < mostSpares) this.#spares.push(spare);
    this.#budget.give(heldBytes);
    // whoever was answered has often something more to ask, and to be woken for it takes longer
    this.#readLater();
    this.#endIfOver();
  }

  #answer(parts: readonly Buffer[]): void {
    try {
      this.#channel.write(parts);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // whoever asked is gone, or the file system is
      if (code === 'ENOENT' || code === 'ENODEV') return;
      this.#logger.error({ error: message }, 'the kernel did not take an answer');
    }
  }
}

function newBuffer(): Buffer {
  return Buffer.allocUnsafeSlow(requestBytes);
}
