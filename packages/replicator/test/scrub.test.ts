/** Scrubs find what rots and what differs, repair it, and never guess (I9). */
import { blockBytes, chunkBytes } from '@stor/protocol';
import type { ScrubOrder, ScrubProgress } from '@stor/protocol';
import { crc32 } from '@stor/runtime';
import t from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request, type MemoryReplicaState } from '@stor/replicator/testing';
import { noCounts } from '../src/primary/scrubber.ts';

const sizeBytes = 40 * chunkBytes;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

function orderOf(volume: PrimaryVolume, change: Partial<ScrubOrder> = {}): ScrubOrder {
  return {
    volumeId: volume.volumeId,
    epoch: volume.epoch,
    runId: 'run-1',
    position: { segment: 0, chunk: 0 },
    counts: { ...noCounts },
    paused: false,
    rateBytesPerSecond: 2 ** 30,
    ...change,
  };
}

/** Orders it until it is finished. */
async function scrubbed(
  cluster: SimCluster,
  volume: PrimaryVolume,
  change: Partial<ScrubOrder> = {},
): Promise<ScrubProgress> {
  let last: ScrubProgress | null = null;
  for (let i = 0; i < 600; i++) {
    last = volume.scrub(orderOf(volume, change));
    if (last?.state === 'finished') return last;
    await cluster.run(100);
  }
  throw new Error(`the scrub did not finish: ${JSON.stringify(last)}`);
}

function state(cluster: SimCluster, index: number): MemoryReplicaState {
  const found = cluster.states[index];
  if (!found) throw new Error(`no state ${index}`);
  return found;
}

/** Other bytes with a checksum that matches: what a lost or misplaced write leaves. */
function replace(of: MemoryReplicaState, at: number, fill: number): void {
  of.bytes.fill(fill, at * blockBytes, (at + 1) * blockBytes);
  of.sums[at] = crc32(of.bytes.subarray(at * blockBytes, (at + 1) * blockBytes));
}

function areEqual(cluster: SimCluster): boolean {
  const [first, ...others] = cluster.states;
  if (!first) return false;
  for (let at = 0; at < first.blocks; at++)
    if (!cluster.states.every((s) => s.isValid(at))) return false;
  return others.every((other) => other.bytes.equals(first.bytes));
}

async function begin(options: { seed: number; replicas?: number; at?: number; chunks?: number }) {
  const cluster = new SimCluster({
    seed: options.seed,
    sizeBytes,
    nodes: 4,
    replicaNodes: options.replicas ?? 3,
  });
  const volume = await cluster.wait(cluster.attach(options.at ?? 0));
  for (let chunk = 0; chunk < (options.chunks ?? 6); chunk++) {
    const bytes = Buffer.alloc(chunkBytes, chunk + 1);
    const offset = chunk * 3 * chunkBytes;
    t.equal(await cluster.wait(request(volume, 'write', offset, chunkBytes, bytes)), null);
  }
  return { cluster, volume };
}

t.test('what rots anywhere is found and repaired, and told', async (t) => {
  for (const at of [0, 3]) {
    const { cluster, volume } = await begin({ seed: 1, at });
    state(cluster, 0).bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 1);
    state(cluster, 1).sums[4] = 1;
    state(cluster, 2).bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 1);
    state(cluster, 2).sums[3 * 64 + 5] = 7;
    const seen = await scrubbed(cluster, volume);
    t.match(seen, {
      counts: { bytes: 6 * chunkBytes, found: 4, repaired: 4, kept: 0, diverged: 0 },
    });
    t.ok(areEqual(cluster));
    t.equal(state(cluster, 0).unflushed.size, 0, 'repairs are durable');
    t.equal(cluster.control.inSync.length, 3, 'nobody left for it');
    t.same(volume.status().segments[0]?.badBlocks, { found: 4, repaired: 4 });
    await cluster.run(2_000);
    const told = (reason: string): number =>
      cluster.control.events
        .filter((event) => event.reason === reason)
        .reduce((sum, { count }) => sum + (count ?? 1), 0);
    t.same([told('bad-block-found'), told('bad-block-repaired')], [4, 4]);
    t.match(cluster.control.events[0], { volumeId: 'v-1', object: { kind: 'replica' } });
    const again = await scrubbed(cluster, volume, { runId: 'run-2' });
    t.match(again.counts, { found: 0, repaired: 0 });
    const { scrubbedBytes, disks } = cluster.node(at).lane?.integrity() ?? {};
    t.equal(scrubbedBytes, 12 * chunkBytes);
    t.same(disks?.map((disk) => [disk.diskId, disk.found, disk.repaired]).sort(), [
      ['d-0', 1, 1],
      ['d-1', 1, 1],
      ['d-2', 2, 2],
    ]);
  }
});

