import { createHash } from 'node:crypto';
import { createReadStream, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Disk } from '@stor/protocol';
import { runFio } from '../../fio/fio.ts';
import { describeResult, mustRun, runCommand } from '../../harness/run-command.ts';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { readAllReplicas } from '../../scenarios/replicas.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const nodes = 4;
/** of each node's file system: data, logs and Raft's log are on it */
const diskBytes = 640 * MiB;
const segmentBytes = 64 * MiB;
/** larger than any disk; ends in the middle of a segment, of a region and of a chunk */
const volumeBytes = 740 * MiB + 36 * 1024;
const grownBytes = 812 * MiB + 4 * 1024;
const copyTimeoutMs = 600_000;

/**
 * A volume that is larger than any disk of the cluster: filled and read back by nbdcopy, verified over
 * its boundaries by fio while a node dies, while it grows and while one segment's replica moves.
 */
export async function segments(stage: StoreStage): Promise<void> {
  const mounts: string[] = [];
  try {
    for (let node = 1; node <= nodes; node++) mounts.push(await mountNode(stage.dir, `n${node}`));
    await onLoopback(stage, { nodes }, (cluster) => run(stage, cluster));
  } finally {
    for (const mount of mounts) await mustRun('umount', [mount]);
  }
}

/** A small file system where the node's folder is going to be. */
async function mountNode(dir: string, name: string): Promise<string> {
  const image = join(dir, `${name}.img`);
  const mount = join(dir, name);
  mkdirSync(mount);
  writeFileSync(image, '');
  truncateSync(image, diskBytes);
  await mustRun('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
  await mustRun('mount', ['-o', 'loop', image, mount]);
  return mount;
}

async function run(stage: StoreStage, cluster: TestCluster): Promise<void> {
  const { report, dir } = stage;
  const shape = ['--size', String(volumeBytes), '--segment-size', String(segmentBytes)];
  await cluster.must('volume', 'create', 'big', ...shape, '--replicas', '2');
  const disks = JSON.parse(await cluster.must('disk', 'ls', '-o', 'json')) as Disk[];
  const largest = Math.max(...disks.map(({ status }) => status.capacityBytes));
  report.add(
    'size of the volume, and of the largest disk',
    `${Math.round(volumeBytes / MiB)} MiB, ${Math.round(largest / MiB)} MiB`,
    'larger',
    volumeBytes > largest,
  );
  const source = await copyInAndOut(stage, cluster);
  await cluster.must('snapshot', 'create', 'big@full');

  const [died, fault] = await Promise.all([overBoundaries(cluster, dir, 'die'), die(cluster)]);
  report.add(
    'fio over the boundaries while a node is killed',
    died,
    'verified, no error',
    died === 'verified',
  );
  report.add(
    'the node that was killed is back in every segment',
    fault,
    'healthy',
    fault === 'healthy',
  );

  const [grew, size] = await Promise.all([overBoundaries(cluster, dir, 'grow'), grow(cluster)]);
  report.add(
    'fio over the boundaries while the volume grows',
    grew,
    'verified, no error',
    grew === 'verified',
  );
  const wanted = String(grownBytes);
  report.add('size that a new client sees', size, wanted, size === wanted);
  const behind = await overBoundaries(cluster, dir, 'behind', volumeBytes);
  report.add('fio over the old end', behind, 'verified, no error', behind === 'verified');

  const [during, moved] = await Promise.all([overBoundaries(cluster, dir, 'move'), move(cluster)]);
  report.add(
    'fio while one replica of one segment moves',
    during,
    'verified, no error',
    during === 'verified',
  );
  report.add('the replica that moved', moved, 'there, and nothing else', moved === 'there');

  const image = join(dir, 'full.img');
  writeFileSync(image, '');
  await mustRun('nbdcopy', [cluster.unixUri(1, 'big@full'), image], { timeoutMs: copyTimeoutMs });
  const kept = (await hashOf(image)) === source;
  report.add(
    'the snapshot from before all this, read through another node',
    kept ? 'equal' : 'differs',
    'what was copied in',
    kept,
  );

  await cluster.kill9All();
  await cluster.start();
  const read = await readAllReplicas(cluster, 'big', dir);
  const wrong = read.replicas.filter(
    (replica) =>
      replica.contentHash !== read.segmentHashes[replica.segment] || replica.problems.length > 0,
  );
  report.add(
    'replicas that hold what was served of their segment',
    `${read.replicas.length - wrong.length} of ${read.replicas.length}`,
    'all',
    wrong.length === 0 && read.replicas.length > 0,
  );
}

/** Returns the hash of what is in the volume then. */
async function copyInAndOut({ report, dir }: StoreStage, cluster: TestCluster): Promise<string> {
  const [source, back] = [join(dir, 'source.img'), join(dir, 'back.img')];
  await mustRun(
    'dd',
    ['if=/dev/urandom', `of=${source}`, 'bs=1M', `count=${Math.floor(volumeBytes / MiB)}`],
    {
      timeoutMs: copyTimeoutMs,
    },
  );
  truncateSync(source, volumeBytes);
  writeFileSync(back, '');
  const copy = (...args: string[]) => mustRun('nbdcopy', args, { timeoutMs: copyTimeoutMs });
  await copy('--flush', source, cluster.unixUri(0, 'big'));
  // another node relays or takes over: what it reads is the same
  await cluster.must('volume', 'detach', 'big');
  await copy(cluster.unixUri(2, 'big'), back);
  await cluster.must('volume', 'detach', 'big');
  const sourceHash = await hashOf(source);
  const same = sourceHash === (await hashOf(back));
  report.add(
    'nbdcopy in through one node and out through another',
    same ? 'equal' : 'differs',
    'equal',
    same,
  );
  return sourceHash;
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return hash.digest('hex');
}

/** Requests of 20 KiB at odd places, so that many lie on both sides of a boundary. */
async function overBoundaries(
  cluster: TestCluster,
  dir: string,
  name: string,
  end = 5 * segmentBytes,
) {
  const result = await runFio({
    uri: cluster.unixUri(0, 'big'),
    dir,
    options: {
      name,
      rw: 'randwrite',
      bs: '20k',
      iodepth: '16',
      offset: String(Math.floor((end - 20 * MiB) / 20_480) * 20_480),
      size: String(40 * MiB),
      loops: '4',
      rate_iops: '1200',
      verify: 'crc32c',
      verify_fatal: '1',
      fsync: '200',
    },
  });
  return result.error === 0 ? 'verified' : describeResult(result.command).slice(0, 200);
}

async function die(cluster: TestCluster): Promise<string> {
  await writing();
  await cluster.agent(3).kill9();
  await writing();
  await cluster.start();
  return (await cluster.waitHealth('big', 'healthy')).status.health;
}

async function grow(cluster: TestCluster): Promise<string> {
  await writing();
  await cluster.must('volume', 'resize', 'big', String(grownBytes));
  const info = await runCommand('nbdinfo', ['--size', cluster.unixUri(0, 'big')]);
  return info.stdout.trim();
}

/** Gives fio a moment, so that what follows happens under load. */
async function writing(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 1_500));
}

