import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError, hasCode, type StorApi, type Volume } from '@stor/protocol';
import type { NbdOpener, NbdSession } from '../nbd-session.ts';

/** Marks the volumes of the proof, so that a later one may remove what an interrupted one left. */
const proofLabel = 'stor/up-proof';
const volumeBytes = 16 * 1024 * 1024;
const dataBytes = 8 * 1024 * 1024;
const dataOffset = 4 * 1024 * 1024;
const pieceBytes = 1024 * 1024;
/** A node that has just become ready may take this long until its disk is known to the cluster. */
const settleMs = 20_000;
const retryMs = 100;

export interface ProofResult {
  volume: string;
  replicas: number;
  writtenSha256: string;
  readSha256: string;
}

/**
 * Shows that the cluster works: creates a volume, writes random bytes through one node, gives the
 * volume free, reads all of it through another node and compares hashes. The volume is removed,
 * unless the hashes differ: then it stays as evidence and CHECKSUM_MISMATCH is thrown.
 */
export async function proveCluster(options: {
  api: StorApi;
  openNbd: NbdOpener;
  /** `nbd://host:port` of the node to write through and of the one to read through */
  writeBase: string;
  readBase: string;
  replicas: number;
  say: (line: string) => void;
}): Promise<ProofResult> {
  const { api, openNbd, replicas, say } = options;
  await removeLeftovers(api);
  const name = `up-proof-${randomBytes(4).toString('hex')}`;
  await untilSettled(() =>
    api.createVolume({
      name,
      sizeBytes: volumeBytes,
      replicas,
      labels: { [proofLabel]: 'true' },
    }),
  );
  const expected = Buffer.alloc(volumeBytes);
  randomBytes(dataBytes).copy(expected, dataOffset);
  const written = sha256(expected);
  await withSession(openNbd, `${options.writeBase}/${name}`, (session) =>
    writeAll(session, expected),
  );
  say(`wrote ${dataBytes / 2 ** 20} MiB of random bytes   sha256 ${written}`);
  await api.detachVolume({ name });
  const read = await withSession(openNbd, `${options.readBase}/${name}`, readAll);
  const readSha256 = sha256(read);
  say(`read them through another node   sha256 ${readSha256}`);
  if (written !== readSha256) {
    throw new StorError(
      'CHECKSUM_MISMATCH',
      `what was read differs from what was written: the cluster does not work; volume ${name} is kept for a look at it`,
    );
  }
  await api.detachVolume({ name });
  await api.deleteVolume({ name, keepMs: 0 });
  return { volume: name, replicas, writtenSha256: written, readSha256 };
}

async function removeLeftovers(api: StorApi): Promise<void> {
  const { volumes } = await untilSettled(() => api.listVolumes({}));
  const isLeftover = (volume: Volume) =>
    volume.metadata.labels[proofLabel] === 'true' && volume.metadata.name.startsWith('up-proof-');
  for (const volume of volumes.filter(isLeftover)) {
    const name = volume.metadata.id;
    try {
      await api.detachVolume({ name });
      await api.deleteVolume({ name, keepMs: 0 });
    } catch (error) {
      // Another `up` removes it too, or a node that is down holds it: the next one tries again.
      if (!hasCode(error, 'NOT_FOUND', 'FAILED_PRECONDITION', 'UNAVAILABLE')) throw error;
    }
  }
}

/** Tries again while the answer is one that a starting cluster gives. */
async function untilSettled<T>(call: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + settleMs;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const starting = hasCode(error, 'UNAVAILABLE', 'FAILED_PRECONDITION', 'NO_SPACE');
      if (!starting || performance.now() > deadline) throw error;
      await delay(retryMs);
    }
  }
}

async function withSession<T>(
  openNbd: NbdOpener,
  uri: string,
  work: (session: NbdSession) => Promise<T>,
): Promise<T> {
  const session = await openNbd(uri, {});
  try {
    return await work(session);
  } finally {
    await session.close();
  }
}

async function writeAll(session: NbdSession, expected: Buffer): Promise<void> {
  const writes: Promise<void>[] = [];
  for (let at = dataOffset; at < dataOffset + dataBytes; at += pieceBytes) {
    writes.push(session.write(at, expected.subarray(at, at + pieceBytes)));
  }
  await Promise.all(writes);
  await session.flush();
}

async function readAll(session: NbdSession): Promise<Buffer> {
  const pieces: Promise<Uint8Array>[] = [];
  for (let at = 0; at < volumeBytes; at += pieceBytes) pieces.push(session.read(at, pieceBytes));
  return Buffer.concat(await Promise.all(pieces));
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
