import type { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest } from '@stor/replicator';
import type { SharedBytes } from '@stor/runtime';

export type RequestKind = 'read' | 'write' | 'writeZeroes' | 'trim' | 'flush';

/** A request that outlives the call that brought it: its payload is its own. */
export class KeptRequest implements BlockRequest {
  readonly kind: RequestKind;
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array | null;
  readonly start: number;
  readonly retained = true;
  readonly memory: SharedBytes | null;
  readonly fua: boolean;
  readonly noHole: boolean;
  readonly #of: BlockRequest;

  private constructor(kind: RequestKind, of: BlockRequest) {
    this.kind = kind;
    this.offset = of.offset;
    this.length = of.length;
    this.fua = of.fua;
    this.noHole = of.noHole;
    this.memory = of.memory ?? null;
    this.#of = of;
    const isBorrowed = kind === 'write' && !of.retained && of.bytes !== null;
    this.bytes = isBorrowed ? copyOf(of) : of.bytes;
    this.start = isBorrowed ? 0 : of.start;
  }

  /** One that is kept already stays the same. */
  static of(kind: RequestKind, request: BlockRequest): KeptRequest {
    return request instanceof KeptRequest ? request : new KeptRequest(kind, request);
  }

  /** Where a write's payload is, or where a read's data go. */
  get payload(): Uint8Array {
    return (this.bytes ?? new Uint8Array(0)).subarray(this.start, this.start + this.length);
  }

  startOn(device: BlockDevice): void {
    device[this.kind](this);
  }

  done(error: StorError | null): void {
    this.#of.done(error);
  }
}

function copyOf(request: BlockRequest): Buffer {
  const copy = Buffer.allocUnsafe(request.length);
  if (request.bytes) {
    copy.set(request.bytes.subarray(request.start, request.start + request.length));
  }
  return copy;
}
