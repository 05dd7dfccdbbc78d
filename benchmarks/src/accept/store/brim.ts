import { mkdirSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient, NbdError } from 'nbd-client-js';
import { runFio, type FioResult } from '../../fio/fio.ts';
import { describeResult, mustRun, runCommand } from '../../harness/run-command.ts';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const enospc = 28;
/** The small disk, which is n3's whole data folder: Raft's log is on it too. XFS takes none below 300 MiB. */
const diskBytes = 640 * MiB;
const volumeBytes = 1024 * MiB;
/** at the start of each volume, written before the disk is full and checked afterwards */
const ownBytes = 16 * MiB;
const pieceBytes = MiB;
const chunkBytes = 256 * 1024;
/** From space being freed to the first write that takes some again (ms). */
const returnTargetMs = 10_000;

/**
 * A disk is filled to the brim by two volumes at once; then by somebody else, to the last byte. No
 * client sees anything but ENOSPC, no replica is lost to the first, all return from the second, a snapshot
 * makes overwrites need room too until it is deleted,
 * and writes go on by themselves when there is room.
 */
export async function brim(stage: StoreStage): Promise<void> {
  for (const kind of ['ext4', 'xfs']) {
    const dir = join(stage.dir, kind);
    mkdirSync(dir, { recursive: true });
    const small = await mountSmall(dir, kind);
    try {
      const options = {
        dataDirOf: (index: number) => (index === 2 ? join(small, 'data') : undefined),
      };
      await onLoopback({ ...stage, dir }, options, (cluster) =>
        fillAndReturn({ ...stage, dir }, cluster, kind, small),
      );
    } finally {
      await mustRun('umount', [small]);
    }
  }
}

/** A file system in a file. */
async function mountSmall(dir: string, kind: string): Promise<string> {
  const image = join(dir, 'disk.img');
  const small = join(dir, 'small');
  mkdirSync(small);
  writeFileSync(image, '');
  truncateSync(image, diskBytes);
  await mustRun(`mkfs.${kind}`, kind === 'ext4' ? ['-q', '-F', '-m', '0', image] : ['-q', image]);
  await mustRun('mount', ['-o', 'loop', image, small]);
  return small;
}

async function fillAndReturn(
  stage: StoreStage,
  cluster: TestCluster,
  kind: string,
  small: string,
): Promise<void> {
  const { report, dir } = stage;
  const volumes = ['a', 'b'];
  for (const name of volumes) {
    await cluster.must('volume', 'create', name, '--size', String(volumeBytes), '--replicas', '3');
    await verifiedWrites(cluster, dir, name, 'write');
  }
  const pids = cluster.agents.map((agent) => agent.pid);

  const ends = await Promise.all(volumes.map((name, at) => fill(cluster, dir, name, at)));
  const codes = ends.map(({ error }) => error);
  const isFull = codes.every((code) => code === enospc);
  const written = ends.reduce((sum, { write }) => sum + write.ios, 0);
  const what = `${kind}: fio fills the disk through two volumes at once`;
  report.add(what, `errors ${codes.join(', ')}, ${written} writes`, 'ENOSPC (28) in both', isFull);
  await checkWhole(stage, cluster, kind, 'at the brim', volumes);
  for (const name of volumes) await verifiedWrites(cluster, dir, name, 'randwrite');
  report.add(`${kind}: overwriting and reading at the brim`, 'verified', 'no error', true);

  await returnsByTrim(stage, cluster, kind, small);
  await snapshotAtTheBrim(stage, cluster, kind, volumes);
  await fillByOthers(stage, cluster, kind, small, volumes);
  await returnsByDelete(stage, cluster, kind, small);
  const same = cluster.agents.every((agent, at) => agent.running && agent.pid === pids[at]);
  report.add(`${kind}: agents`, same ? 'the same processes' : 'some ended', 'none ended', same);
}

/** Overwrites the volume's own range and reads it back, both by fio. */
async function verifiedWrites(
  cluster: TestCluster,
  dir: string,
  name: string,
  rw: string,
): Promise<void> {
  const result = await runFio({
    uri: cluster.unixUri(0, name),
    dir,
    options: {
      rw,
      bs: '16k',
      iodepth: '16',
      size: String(ownBytes),
      verify: 'crc32c',
      verify_fatal: '1',
      end_fsync: '1',
    },
  });
  if (result.error !== 0) throw new Error(describeResult(result.command));
}

