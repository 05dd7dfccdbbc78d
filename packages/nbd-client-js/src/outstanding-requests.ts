import { command, errnoName, type HeaderForm } from './core/constants.ts';
import type { Coverage } from './core/coverage.ts';
import type { ReplyHandler, StatusDescriptor } from './core/reply-decoder.ts';
import { NbdError } from './nbd-error.ts';

/** Separate pieces of one read that a server may leave open before it fills the gaps. */
const maxReadPieces = 4096;

/** A range of an export and its flags in one metadata context. */
export interface StatusExtent {
  offset: number;
  length: number;
  flags: number;
}

/** One request whose answer has not come yet. */
export interface OutstandingRequest {
  readonly type: number;
  readonly offset: number;
  readonly length: number;
  /** where the data of a read goes; null once the caller has given up, so that it is dropped */
  target: Buffer | null;
  coverage: Coverage | null;
  /** a read whose answer must be one chunk */
  readonly df: boolean;
  errno: number;
  message: string;
  /** where it failed, when the server says it */
  errorOffset: number | null;
  /** ids of the contexts that a block status asks for */
  readonly contextIds: readonly number[];
  /** answers to it by context id */
  statuses: Map<number, StatusExtent[]> | null;
  settle(error: NbdError | null): void;
}

/** Answers requests from the decoder's events, and refuses what a server may not send. */
export class OutstandingRequests implements ReplyHandler {
  readonly #requests = new Map<number, OutstandingRequest>();
  readonly #form: HeaderForm;

  constructor(form: HeaderForm) {
    this.#form = form;
  }

  get count(): number {
    return this.#requests.size;
  }

  add(cookie: number, request: OutstandingRequest): void {
    this.#requests.set(cookie, request);
  }

  /** The connection is gone: nobody will be answered. */
  failAll(error: NbdError): void {
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const request of requests) request.settle(error);
  }

  simple(cookie: number, errno: number): { offset: number; length: number } | null {
    const request = this.#get(cookie);
    const isRead = request.type === command.read;
    if (isRead && this.#form !== 'simple') throw broken('a simple reply to a read');
    if (request.type === command.blockStatus) throw broken('a simple reply to a block status');
    request.errno = errno;
    if (!isRead || errno !== 0) return null;
    request.coverage?.add(request.offset, request.offset + request.length);
    return { offset: request.offset, length: request.length };
  }

  extendedChunk(cookie: number, offset: number): void {
    if (offset !== this.#get(cookie).offset) throw broken('a reply with the offset of another');
  }

  dataChunk(cookie: number, offset: number, length: number): void {
    this.#cover(this.#get(cookie), offset, length);
  }

  data(cookie: number, offset: number, bytes: Buffer, start: number, end: number): void {
    const request = this.#get(cookie);
    if (request.target) bytes.copy(request.target, offset - request.offset, start, end);
  }

  hole(cookie: number, offset: number, length: number): void {
    const request = this.#get(cookie);
    this.#cover(request, offset, length);
    request.target?.fill(0, offset - request.offset, offset - request.offset + length);
  }

  status(cookie: number, contextId: number, descriptors: StatusDescriptor[]): void {
    const request = this.#get(cookie);
    if (!request.statuses || !request.contextIds.includes(contextId)) {
      throw broken('a block status that was not asked for');
    }
    if (request.statuses.has(contextId)) throw broken('two block statuses of one context');
    let offset = request.offset;
    const extents = descriptors.map(({ length, flags }) => {
      const extent = { offset, length, flags };
      offset += length;
      return extent;
    });
    request.statuses.set(contextId, extents);
  }

  error(cookie: number, errno: number, message: string, offset: number | null): void {
    const request = this.#get(cookie);
    const end = request.offset + request.length;
    if (offset !== null && (offset < request.offset || offset >= end)) {
      throw broken('an error outside the request');
    }
    // the first of several says most
    if (request.errno !== 0) return;
    request.errno = errno;
    request.message = message;
    request.errorOffset = offset;
  }

  finished(cookie: number): void {
    const request = this.#get(cookie);
    const end = request.offset + request.length;
    if (request.errno === 0) {
      if (request.coverage && !request.coverage.covers(request.offset, end)) {
        throw broken('a read that was not answered in full');
      }
      if (request.statuses?.size === 0) throw broken('a block status without an answer');
    }
    this.#requests.delete(cookie);
    request.settle(request.errno === 0 ? null : replyError(request));
  }

  #get(cookie: number): OutstandingRequest {
    const request = this.#requests.get(cookie);
    if (!request) throw broken('a reply to no request');
    return request;
  }

  #cover(request: OutstandingRequest, offset: number, length: number): void {
    const inside =
      length > 0 && offset >= request.offset && offset + length <= request.offset + request.length;
    if (!request.coverage || !inside) throw broken('data that was not asked for');
    if (request.df && request.coverage.pieces > 0) throw broken('pieces in spite of DF');
    if (!request.coverage.add(offset, offset + length)) throw broken('the same data twice');
    if (request.coverage.pieces > maxReadPieces) throw broken('a read in too many pieces');
  }
}

const commandNames = new Map<number, string>(
  Object.entries(command).map(([name, value]) => [value, name]),
);

function replyError(request: OutstandingRequest): NbdError {
  const what = `${commandNames.get(request.type) ?? 'request'} of ${request.length} bytes at ${request.offset}`;
  const { errno, message, errorOffset: offset } = request;
  const where = offset === null ? '' : ` at ${offset}`;
  const why = message === '' ? '' : `: ${message}`;
  return new NbdError('IO', `${what} failed${where} with ${errnoName(errno)}${why}`, {
    errno,
    offset,
  });
}

function broken(what: string): NbdError {
  return new NbdError('PROTOCOL', `the server broke the NBD protocol: ${what}`);
}
