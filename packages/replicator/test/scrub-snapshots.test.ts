/** What only snapshots hold is scrubbed too. */
import { blockBytes, chunkBytes } from '@stor/protocol';
import type { ScrubOrder, ScrubProgress } from '@stor/protocol';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';
import { noCounts } from '../src/primary/scrubber.ts';
import { DiskCluster, type DiskNode } from './disk-cluster.ts';

const sizeBytes = 24 * chunkBytes;

function orderOf(volume: PrimaryVolume, runId: string): ScrubOrder {
  return {
    volumeId: volume.volumeId,
    epoch: volume.epoch,
    runId,
    position: { segment: 0, chunk: 0 },
    counts: { ...noCounts },
    paused: false,
    rateBytesPerSecond: 2 ** 30,
  };
}

async function scrubbed(
  cluster: SimCluster | DiskCluster,
  volume: PrimaryVolume,
  runId: string,
): Promise<ScrubProgress> {
  for (let i = 0; i < 600; i++) {
    const seen = volume.scrub(orderOf(volume, runId));
    if (seen?.state === 'finished') return seen;
    await cluster.run(100);
  }
  throw new Error('the scrub did not finish');
}

async function write(
  cluster: SimCluster | DiskCluster,
  volume: PrimaryVolume,
  chunk: number,
  fill: number,
) {
  const bytes = Buffer.alloc(chunkBytes, fill);
  const writing = request(volume, 'write', chunk * chunkBytes, chunkBytes, bytes);
  t.equal(await cluster.wait(writing), null);
}

async function take(
  cluster: SimCluster | DiskCluster,
  volume: PrimaryVolume,
  id: string,
): Promise<void> {
  await cluster.wait(volume.hold({ token: id, holdMs: 5_000 }));
  await cluster.wait(volume.prepareSnapshot({ token: id, snapshotId: id }));
  t.ok(volume.release(id).intact);
  await cluster.wait(volume.sealSnapshot(id));
  await cluster.wait(volume.confirmSnapshot(id));
}

/** A bit of a block of a snapshot, at one replica. */
function rot(cluster: SimCluster, replica: number, snapshotId: string, block: number): void {
  const found = cluster.states[replica]?.snapshots.block(snapshotId, block);
  if (!found) throw new Error(`replica ${replica} has no block ${block} of ${snapshotId}`);
  found.bytes[7] = (found.bytes[7] ?? 0) ^ 4;
}

function contentOf(cluster: SimCluster, snapshotId: string): Buffer[] {
  return cluster.states.map((state) =>
    Buffer.concat(
      Array.from({ length: sizeBytes / blockBytes }, (_, block) => {
        const found = state.snapshots.block(snapshotId, block);
        if (!found) throw new Error(`no block ${block}`);
        return Buffer.from(found.bytes);
      }),
    ),
  );
}

const [first, second] = ['s-0000000000000001', 's-0000000000000002'] as const;

t.test('what rots in a snapshot is repaired there, and read once', async (t) => {
  for (const at of [0, 3]) {
    const cluster = new SimCluster({ seed: 1 + at, sizeBytes, nodes: 4, replicaNodes: 3 });
    const volume = await cluster.wait(cluster.attach(at));
    for (const chunk of [0, 1, 2]) await write(cluster, volume, chunk, 1 + chunk);
    await take(cluster, volume, first);
    await write(cluster, volume, 0, 11);
    await write(cluster, volume, 5, 12);
    await take(cluster, volume, second);
    await write(cluster, volume, 0, 21);
    await write(cluster, volume, 1, 22);
    const before = [contentOf(cluster, first)[0], contentOf(cluster, second)[0]];
    rot(cluster, 0, first, 5);
    rot(cluster, 1, second, 9);
    rot(cluster, 2, first, 64 + 3);
    const seen = await scrubbed(cluster, volume, 'one');
    t.match(seen.counts, { found: 3, repaired: 3, kept: 0, diverged: 0 });
    // live: 0, 1, 2, 5; of the first: its own 0 and 1; of the second: 0
    t.equal(seen.counts.bytes, 7 * chunkBytes);
    for (const [index, id] of [first, second].entries()) {
      for (const content of contentOf(cluster, id)) t.ok(content.equals(before[index] ?? content));
    }
    t.match((await scrubbed(cluster, volume, 'two')).counts, { found: 0, repaired: 0 });
    t.equal(cluster.control.inSync.length, 3);
  }
});

t.test('a snapshot that goes meanwhile keeps nobody', async (t) => {
  const cluster = new SimCluster({ seed: 9, sizeBytes, nodes: 3 });
  const volume = await cluster.wait(cluster.attach(0));
  for (const id of [first, second]) {
    for (const chunk of [0, 1, 2, 3, 4, 5]) await write(cluster, volume, chunk, 1 + chunk);
    await take(cluster, volume, id);
  }
  for (const chunk of [0, 1, 2, 3, 4, 5]) await write(cluster, volume, chunk, 30 + chunk);
  const slow = { ...orderOf(volume, 'slow'), rateBytesPerSecond: 8 * chunkBytes };
  const look = (): ScrubProgress | null => volume.scrub(slow);
  while ((look()?.counts.bytes ?? 0) < 8 * chunkBytes) await cluster.run(50);
  await cluster.wait(volume.dropSnapshot(first));
  for (let i = 0; i < 200 && look()?.state !== 'finished'; i++) await cluster.run(100);
  t.match(look(), { state: 'finished', counts: { found: 0, kept: 0, diverged: 0 } });
});

/** Flips a bit of the first block on the disk that is filled with `fill`; how many there are. */
function rotOnDisk({ files, replicaId }: DiskNode, fill: number, flips: boolean): number {
  const data = files.content(`/disk/lineages/${replicaId}/data`);
  const block = Buffer.alloc(blockBytes);
  const wanted = Buffer.alloc(blockBytes, fill);
  let count = 0;
  for (let at = 0; at < data.sizeBytes; at += blockBytes) {
    data.read(block, 0, blockBytes, at);
    if (!block.equals(wanted)) continue;
    count += 1;
    if (flips && count === 1) data.corrupt(at + 9, Uint8Array.of(fill ^ 1));
  }
  return count;
}

t.test(
  'on real stores a snapshot is repaired in its place, shared with the volume or not',
  async (t) => {
    const cluster = new DiskCluster({ seed: 21, sizeBytes, nodes: 3 });
    await cluster.create();
    const volume = await cluster.wait(cluster.attach(0));
    for (const chunk of [0, 1]) await write(cluster, volume, chunk, 1 + chunk);
    await take(cluster, volume, first);
    await write(cluster, volume, 0, 11);
    // one that only the snapshot has, and one that it shares with the volume
    rotOnDisk(cluster.node(1), 1, true);
    rotOnDisk(cluster.node(2), 2, true);
    t.equal(rotOnDisk(cluster.node(1), 1, false), 63);
    const seen = await scrubbed(cluster, volume, 'one');
    t.match(seen.counts, { kept: 0, diverged: 0 });
    // the shared block is bad in the volume, and where that was copied away, in the snapshot as well
    t.equal(seen.counts.found, 3);
    t.equal(seen.counts.repaired, 3);
    t.equal(rotOnDisk(cluster.node(1), 1, false), 64);
    t.equal(rotOnDisk(cluster.node(2), 2, false), 128);
    t.match((await scrubbed(cluster, volume, 'two')).counts, { found: 0, repaired: 0 });
    for (const { failures } of cluster.nodes) t.same(failures.all, []);
    cluster.end();
  },
);