/** Random writes behind the volume's own range until fio gets an error. */
function fill(cluster: TestCluster, dir: string, name: string, node: number): Promise<FioResult> {
  return runFio({
    uri: cluster.unixUri(0, name),
    dir,
    options: {
      name: `fill-${name}`,
      rw: 'randwrite',
      // small requests take a chunk each, large ones many at once
      bs: node === 0 ? '4k' : '512k',
      iodepth: '64',
      offset: String(ownBytes),
      size: String(volumeBytes - ownBytes),
      refill_buffers: '1',
    },
  });
}

/**
 * With a snapshot an overwrite needs a new chunk, and there is none: ENOSPC to the client, and nothing
 * else. Without the snapshot the volume's chunks are its own again.
 */
async function snapshotAtTheBrim(
  stage: StoreStage,
  cluster: TestCluster,
  kind: string,
  volumes: readonly string[],
): Promise<void> {
  const { report, dir } = stage;
  const full = await fill(cluster, dir, 'a', 1);
  if (full.error !== enospc) throw new Error(describeResult(full.command));
  await cluster.must('snapshot', 'create', 'a@brim');
  const client = await NbdClient.connect({ uri: cluster.unixUri(0, 'a') });
  const overwritten = await overwrite(client);
  report.add(
    `${kind}: overwriting what a snapshot holds, at the brim`,
    overwritten,
    'ENOSPC',
    overwritten === 'ENOSPC',
  );
  await client.read(0, ownBytes);
  await checkWhole(stage, cluster, kind, 'that a snapshot keeps at the brim', volumes);
  await cluster.must('snapshot', 'rm', 'a@brim', '-y');
  const beganMs = performance.now();
  await waitFor(
    'overwrites once the snapshot is gone',
    async () => ((await overwrite(client)) === 'done' ? true : null),
    { deadlineMs: 60_000, intervalMs: 50 },
  );
  const tookMs = performance.now() - beganMs;
  await client.disconnect();
  report.add(
    `${kind}: the snapshot deleted, then overwriting`,
    `${Math.round(tookMs)} ms`,
    `< ${returnTargetMs} ms`,
    tookMs < returnTargetMs,
  );
  await verifiedWrites(cluster, dir, 'a', 'randwrite');
}

/** Overwrites a block of each chunk of the volume's own range: `done`, or the error's name. */
async function overwrite(client: NbdClient): Promise<string> {
  const block = Buffer.alloc(4096, 0xa5);
  try {
    for (let at = 0; at < ownBytes; at += chunkBytes) await client.write(at, block);
    return 'done';
  } catch (error) {
    if (error instanceof NbdError) return error.errnoName;
    throw error;
  }
}

/** Every replica is in sync, and none left on the way. */
async function checkWhole(
  { report }: StoreStage,
  cluster: TestCluster,
  kind: string,
  when: string,
  volumes: readonly string[],
): Promise<void> {
  const healths: string[] = [];
  for (const name of volumes) healths.push((await cluster.inspect(name)).status.health);
  const losses = cluster.agents.flatMap((agent) => lossesIn(readFileSync(agent.logPath, 'utf8')));
  const whole = healths.every((health) => health === 'healthy') && losses.length === 0;
  const value = losses.length > 0 ? `${losses.length} replicas left` : healths.join(', ');
  report.add(`${kind}: volumes ${when}`, value, 'healthy, no replica left', whole);
  for (const loss of losses.slice(0, 5)) process.stderr.write(`${loss}\n`);
}