t.test('of three that verify and differ the one that is alone is rewritten', async (t) => {
  const { cluster, volume } = await begin({ seed: 2 });
  replace(state(cluster, 0), 3, 0x77);
  replace(state(cluster, 2), 9, 0x78);
  const seen = await scrubbed(cluster, volume);
  t.match(seen.counts, { found: 0, repaired: 2, diverged: 0 });
  t.ok(areEqual(cluster));
  t.same(state(cluster, 0).bytes.subarray(3 * blockBytes, 4 * blockBytes), block(1));
});

t.test('of two that differ nobody is right: it is told and left', async (t) => {
  const { cluster, volume } = await begin({ seed: 3, replicas: 2, at: 2 });
  replace(state(cluster, 0), 3, 0x77);
  const seen = await scrubbed(cluster, volume);
  t.match(seen.counts, { found: 0, repaired: 0, diverged: 1 });
  t.equal(state(cluster, 0).bytes[3 * blockBytes], 0x77);
  t.equal(state(cluster, 1).bytes[3 * blockBytes], 1);
  await cluster.run(2_000);
  t.match(
    cluster.control.events.filter(({ reason }) => reason === 'replicas-differ'),
    [{ object: { kind: 'volume', id: 'v-1' }, count: 1 }],
  );
  t.equal(cluster.node(2).lane?.integrity().diverged, 1);
});

t.test('with one replica bad blocks stay errors, and are healed by a write', async (t) => {
  const { cluster, volume } = await begin({ seed: 4, replicas: 1 });
  state(cluster, 0).bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 1);
  state(cluster, 0).sums[3 * 64] = 7;
  const seen = await scrubbed(cluster, volume);
  t.match(seen.counts, { found: 2, repaired: 0, kept: 2, diverged: 0 });
  t.equal(state(cluster, 0).bytes[3 * blockBytes], 0x55, 'nothing is blessed');
  const read = (at: number): Promise<unknown> =>
    cluster.wait(request(volume, 'read', at * blockBytes, blockBytes, Buffer.alloc(blockBytes)));
  t.match(await read(3), { code: 'CHECKSUM_MISMATCH' });
  t.equal(await read(2), null);
  t.equal(await read(4), null);
  const part = request(volume, 'write', 3 * blockBytes + 512, 512, Buffer.alloc(512, 9));
  t.match(await cluster.wait(part), { code: 'CHECKSUM_MISMATCH' }, 'a part of it makes no whole');
  t.match(await read(3), { code: 'CHECKSUM_MISMATCH' }, 'and blesses nothing');
  for (const at of [3, 3 * 64]) {
    const write = request(volume, 'write', at * blockBytes, blockBytes, block(8));
    t.equal(await cluster.wait(write), null);
    t.equal(await read(at), null);
  }
  const again = await scrubbed(cluster, volume, { runId: 'run-2' });
  t.match(again.counts, { found: 0, kept: 0 });
});

