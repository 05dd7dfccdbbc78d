import { command, commandFlag, errno, transmissionFlag, type RequestFields } from 'nbd-client-js';

/** What is to be done for a request of the kernel; all but `refuse` and `end` wait for the volume. */
export type KernelStep =
  | { kind: 'read' }
  | { kind: 'write'; fua: boolean }
  | { kind: 'zero'; keepAllocated: boolean; fua: boolean }
  | { kind: 'flush' }
  | { kind: 'refuse'; errno: number }
  /** the kernel says goodbye */
  | { kind: 'end' };

const always = transmissionFlag.hasFlags | transmissionFlag.sendFlush;
/** What was discarded reads as zeros, as of a fuse-loop device: whoever discards may count on it. */
const ifZeroes = transmissionFlag.sendTrim | transmissionFlag.sendWriteZeroes;

/** A volume as the kernel's NBD sees it: what it is told of it, and what its requests mean. */
export class KernelDisk {
  readonly readOnly: boolean;
  /** `transmissionFlag` bits that the kernel is told */
  readonly flags: number;
  #sizeBytes: number;

  constructor(
    { sizeBytes, readOnly }: { sizeBytes: number; readOnly: boolean },
    serverFlags: number,
  ) {
    this.#sizeBytes = sizeBytes;
    this.readOnly = readOnly;
    // All connections of the kernel lead to one volume: what one has answered, another makes durable.
    this.flags =
      always |
      transmissionFlag.canMultiConn |
      (serverFlags & transmissionFlag.sendFua) |
      ((serverFlags & transmissionFlag.sendWriteZeroes) !== 0 ? ifZeroes : 0) |
      (readOnly ? transmissionFlag.readOnly : 0);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  grow(sizeBytes: number): void {
    this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes);
  }

  step({ type, flags, offset, length }: RequestFields): KernelStep {
    if (type === command.disconnect) return { kind: 'end' };
    if (type === command.flush) return { kind: 'flush' };
    const isKnown =
      type === command.read ||
      type === command.write ||
      type === command.trim ||
      type === command.writeZeroes;
    if (!isKnown || length === 0) return { kind: 'refuse', errno: errno.EINVAL };
    if (type === command.read) {
      return this.#isInside(offset, length)
        ? { kind: 'read' }
        : { kind: 'refuse', errno: errno.EINVAL };
    }
    if (this.readOnly) return { kind: 'refuse', errno: errno.EPERM };
    if (!this.#isInside(offset, length)) return { kind: 'refuse', errno: errno.ENOSPC };
    const fua = (flags & commandFlag.fua) !== 0;
    if (type === command.write) return { kind: 'write', fua };
    const keepAllocated = type === command.writeZeroes && (flags & commandFlag.noHole) !== 0;
    return { kind: 'zero', keepAllocated, fua };
  }

  #isInside(offset: number, length: number): boolean {
    return offset + length <= this.#sizeBytes;
  }
}
