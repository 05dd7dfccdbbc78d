import { closeSync, openSync, readSync } from 'node:fs';
import type { NbdClient } from 'nbd-client-js';
import { readAckLog } from './ack-log.ts';
import { replayAckLog } from './ack-history.ts';
import { ModelComparer, type Comparison } from './compare.ts';

export interface VerifyResult extends Comparison {
  acknowledged: number;
  acknowledgedSinceFlush: number;
  /** sectors that the log says were written */
  written: number;
}

const pieceBytes = 1024 * 1024;

/** Reads the whole range of the log through a client and compares it with what the log allows. */
export async function verifyThroughClient(
  logPath: string,
  client: NbdClient,
): Promise<VerifyResult> {
  return verify(logPath, (offset, length) => client.read(offset, length));
}

/** As verifyThroughClient, from a raw image: what a reader of a replica wrote. */
export async function verifyImage(logPath: string, imagePath: string): Promise<VerifyResult> {
  const file = openSync(imagePath, 'r');
  try {
    return await verify(logPath, (offset, length) => {
      const bytes = Buffer.alloc(length);
      const got = readSync(file, bytes, 0, length, offset);
      if (got !== length) throw new Error(`${imagePath} ends at ${offset + got}`);
      return Promise.resolve(bytes);
    });
  } finally {
    closeSync(file);
  }
}

async function verify(
  logPath: string,
  read: (offset: number, length: number) => Promise<Uint8Array>,
): Promise<VerifyResult> {
  const history = replayAckLog(readAckLog(logPath));
  const written = history.model.writtenSectors();
  const comparer = new ModelComparer(history);
  const end = history.offset + history.length;
  for (let offset = history.offset; offset < end; offset += pieceBytes) {
    const bytes = await read(offset, Math.min(pieceBytes, end - offset));
    comparer.add(offset, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  }
  const { acknowledged, acknowledgedSinceFlush } = history;
  return { ...comparer.result, acknowledged, acknowledgedSinceFlush, written };
}
