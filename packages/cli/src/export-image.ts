import { createHash, type Hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { StorError } from '@stor/protocol';
import { zeroRuns } from './core/zero-runs.ts';
import type { NbdSession } from './nbd-session.ts';
import { transferPieceBytes, transferPieces, type TransferResult } from './transfer.ts';

/** One BLOCK_STATUS asks about this much: the answer has a bounded number of extents anyway. */
const statusBytes = 1024 * 1024 * 1024;
const zeroPiece = Buffer.alloc(transferPieceBytes);

/**
 * Copies a volume into an empty file: ranges that the server reports as zeros are not read and
 * stay holes. Durable (fsync) when resolved.
 */
export async function exportImage(options: {
  file: FileHandle;
  session: NbdSession;
  signal: AbortSignal;
  sha256: boolean;
  onProgress: (doneBytes: number) => void;
}): Promise<TransferResult> {
  const { file, session, signal } = options;
  const hash = options.sha256 ? createHash('sha256') : null;
  const reads: { offset: number; length: number; bytes: Promise<Uint8Array> }[] = [];
  const result = { bytes: session.sizeBytes, dataBytes: 0, zeroBytes: 0 };
  await file.truncate(session.sizeBytes);
  /** Takes the oldest read: the hash needs the pieces in order. */
  const takeOldest = async () => {
    const read = reads.shift();
    if (read === undefined) return;
    const bytes = await read.bytes;
    if (bytes.length !== read.length) {
      throw new StorError('PROTOCOL', `the server sent ${bytes.length} of ${read.length} bytes`);
    }
    hash?.update(bytes);
    result.dataBytes += await writeSparse(file, read.offset, bytes);
    options.onProgress(read.offset + read.length);
  };
  try {
    for await (const extent of extentsOf(session, signal)) {
      if (extent.zero) {
        while (reads.length > 0) await takeOldest();
        if (hash !== null) hashZeros(hash, extent.length);
        options.onProgress(extent.offset + extent.length);
        continue;
      }
      const end = extent.offset + extent.length;
      for (let offset = extent.offset; offset < end; offset += transferPieceBytes) {
        signal.throwIfAborted();
        const length = Math.min(transferPieceBytes, end - offset);
        const bytes = session.read(offset, length);
        // When an earlier read fails nobody waits for this one.
        bytes.catch(() => {});
        reads.push({ offset, length, bytes });
        if (reads.length >= transferPieces) await takeOldest();
      }
    }
    while (reads.length > 0) await takeOldest();
  } finally {
    await Promise.allSettled(reads.map((read) => read.bytes));
  }
  await file.sync();
  result.zeroBytes = result.bytes - result.dataBytes;
  return { ...result, sha256: hash?.digest('hex') ?? null };
}

/** Extents that cover the volume in order, neighbours of one kind joined up to `statusBytes`. */
async function* extentsOf(
  session: NbdSession,
  signal: AbortSignal,
): AsyncGenerator<{ offset: number; length: number; zero: boolean }> {
  let offset = 0;
  while (offset < session.sizeBytes) {
    signal.throwIfAborted();
    const asked = Math.min(statusBytes, session.sizeBytes - offset);
    const start = offset;
    for (const extent of await session.blockStatus(offset, asked)) {
      // The last extent may reach beyond what was asked for (NBD specification, BLOCK_STATUS).
      const length = Math.min(extent.length, start + asked - offset);
      if (length <= 0) break;
      yield { offset, length, zero: extent.zero };
      offset += length;
    }
    if (offset === start) {
      throw new StorError('PROTOCOL', `the server reports no extent at byte ${offset}`);
    }
  }
}

/** Writes what is not zero; returns how many bytes that were. */
async function writeSparse(file: FileHandle, offset: number, bytes: Uint8Array): Promise<number> {
  let written = 0;
  for (const run of zeroRuns(bytes, bytes.length)) {
    if (run.zero) continue;
    for (let at = 0; at < run.length;) {
      const start = run.start + at;
      const { bytesWritten } = await file.write(bytes, start, run.length - at, offset + start);
      at += bytesWritten;
    }
    written += run.length;
  }
  return written;
}

function hashZeros(hash: Hash, length: number): void {
  for (let left = length; left > 0; left -= transferPieceBytes) {
    hash.update(zeroPiece.subarray(0, Math.min(left, transferPieceBytes)));
  }
}