async function move(cluster: TestCluster): Promise<string> {
  const replicas = async () => (await cluster.inspect('big')).status.replicas;
  const before = await replicas();
  const disks = JSON.parse(await cluster.must('disk', 'ls', '-o', 'json')) as Disk[];
  const free = (name: string): number =>
    disks.find(({ metadata }) => metadata.name.startsWith(`${name}:`))?.status.freeBytes ?? 0;
  // the disks are nearly full: to where there is most room
  const places = before
    .filter(({ node }) => node === 'n2')
    .flatMap((from) => {
      const others = before.filter(({ segment }) => segment === from.segment);
      return ['n4', 'n3', 'n1']
        .filter((name) => others.every(({ node }) => node !== name))
        .map((target) => ({ from, target }));
    })
    .sort((a, b) => free(b.target) - free(a.target));
  const [place] = places;
  if (!place) return 'n2 has none';
  const { from, target } = place;
  const which = ['--segment', String(from.segment)];
  await cluster.must('volume', 'move', 'big', 'n2', ...which, '--to', target);
  const after = await waitFor('the move', async () => {
    const now = await replicas();
    return now.length === before.length ? now : null;
  });
  const changed = after.filter(({ id }) => before.every((each) => each.id !== id));
  const isThere = changed.length === 1 && changed[0]?.segment === from.segment;
  return isThere && changed[0]?.node === target ? 'there' : JSON.stringify(changed);
}