t.test('a read of a bad block without another replica is counted once', async (t) => {
  const { cluster, volume } = await begin({ seed: 5, replicas: 1 });
  state(cluster, 0).bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 1);
  for (let i = 0; i < 3; i++) {
    const target = Buffer.alloc(blockBytes);
    t.ok(await cluster.wait(request(volume, 'read', 3 * blockBytes, blockBytes, target)));
  }
  t.same(volume.status().segments[0]?.badBlocks, { found: 1, repaired: 0 });
  await cluster.run(2_000);
  t.match(cluster.control.events.map(({ reason, count }) => `${reason} ${count}`).sort(), [
    'bad-block-found 1',
    'bad-block-kept 1',
  ]);
});

t.test('it can be paused, and goes on elsewhere where it was', async (t) => {
  const { cluster, volume } = await begin({ seed: 6, chunks: 12 });
  const slow = { rateBytesPerSecond: 4 * chunkBytes };
  let seen = volume.scrub(orderOf(volume, slow));
  for (let i = 0; i < 10; i++) {
    await cluster.run(100);
    seen = volume.scrub(orderOf(volume, slow));
  }
  t.match(seen, { state: 'running' });
  t.ok(volume.isScrubbing);
  volume.scrub(orderOf(volume, { ...slow, paused: true }));
  await cluster.run(1_000);
  const held = volume.scrub(orderOf(volume, { ...slow, paused: true }));
  await cluster.run(3_000);
  t.notOk(volume.isScrubbing);
  t.same(volume.scrub(orderOf(volume, { ...slow, paused: true })), held, 'nothing moves');
  t.ok(held && held.counts.bytes > 0 && held.counts.bytes < 12 * chunkBytes);
  await cluster.wait(volume.stop());
  cluster.control.released(volume.epoch);
  const next = await cluster.wait(cluster.attach(1));
  if (!held) throw new Error('it was running');
  const { position, counts } = held;
  const end = await scrubbed(cluster, next, { position, counts });
  t.equal(end.counts.bytes, 12 * chunkBytes, 'what was done was not done again');
});

t.test('without orders it stops', async (t) => {
  const { cluster, volume } = await begin({ seed: 7, chunks: 12 });
  volume.scrub(orderOf(volume, { rateBytesPerSecond: 1_000 }));
  await cluster.run(29_000);
  t.ok(volume.isScrubbing);
  await cluster.run(2_000);
  t.notOk(volume.isScrubbing);
});

t.test('the volume is wanted until its end was heard', async (t) => {
  const { cluster, volume } = await begin({ seed: 12 });
  volume.scrub(orderOf(volume));
  await cluster.run(5_000);
  t.ok(volume.isScrubbing, 'it has ended, and nobody knows');
  t.match(volume.scrub(orderOf(volume)), { state: 'finished' });
  t.notOk(volume.isScrubbing);
});

t.test('its rate is a limit', async (t) => {
  const { cluster, volume } = await begin({ seed: 8, chunks: 12 });
  const beganMs = cluster.scheduler.nowMs;
  await scrubbed(cluster, volume, { rateBytesPerSecond: 2 * chunkBytes });
  const tookMs = cluster.scheduler.nowMs - beganMs;
  t.ok(tookMs > 4_500 && tookMs < 9_000, `${tookMs} ms for 12 chunks at 2 in a second`);
});

t.test('a disk that does not keep what is written fails', async (t) => {
  const { cluster, volume } = await begin({ seed: 9 });
  const first = state(cluster, 0);
  const put = first.put.bind(first);
  first.put = (at, bytes, start, sum) => {
    put(at, bytes, start, at === 3 ? ~sum : sum);
  };
  first.bytes.fill(0x55, 3 * blockBytes, 3 * blockBytes + 9);
  const seen = await scrubbed(cluster, volume);
  t.match(seen.counts, { found: 1, repaired: 0 });
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
  t.match(cluster.node(0).failures, [{ replicaId: 'r-0', reason: /cannot be repaired/ }]);
});

