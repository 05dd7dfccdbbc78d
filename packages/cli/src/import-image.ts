import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { StorError } from '@stor/protocol';
import { BoundedTasks } from './bounded-tasks.ts';
import { zeroRuns } from './core/zero-runs.ts';
import type { NbdSession } from './nbd-session.ts';
import { transferPieceBytes, transferPieces, type TransferResult } from './transfer.ts';

/** Zeros are sent as one request of at most this many bytes: what NBD servers expect to take. */
const maxZeroBytes = 32 * 1024 * 1024;

/**
 * Copies a file to the start of a volume: data as pipelined writes, zeros as WRITE_ZEROES (so that
 * they take no space and stale data goes), then FLUSH. What lies behind the file's end stays.
 * Durable when resolved. Throws CONFLICT when the file changes its length meanwhile; after any
 * error the volume holds a part of the file.
 */
export async function importImage(options: {
  file: FileHandle;
  fileBytes: number;
  session: NbdSession;
  signal: AbortSignal;
  sha256: boolean;
  onProgress: (doneBytes: number) => void;
}): Promise<TransferResult> {
  const { file, fileBytes, session, signal } = options;
  const hash = options.sha256 ? createHash('sha256') : null;
  const tasks = new BoundedTasks(transferPieces);
  const buffers: Buffer[] = [];
  const zeros = { offset: 0, length: 0 };
  const result = { bytes: fileBytes, dataBytes: 0, zeroBytes: 0 };
  let doneBytes = 0;
  const done = (bytes: number) => options.onProgress((doneBytes += bytes));
  const sendZeros = async () => {
    const { offset, length } = zeros;
    zeros.length = 0;
    if (length === 0) return;
    await tasks.add(async () => {
      await session.writeZeroes(offset, length);
      done(length);
    });
  };
  try {
    for (let offset = 0; offset < fileBytes; offset += transferPieceBytes) {
      signal.throwIfAborted();
      const length = Math.min(transferPieceBytes, fileBytes - offset);
      const piece = buffers.pop() ?? Buffer.allocUnsafe(transferPieceBytes);
      await readWhole(file, piece, offset, length);
      hash?.update(piece.subarray(0, length));
      const writes: { offset: number; bytes: Buffer }[] = [];
      for (const run of zeroRuns(piece, length)) {
        const at = offset + run.start;
        if (!run.zero) {
          writes.push({ offset: at, bytes: piece.subarray(run.start, run.start + run.length) });
          result.dataBytes += run.length;
          continue;
        }
        if (zeros.offset + zeros.length !== at || zeros.length + run.length > maxZeroBytes) {
          await sendZeros();
        }
        if (zeros.length === 0) zeros.offset = at;
        zeros.length += run.length;
        result.zeroBytes += run.length;
      }
      await tasks.add(async () => {
        await Promise.all(writes.map((write) => session.write(write.offset, write.bytes)));
        for (const write of writes) done(write.bytes.length);
        buffers.push(piece);
      });
    }
    await sendZeros();
    await tasks.drain();
    await session.flush();
  } finally {
    await tasks.settle();
  }
  return { ...result, sha256: hash?.digest('hex') ?? null };
}

async function readWhole(
  file: FileHandle,
  target: Buffer,
  offset: number,
  length: number,
): Promise<void> {
  let have = 0;
  while (have < length) {
    const { bytesRead } = await file.read(target, have, length - have, offset + have);
    if (bytesRead === 0) {
      throw new StorError(
        'CONFLICT',
        `the file became shorter while it was read (it ends at byte ${offset + have} now): import it again when nothing writes to it`,
      );
    }
    have += bytesRead;
  }
}
