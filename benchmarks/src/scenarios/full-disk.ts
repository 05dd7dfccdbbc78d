import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient, NbdError } from 'nbd-client-js';
import { mustRun, runCommand } from '../harness/run-command.ts';
import { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { stampSectors, recogniseSector, sectorBytes } from '../verify/stamp.ts';
import { type CheckList, expect } from './check-list.ts';

const MiB = 1024 * 1024;
const smallDiskBytes = 192 * MiB;
const volumeBytes = 512 * MiB;
const pieceBytes = 256 * 1024;
const seed = 21;

/**
 * One node's disk is a file system that is too small: the writer gets ENOSPC, the volume stays
 * healthy and readable, overwrites go on, and removing the volume gives the space back. Needs the
 * right to mount a tmpfs; skipped with the reason otherwise.
 */
export async function fullDisk(dir: string, checks: CheckList): Promise<void> {
  const small = join(dir, 'small');
  mkdirSync(small, { recursive: true });
  const mount = await runCommand('mount', [
    '-t',
    'tmpfs',
    '-o',
    `size=${smallDiskBytes}`,
    'tmpfs',
    small,
  ]);
  if (mount.code !== 0) {
    checks.skip('a full disk', `cannot mount a small file system: ${mount.stderr.trim()}`);
    return;
  }
  const cluster = await TestCluster.create({
    dir,
    dataDirOf: (index) => (index === 2 ? join(small, 'data') : undefined),
  });
  try {
    await cluster.start();
    await checks.run('a full disk: ENOSPC, nothing lost, healthy, space comes back', () =>
      fillAndRecover(cluster),
    );
  } finally {
    await cluster.close();
    await mustRun('umount', [small]);
  }
}

async function fillAndRecover(cluster: TestCluster): Promise<void> {
  const size = String(volumeBytes);
  await cluster.must('volume', 'create', 'big', '--size', size, '--replicas', '3');
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, 'big') });
  const written = await writeUntilFull(client);
  expect(written >= 8, `only ${written} pieces of 256 KiB fitted`);
  await cluster.waitHealth('big', 'healthy');
  // Overwrites need no space.
  await writePiece(client, 0, 1_000_000);
  await client.flush();
  await expectPieces(client, written);
  await client.disconnect();
  const other = await NbdClient.connect({ uri: cluster.tcpUri(2, 'big') });
  await expectPieces(other, written);
  await other.disconnect();
  await cluster.must('volume', 'detach', 'big');
  await cluster.must('volume', 'rm', 'big', '-y', '--keep', '0');
  // Nodes report how full they are now and then, not on every change.
  await waitFor('room for a new volume', () =>
    cluster.must('volume', 'create', 'next', '--size', String(8 * MiB), '--replicas', '3'),
  );
  const next = await NbdClient.connect({ uri: cluster.tcpUri(0, 'next') });
  // the replicas of the removed volume are deleted after its removal was answered
  await waitFor('the space to come back', async () => {
    await writePiece(next, 0, 1);
    return true;
  });
  await next.flush();
  await next.disconnect();
  await cluster.waitHealth('next', 'healthy');
}

/** How many pieces, from the start of the volume, were acknowledged before the first ENOSPC. */
async function writeUntilFull(client: NbdClient): Promise<number> {
  const pieces = volumeBytes / pieceBytes;
  for (let piece = 0; piece < pieces; piece += 1) {
    try {
      await writePiece(client, piece, piece + 1);
    } catch (error) {
      const full = error instanceof NbdError && error.errnoName === 'ENOSPC';
      expect(full, `the error of a full disk is not ENOSPC: ${String(error)}`);
      return piece;
    }
  }
  throw new Error(`the disk of ${smallDiskBytes} bytes took ${volumeBytes} bytes`);
}

async function writePiece(client: NbdClient, piece: number, sequence: number): Promise<void> {
  const bytes = Buffer.alloc(pieceBytes);
  const count = pieceBytes / sectorBytes;
  stampSectors(bytes, 0, piece * count, count, sequence, seed);
  await client.write(piece * pieceBytes, bytes);
}

async function expectPieces(client: NbdClient, pieces: number): Promise<void> {
  for (let piece = 0; piece < pieces; piece += 1) {
    const bytes = await client.read(piece * pieceBytes, pieceBytes);
    const wanted = piece === 0 ? 1_000_000 : piece + 1;
    for (let at = 0; at < pieceBytes; at += sectorBytes) {
      const sector = (piece * pieceBytes + at) / sectorBytes;
      const found = recogniseSector(bytes, at, sector, seed);
      const right = found.kind === 'write' && found.sequence === wanted;
      expect(right, `sector ${sector} holds ${JSON.stringify(found)}, not write ${wanted}`);
    }
  }
}