function lossesIn(log: string): string[] {
  return log
    .split('\n')
    .filter((line) => /"a replica (was lost|has no room and leaves)/.test(line));
}

function usedBytes(path: string): number {
  const { blocks, bfree, bsize } = statfsSync(path);
  return (blocks - bfree) * bsize;
}

/** Half of volume b, whose chunks are full, is discarded: the file system has its space back. */
async function returnsByTrim(
  { report }: StoreStage,
  cluster: TestCluster,
  kind: string,
  small: string,
): Promise<void> {
  const client = await NbdClient.connect({ uri: cluster.unixUri(0, 'b') });
  const before = usedBytes(small);
  const { status } = await cluster.inspect('b');
  const half = volumeBytes / 2;
  await client.trim(half, half);
  await client.flush();
  const tookMs = await untilWritten(client, half);
  await client.disconnect();
  const backMs = `${Math.round(tookMs)} ms`;
  report.add(
    `${kind}: TRIM, then a write to a new chunk`,
    backMs,
    `< ${returnTargetMs} ms`,
    tookMs < returnTargetMs,
  );
  const wanted = status.allocatedBytes / 4;
  const given = await atLeast(() => before - usedBytes(small), wanted);
  report.add(
    `${kind}: space that TRIM gave back to the file system`,
    `${Math.round(given / MiB)} MiB of ${Math.round(status.allocatedBytes / MiB)} MiB`,
    `> ${Math.round(wanted / MiB)} MiB`,
    given >= wanted,
  );
}

/** Volume b goes: writes to a go on, and the file system has the space. */
async function returnsByDelete(
  { report, dir }: StoreStage,
  cluster: TestCluster,
  kind: string,
  small: string,
): Promise<void> {
  const again = await fill(cluster, dir, 'a', 1);
  if (again.error !== enospc) throw new Error(describeResult(again.command));
  const before = usedBytes(small);
  const { status } = await cluster.inspect('b');
  await cluster.must('volume', 'detach', 'b');
  await cluster.must('volume', 'rm', 'b', '-y', ...(await keepNothing(cluster)));
  const client = await NbdClient.connect({ uri: cluster.unixUri(0, 'a') });
  const tookMs = await untilWritten(client, ownBytes);
  await client.disconnect();
  report.add(
    `${kind}: another volume deleted, then a write to a new chunk`,
    `${Math.round(tookMs)} ms`,
    `< ${returnTargetMs} ms`,
    tookMs < returnTargetMs,
  );
  const wanted = status.allocatedBytes / 2;
  const given = await atLeast(() => before - usedBytes(small), wanted);
  report.add(
    `${kind}: space that the deletion gave back`,
    `${Math.round(given / MiB)} MiB of ${Math.round(status.allocatedBytes / MiB)} MiB`,
    `> ${Math.round(wanted / MiB)} MiB`,
    given >= wanted,
  );
  await verifiedWrites(cluster, dir, 'a', 'randwrite');
}

/** Somebody else takes the file system's last byte, past all reserves, and gives it back. */
async function fillByOthers(
  stage: StoreStage,
  cluster: TestCluster,
  kind: string,
  small: string,
  volumes: readonly string[],
): Promise<void> {
  const { report, dir } = stage;
  const hog = join(small, 'hog');
  await runCommand('dd', ['if=/dev/zero', `of=${hog}`, 'bs=1M']);
  await runCommand('dd', ['if=/dev/zero', `of=${hog}-2`, 'bs=4k']);
  // what is allocated is overwritten; a replica that cannot even do that leaves, and the rest goes on
  for (const name of volumes) await verifiedWrites(cluster, dir, name, 'randwrite');
  rmSync(hog);
  rmSync(`${hog}-2`, { force: true });
  const beganMs = performance.now();
  for (const name of volumes) await cluster.waitHealth(name, 'healthy', 60_000);
  const tookMs = performance.now() - beganMs;
  report.add(
    `${kind}: the last byte taken by others, and given back`,
    `healthy after ${Math.round(tookMs)} ms`,
    'healthy by itself, clients saw nothing',
    true,
  );
}

/** Time until writes to pieces from `from` on succeed, which take chunks that were not there (ms). */
async function untilWritten(client: NbdClient, from: number): Promise<number> {
  const beganMs = performance.now();
  const bytes = Buffer.alloc(pieceBytes, 0x5a);
  await waitFor(
    'a write that takes new chunks',
    async () => {
      try {
        for (let piece = 0; piece < 4; piece += 1)
          await client.write(from + piece * pieceBytes, bytes);
        return true;
      } catch (error) {
        const isFull = error instanceof NbdError && error.errnoName === 'ENOSPC';
        if (!isFull) throw error;
        return null;
      }
    },
    { deadlineMs: 60_000, intervalMs: 50 },
  );
  return performance.now() - beganMs;
}

/** The value once it is large enough, or after a while (space is given back in the background). */
async function atLeast(look: () => number, wanted: number): Promise<number> {
  const isEnough = async (): Promise<true | null> => (look() >= wanted ? true : null);
  await waitFor('space', isEnough, { deadlineMs: 30_000, intervalMs: 200 }).catch(() => null);
  return look();
}

/** Deleted volumes may be kept for a while: here they are not to be. */
async function keepNothing(cluster: TestCluster): Promise<string[]> {
  const help = await cluster.must('volume', 'rm', '--help');
  return help.includes('--keep') ? ['--keep', '0'] : [];
}
