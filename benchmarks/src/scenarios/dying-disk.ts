import { join } from 'node:path';
import type { Disk, Volume } from '@stor/protocol';
import { LoopDisk, unmountBelow } from '../harness/loop-disk.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { WriterProcess, runVerifier } from '../harness/writer-process.ts';
import type { VerifyResult } from '../verify/verify-volume.ts';
import type { WriterSummary } from '../verify/verifying-writer.ts';

const MiB = 1024 * 1024;
const volumeBytes = 48 * MiB;
const deviceBytes = 512 * MiB;
const volumeName = 'db';
const tag = 'ssd';
/** Writes that must be acknowledged before and after the disk dies. */
const writesBefore = 300;
const writesAfter = 500;
const writesPerSecond = 400;
/** Far below the replacement wait of ten minutes: a disk that failed for good is not waited for (ms). */
export const maxRebuiltMs = 120_000;

export type DiskFault = 'truncated' | 'errors';

export interface DyingDisk {
  /** from the fault to all replicas in sync again, none on the dead disk (ms) */
  rebuiltMs: number;
  /** what `disk ls` and `disk inspect` said of the disk in the end */
  disk: Disk;
  inspected: string;
  writer: WriterSummary;
  verified: VerifyResult;
  volume: Volume;
  removed: boolean;
}

export interface DyingDiskOptions {
  /** the device is one of the primary's own node */
  onPrimary: boolean;
  /**
   * where there is a spare disk: on the third node, of two replicas; or beside the dying one, of three
   * replicas on three nodes
   */
  spare: 'third-node' | 'same-node';
}

/**
 * The raw device under one replica dies while a client writes: its file is cut off, or every request
 * gets an error. The replica is rebuilt on the spare disk. The cluster must have three nodes.
 */
export async function killDisk(
  cluster: TestCluster,
  fault: DiskFault,
  options: DyingDiskOptions,
): Promise<DyingDisk> {
  const isBeside = options.spare === 'same-node';
  const disks: LoopDisk[] = [];
  const backing = fault === 'errors' ? 'nbdfuse' : 'file';
  try {
    for (const name of ['n1', 'n2', 'n3']) {
      const disk = await LoopDisk.create({
        dir: join(cluster.dir, 'devices'),
        name,
        sizeBytes: deviceBytes,
        ...(name === 'n2' ? { backing } : {}),
      });
      disks.push(disk);
      // a spare third one comes after the volume, which so gets the first two
      if (isBeside || name !== 'n3')
        await cluster.must('disk', 'add', name, disk.device, '--tag', tag);
    }
    const dying = disks[1];
    const replicas = isBeside ? 3 : 2;
    if (isBeside) {
      const dir = join(cluster.dir, 'devices');
      disks.push(await LoopDisk.create({ dir, name: 'n2-spare', sizeBytes: deviceBytes }));
    }
    const spare = disks.at(-1);
    if (!dying || !spare) throw new Error('no devices');
    const size = ['--size', String(volumeBytes), '--disk-tag', tag, '--replicas', `${replicas}`];
    // one replica is enough to go on with: what is shown here is the rebuild
    await cluster.must('volume', 'create', volumeName, ...size, '--failure-mode', 'alwayson');
    const spareNode = isBeside ? 'n2' : 'n3';
    await cluster.must('disk', 'add', spareNode, spare.device, '--tag', tag);
    return await underLoad(cluster, dying, { primary: options.onPrimary ? 1 : 0, replicas });
  } finally {
    await unmountBelow(cluster.dir);
    for (const disk of disks) await disk.close();
  }
}

async function underLoad(
  cluster: TestCluster,
  dying: LoopDisk,
  { primary, replicas }: { primary: number; replicas: number },
): Promise<DyingDisk> {
  const logPath = join(cluster.dir, 'writes.log');
  const writer = new WriterProcess({
    uri: cluster.tcpUri(primary, volumeName),
    logPath,
    length: volumeBytes,
    seed: 5,
    depth: 8,
    flushEvery: 40,
    rate: writesPerSecond,
    readShare: 20,
  });
  try {
    await waitFor('writes', () => writer.acknowledged >= writesBefore);
    const before = await diskOf(cluster, dying.device);
    await dying.break();
    const brokenMs = performance.now();
    const volume = await rebuilt(cluster, before.metadata.id, replicas);
    const rebuiltMs = performance.now() - brokenMs;
    const acknowledged = writer.acknowledged;
    await waitFor('writes to go on', () => writer.acknowledged >= acknowledged + writesAfter);
    const summary = await writer.stop();
    const verified = await runVerifier(logPath, { uri: cluster.tcpUri(0, volumeName) });
    const disk = await waitFor('the disk to be known as bad', async () => {
      const seen = await diskOf(cluster, dying.device);
      return seen.status.state === 'online' ? null : seen;
    });
    const inspected = await cluster.must('disk', 'inspect', disk.metadata.id);
    const removed = await removeDisk(cluster, disk);
    return { rebuiltMs, disk, inspected, writer: summary, verified, volume, removed };
  } finally {
    await writer.kill();
  }
}

function rebuilt(cluster: TestCluster, diskId: string, wanted: number): Promise<Volume> {
  return waitFor(
    'the replica to be rebuilt elsewhere',
    async () => {
      const volume = await cluster.inspect(volumeName);
      const { health, message, replicas } = volume.status;
      const inSync = replicas.filter(({ state }) => state === 'in-sync');
      const isAway = replicas.every((replica) => replica.diskId !== diskId);
      if (health === 'healthy' && inSync.length === wanted && isAway) return volume;
      throw new Error(`${health} (${message}) ${JSON.stringify(replicas)}`);
    },
    { deadlineMs: maxRebuiltMs, intervalMs: 200 },
  );
}

/** One that failed goes as lost; one that only had errors is emptied before. */
async function removeDisk(cluster: TestCluster, disk: Disk): Promise<boolean> {
  const { id } = disk.metadata;
  await waitFor(
    'the dead disk to be taken out',
    async () => {
      const { status } = await diskOf(cluster, disk.spec.device);
      const lost = status.state === 'failed' ? ['--lost'] : [];
      return cluster.must('disk', 'rm', id, ...lost);
    },
    { deadlineMs: maxRebuiltMs, intervalMs: 500 },
  );
  const left = (await cluster.api.listDisks({})).disks;
  return left.every(({ metadata }) => metadata.id !== id);
}

async function diskOf(cluster: TestCluster, device: string): Promise<Disk> {
  const disks = (await cluster.api.listDisks({})).disks;
  const found = disks.find(({ spec }) => spec.device === device);
  if (!found) throw new Error(`no disk at ${device}`);
  return found;
}