t.test('it waits for a resync, and then reads the newcomer too', async (t) => {
  const { cluster, volume } = await begin({ seed: 10 });
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(9))), null);
  cluster.start(2);
  state(cluster, 2).bytes.fill(0x55, 6 * chunkBytes, 6 * chunkBytes + 1);
  const seen = await scrubbed(cluster, volume);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  if (seen.counts.found === 0) await scrubbed(cluster, volume, { runId: 'run-2' });
  t.ok(areEqual(cluster));
});

t.test('every segment of a volume is read', async (t) => {
  const segmentBytes = 16 * chunkBytes;
  const cluster = new SimCluster({ seed: 11, sizeBytes, segmentBytes, nodes: 3, replicaNodes: 2 });
  const volume = await cluster.wait(cluster.attach(0));
  for (const chunk of [0, 15, 16, 31, 32, 39]) {
    const bytes = Buffer.alloc(chunkBytes, chunk + 1);
    t.equal(
      await cluster.wait(request(volume, 'write', chunk * chunkBytes, chunkBytes, bytes)),
      null,
    );
  }
  const rotten = cluster.states.filter((_, index) => index % 2 === 0);
  t.equal(rotten.length, 3);
  for (const each of rotten) each.bytes[0] = (each.bytes[0] ?? 0) ^ 1;
  const seen = await scrubbed(cluster, volume);
  t.match(seen.counts, { bytes: 6 * chunkBytes, found: 3, repaired: 3 });
  t.match(seen.position, { segment: 3, chunk: 0 });
  for (const each of rotten) t.ok(each.isValid(0));
  await cluster.run(2_000);
  const places = cluster.control.events
    .filter(({ reason }) => reason === 'bad-block-found')
    .map(({ message }) => Number(/byte (\d+)/.exec(message)?.[1]));
  t.same(
    places.sort((a, b) => a - b),
    [0, segmentBytes, 2 * segmentBytes],
  );
});

t.test('whatever happens meanwhile, a scrub in peace leaves all equal', async (t) => {
  for (let seed = 100; seed < 112; seed++) {
    const { cluster, volume: first } = await begin({ seed, at: seed % 4 });
    let volume = first;
    const { random } = cluster;
    const pick = (n: number): number => Math.floor(random.next() * n);
    for (let step = 0; step < 40; step++) {
      volume.scrub(
        orderOf(volume, { runId: `run-${Math.floor(step / 12)}`, paused: pick(8) === 0 }),
      );
      const chance = pick(10);
      const node = pick(3);
      if (chance < 3) {
        // one replica at a time: with two rotten copies of a block nobody could win
        const rotten = state(cluster, seed % 3);
        const at = pick(6) * 3 * 64 + pick(64);
        const place = at * blockBytes + pick(blockBytes);
        rotten.bytes[place] = (rotten.bytes[place] ?? 0) ^ (1 << pick(8));
      } else if (chance === 3 && cluster.control.inSync.length === 3) {
        if (node !== seed % 4 && node !== seed % 3) cluster.kill(node);
      } else if (chance === 4) for (let i = 0; i < 3; i++) cluster.start(i);
      else if (chance === 5) {
        await cluster.wait(volume.stop());
        cluster.control.released(volume.epoch);
        volume = await cluster.wait(cluster.attach(seed % 4));
      }
      const offset = pick(6) * 3 * chunkBytes + pick(60) * blockBytes;
      const write = request(
        volume,
        'write',
        offset,
        2 * blockBytes,
        Buffer.alloc(2 * blockBytes, step),
      );
      t.equal(await cluster.wait(write), null);
      await cluster.run(pick(800));
    }
    for (let i = 0; i < 3; i++) cluster.start(i);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 60_000), `seed ${seed}`);
    const seen = await scrubbed(cluster, volume, { runId: 'last' });
    t.match(seen.counts, { kept: 0, diverged: 0 }, `seed ${seed}`);
    t.ok(areEqual(cluster), `seed ${seed}`);
  }
});
