import type { Logger } from '@stor/runtime';
import { deviceErrno } from '../core/device-errno.ts';
import { maxTransferBytes, type FuseDisk, type FuseStep } from '../core/fuse-disk.ts';
import { linuxErrno, pageBytes } from '../core/fuse-numbers.ts';
import { dataReplyHeader, emptyReply, errorReply, writeReply } from '../core/fuse-replies.ts';
import { decodeFuseRequest, type FuseRequest } from '../core/fuse-requests.ts';
import { RequestBudget } from '../core/request-budget.ts';
import type { ChannelError, FuseChannel } from './fuse-channel.ts';

/** The volume, as a device uses it. Errors are those of `ReconnectingNbdClient`. */
export interface DeviceVolume {
  read(offset: number, length: number): Promise<Buffer>;
  /** `bytes` must not change until it has settled. */
  write(offset: number, bytes: Buffer): Promise<void>;
  zero(offset: number, length: number, options: { keepAllocated: boolean }): Promise<void>;
  /** Everything answered before is durable then. */
  flush(): Promise<void>;
}

export interface FuseServerLimits {
  /** reads of the channel that wait at once; each has a thread of the pool to itself */
  readers: number;
  /** requests that are not answered; above it none are read */
  unanswered: number;
  /** the same for the bytes that they hold */
  unansweredBytes: number;
}

export const defaultFuseLimits: Readonly<FuseServerLimits> = {
  // the kernel wakes one for each request: so many come in within one turn
  readers: 4,
  // the kernel sends 64 of those that nobody waits for; the rest is for callers that wait, like stat()
  unanswered: 256,
  // 64 of the largest, and as much again
  unansweredBytes: 128 * 1024 * 1024,
};

/** A request is read as a whole: the largest write, with its headers (bytes). */
const requestBytes = maxTransferBytes + pageBytes;
/** The data of a write up to this size are copied, so that they do not hold a large buffer (bytes). */
const copiedBytes = 64 * 1024;
/** Buffers that are kept for the next large writes. */
const mostSpares = 16;

/** Errors of reading after which the next one is as good as this: see fuse_dev_do_read in Linux. */
const passingErrors: readonly (string | undefined)[] = ['EINTR', 'EAGAIN', 'ENOENT'];

interface Taken {
  request: FuseRequest;
  /** of a write */
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
  readonly #limits: FuseServerLimits;
  readonly #budget: RequestBudget;
  readonly #spares: Buffer[] = [];
  /** readers that wait for room */
  #paused: Buffer[] = [];
  #readers = 0;
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
    this.#limits = { ...defaultFuseLimits, ...parts.limits };
    this.#budget = new RequestBudget(this.#limits.unanswered, this.#limits.unansweredBytes);
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** Once, when the file system is mounted. */
  start(): void {
    this.#readers = this.#limits.readers;
    for (let n = 0; n < this.#limits.readers; n += 1) this.#read(newBuffer());
  }

  #read(buffer: Buffer): void {
    this.#channel.read(buffer, (error, length) => {
      if (error) {
        this.#readFailed(error, buffer);
        return;
      }
      const next = this.#receive(buffer, length);
      if (this.#budget.hasRoom) this.#read(next);
      else this.#paused.push(next);
    });
  }

  #readFailed(error: ChannelError, buffer: Buffer): void {
    if (passingErrors.includes(error.code)) {
      this.#read(buffer);
      return;
    }
    // ENODEV: unmounted; whatever else it is, nothing comes any more
    if (error.code !== 'ENODEV') {
      this.#logger.error({ error: error.message }, 'requests of the kernel cannot be read');
    }
    this.#readers -= 1;
    this.#endIfOver();
  }

  #endIfOver(): void {
    if (this.#readers === 0 && this.#budget.requests === 0) this.#resolveEnded();
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
    const heldBytes = step.kind === 'read' ? step.length : 0;
    const payload = Buffer.alloc(0);
    return { next: buffer, taken: { request, payload, heldBytes, buffer: null } };
  }

  /** Never rejects. */
  async #perform(
    step: Exclude<FuseStep, { kind: 'reply' | 'none' }>,
    { request, payload, heldBytes, buffer }: Taken,
  ): Promise<void> {
    const { unique } = request;
    let answer: Buffer[];
    try {
      if (step.kind === 'read') {
        const data = await this.#volume.read(step.offset, step.length);
        answer = [dataReplyHeader(unique, data.length), data];
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
      answer = [errorReply(unique, deviceErrno(error) || linuxErrno.EIO)];
    }
    this.#answer(answer);
    if (buffer && this.#spares.length < mostSpares) this.#spares.push(buffer);
    this.#budget.give(heldBytes);
    if (this.#budget.hasRoom) for (const paused of this.#paused.splice(0)) this.#read(paused);
    this.#endIfOver();
  }

  #answer(parts: readonly Buffer[]): void {
    try {
      this.#channel.write(parts);
    } catch (error) {
      const { code, message } = error as ChannelError;
      // whoever asked is gone, or the file system is
      if (code === 'ENOENT' || code === 'ENODEV') return;
      this.#logger.error({ error: message }, 'the kernel did not take an answer');
    }
  }
}

function newBuffer(): Buffer {
  return Buffer.allocUnsafeSlow(requestBytes);
}
