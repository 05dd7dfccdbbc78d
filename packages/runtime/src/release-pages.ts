import { createRequire } from 'node:module';
import type koffi from 'koffi';

/** MADV_DONTNEED (linux/mman.h) */
const dontNeed = 4;
/** Larger pages only make for less that is given back (bytes). */
const pageBytes = 4096;

interface MemoryCalls {
  madvise(address: Buffer, length: number, advice: number): number;
  addressOf(bytes: Buffer): bigint;
}

let loaded: MemoryCalls | null | undefined;

/** Null where there is no foreign function interface: memory stays where it is then. */
function memoryCalls(): MemoryCalls | null {
  if (loaded !== undefined) return loaded;
  try {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    const madvise = ffi
      .load('libc.so.6')
      .func('int madvise(void *address, size_t length, int advice)') as MemoryCalls['madvise'];
    loaded = { madvise, addressOf: (bytes) => ffi.address(bytes) };
  } catch {
    loaded = null;
  }
  return loaded;
}

/**
 * Gives the kernel back what lies under a buffer, of which nothing is needed any more: its whole pages are zeros
 * from now on, and memory again as they are written. Node cannot shrink a buffer, nor take one back that it has
 * promised to a socket's next read. False: nothing was given back.
 */
export function releasePages(bytes: Buffer): boolean {
  const calls = memoryCalls();
  if (!calls || bytes.length < 2 * pageBytes) return false;
  const skip = (pageBytes - Number(calls.addressOf(bytes) % BigInt(pageBytes))) % pageBytes;
  const length = Math.floor((bytes.length - skip) / pageBytes) * pageBytes;
  return calls.madvise(bytes.subarray(skip, skip + length), length, dontNeed) === 0;
}
