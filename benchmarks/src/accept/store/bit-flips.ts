import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Scrub, StorEvent } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import { NbdClient, NbdError } from 'nbd-client-js';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { WriterProcess } from '../../harness/writer-process.ts';
import { hashExport, readAllReplicas } from '../../scenarios/replicas.ts';
import { recogniseSector, sectorBytes, stampSectors } from '../../verify/stamp.ts';
import { BitFlipper } from './bit-flipper.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const blockBytes = 4096;
const sectorsPerBlock = blockBytes / sectorBytes;
const seed = 77;
const scrubDeadlineMs = 300_000;

/**
 * Bits flip in the files of replicas under running agents: nothing wrong reaches a client, another
 * replica mends it, and where there is none the client gets EIO for exactly those blocks.
 */
export async function bitFlips(stage: StoreStage): Promise<void> {
  await onLoopback({ ...stage, dir: join(stage.dir, 'three') }, {}, (cluster) =>
    flipUnderLoad(stage, cluster),
  );
  await onLoopback({ ...stage, dir: join(stage.dir, 'one') }, {}, (cluster) =>
    flipTheOnlyOne(stage, cluster),
  );
}

async function flipUnderLoad(
  { report, quick, dir }: StoreStage,
  cluster: TestCluster,
): Promise<void> {
  const halfBytes = (quick ? 32 : 128) * MiB;
  const half = halfBytes / blockBytes;
  await cluster.must('volume', 'create', 'rot', '--size', String(2 * halfBytes));
  const uri = cluster.unixUri(0, 'rot');
  await fill(uri, half);
  const hash = await hashExport(uri, 0, halfBytes);
  const logPath = join(dir, 'writer.log');
  const writer = new WriterProcess({
    uri,
    logPath,
    offset: halfBytes,
    length: halfBytes,
    seed: 9,
    depth: 8,
    connections: 2,
    flushEvery: 500,
    rate: 1_500,
    readShare: 50,
  });
  const looking = look(uri, halfBytes, hash);
  try {
    await waitFor('the writer', () => writer.acknowledged > 3_000, { deadlineMs: 120_000 });
    const flips = await flipEverywhere(cluster, quick ? 100 : 300);
    const still = flips.filter((block) => block < half).length;
    const first = await scrubOnce(cluster, 'rot');
    const { wrong, rounds, error } = await looking.stop();
    const summary = await writer.stop();
    report.add(
      `a client reads on while ${flips.length} blocks of 3 replicas rot`,
      `${rounds} passes over ${halfBytes / MiB} MiB, ${wrong} wrong, ${error ?? 'no error'}`,
      '0 wrong, no error',
      wrong === 0 && error === null && rounds > 0,
    );
    report.add(
      'a verifying writer goes on beside it',
      `${summary.acknowledged} writes, ${summary.reads} reads, ${summary.wrongReads.length} wrong, ${summary.errors.length} errors`,
      '0 wrong, 0 errors',
      summary.wrongReads.length + summary.errors.length === 0 && summary.acknowledged > 3_000,
    );
    await checkRepairs(report, cluster, { still, first });
  } finally {
    await looking.stop();
    await writer.kill();
  }
  const read = await readAllReplicas(cluster, 'rot', dir);
  const equal = read.replicas.every(({ contentHash }) => contentHash === read.servedHash);
  const bad = read.replicas.reduce((sum, { badBlocks }) => sum + badBlocks, 0);
  report.add(
    'the disks afterwards, read by the independent reader',
    `${equal ? 'equal' : 'DIFFERENT'}, ${bad} bad blocks`,
    'equal, 0 bad blocks',
    equal && bad === 0,
  );
}

async function checkRepairs(
  report: StoreStage['report'],
  cluster: TestCluster,
  { still, first }: { still: number; first: Scrub['history'][0] },
): Promise<void> {
  const second = await scrubOnce(cluster, 'rot');
  const [found, repaired] = await Promise.all([
    metric(cluster, 'stor_scrub_errors_total'),
    metric(cluster, 'stor_scrub_repaired_total'),
  ]);
  report.add(
    'found and repaired, by reads and a scrub',
    `${found} found, ${repaired} repaired`,
    `>= ${still}, all repaired`,
    found >= still && repaired === found,
  );
  report.add(
    'the scrub under load, and one more',
    `${first.counts.found} bad, then ${second.counts.found}; ${second.counts.diverged} differ`,
    'then 0, 0 differ',
    second.counts.found === 0 && second.counts.diverged + first.counts.diverged === 0,
  );
  // repeated ones are gathered for some seconds before they are written
  const wanted = [found, repaired, 2];
  let counts: number[] = [];
  await waitFor(
    'events of everything',
    async () => {
      counts = await eventCounts(cluster);
      return counts.join() === wanted.join();
    },
    { deadlineMs: 30_000, intervalMs: 1_000 },
  ).catch(() => {});
  report.add(
    'events: found, repaired, scrubs finished',
    counts.join(', '),
    wanted.join(', '),
    counts.join() === wanted.join(),
  );
}

/** What events tell of bad blocks found, of blocks repaired and of scrubs that finished. */
async function eventCounts(cluster: TestCluster): Promise<number[]> {
  const text = await cluster.must('events', '--volume', 'rot', '--limit', '5000', '-o', 'json');
  const events = JSON.parse(text) as StorEvent[];
  return ['bad-block-found', 'bad-block-repaired', 'scrub-finished'].map((reason) =>
    events.filter((event) => event.reason === reason).reduce((sum, { count }) => sum + count, 0),
  );
}

/** Every block at most once, on whatever replica: with two bad copies of three there is still one. */
async function flipEverywhere(cluster: TestCluster, perReplica: number): Promise<number[]> {
  const random = new SeededRandom(5);
  const flipped = new Set<number>();
  const { status } = await cluster.inspect('rot');
  for (const { id, node } of status.replicas) {
    const disk = join(cluster.agent(cluster.indexOfNode(node)).dataDir, 'disks/d1');
    const flipper = new BitFlipper(disk, id, () => random.next());
    const mayFlip = (block: number): boolean => !flipped.has(block);
    for (const what of ['data', 'sums'] as const) {
      const count = what === 'data' ? perReplica : Math.ceil(perReplica / 2);
      for (const block of flipper.flip(what, count, mayFlip)) flipped.add(block);
    }
    flipper.close();
  }
  return [...flipped];
}

/** Reads the same range again and again. */
function look(uri: string, bytes: number, hash: string) {
  const seen = { rounds: 0, wrong: 0, error: null as string | null };
  let stopped = false;
  const running = (async () => {
    while (!stopped) {
      const now = await hashExport(uri, 0, bytes);
      seen.rounds += 1;
      if (now !== hash) seen.wrong += 1;
    }
  })().catch((error: unknown) => {
    seen.error = String(error);
  });
  return {
    stop: async () => {
      stopped = true;
      await running;
      return seen;
    },
  };
}

/** Stamps the first blocks of a volume. */
async function fill(uri: string, blocks: number): Promise<void> {
  const client = await NbdClient.connect({ uri });
  const piece = Buffer.alloc(MiB);
  const count = MiB / sectorBytes;
  for (let at = 0; at < blocks * blockBytes; at += MiB) {
    stampSectors(piece, 0, at / sectorBytes, count, at / MiB + 1, seed);
    await client.write(at, piece);
  }
  await client.flush();
  await client.disconnect();
}

async function scrubOnce(cluster: TestCluster, volume: string): Promise<Scrub['history'][0]> {
  const status = async (): Promise<Scrub | undefined> => {
    const text = await cluster.must('scrub', 'status', volume, '-o', 'json');
    return (JSON.parse(text) as { scrubs: Scrub[] }).scrubs[0];
  };
  const before = (await status())?.history.length ?? 0;
  await cluster.must('scrub', 'start', volume);
  return waitFor(
    `the scrub of ${volume}`,
    async () => {
      const seen = await status();
      return seen?.state === 'idle' && seen.history.length > before ? seen.history.at(-1) : null;
    },
    { deadlineMs: scrubDeadlineMs, intervalMs: 500 },
  );
}

/** The sum over all nodes. */
async function metric(cluster: TestCluster, name: string): Promise<number> {
  let sum = 0;
  for (const { place } of cluster.agents) {
    const response = await fetch(`http://${place.host}:${place.httpPort}/metrics`);
    for (const line of (await response.text()).split('\n')) {
      if (line.startsWith(`${name}{`)) sum += Number(line.slice(line.lastIndexOf(' ')));
    }
  }
  return sum;
}

async function flipTheOnlyOne(
  { report, quick, dir }: StoreStage,
  cluster: TestCluster,
): Promise<void> {
  const blocks = ((quick ? 8 : 32) * MiB) / blockBytes;
  const size = String(blocks * blockBytes);
  await cluster.must('volume', 'create', 'one', '--size', size, '--replicas', '1');
  const { status } = await cluster.inspect('one');
  const [replica] = status.replicas;
  if (!replica) throw new Error('the volume has no replica');
  const index = cluster.indexOfNode(replica.node);
  // on another node than the replica, so that a relay or a link lies between
  const uri = cluster.tcpUri((index + 1) % cluster.agents.length, 'one');
  await fill(uri, blocks);
  const client = await NbdClient.connect({ uri });
  const random = new SeededRandom(6);
  const disk = join(cluster.agent(index).dataDir, 'disks/d1');
  const flipper = new BitFlipper(disk, replica.id, () => random.next());
  const flipped = new Set<number>();
  for (const what of ['data', 'sums'] as const) {
    for (const block of flipper.flip(what, quick ? 50 : 150, (each) => !flipped.has(each))) {
      flipped.add(block);
    }
  }
  dropCaches();
  const first = await readEach(client, blocks);
  report.add(
    `one replica: ${flipped.size} of ${blocks} blocks rot`,
    `EIO for ${first.failed.size}, ${first.wrong} wrong`,
    'EIO for exactly those',
    first.wrong === 0 && isSame(first.failed, flipped),
  );
  const scrub = await scrubOnce(cluster, 'one');
  report.add(
    'a scrub of it finds them and guesses nothing',
    `${scrub.counts.found} found, ${scrub.counts.kept} kept, ${scrub.counts.repaired} repaired`,
    `${flipped.size}, ${flipped.size}, 0`,
    scrub.counts.found === flipped.size &&
      scrub.counts.kept === flipped.size &&
      scrub.counts.repaired === 0,
  );
  await writeParts(report, client, flipped);
  await overwrite(client, flipped);
  const healed = await readEach(client, blocks);
  const clean = await scrubOnce(cluster, 'one');
  report.add(
    'whole blocks are overwritten',
    `EIO for ${healed.failed.size}, ${healed.wrong} wrong; a scrub finds ${clean.counts.found}`,
    '0, 0, 0',
    healed.failed.size === 0 && healed.wrong === 0 && clean.counts.found === 0,
  );
  flipper.close();
  await client.disconnect();
  const read = await readAllReplicas(cluster, 'one', dir);
  const bad = read.replicas.reduce((sum, { badBlocks }) => sum + badBlocks, 0);
  report.add('its disk afterwards', `${bad} bad blocks`, '0', bad === 0);
}

/** A part of a bad block makes no whole: the write fails, and the block stays an error. */
async function writeParts(
  report: StoreStage['report'],
  client: NbdClient,
  flipped: ReadonlySet<number>,
): Promise<void> {
  let refused = 0;
  const tried = [...flipped].slice(0, 20);
  for (const block of tried) {
    const part = Buffer.alloc(sectorBytes);
    const code = await errorOf(client.write(block * blockBytes + sectorBytes, part));
    if (code === 'EIO' && (await errorOf(client.read(block * blockBytes, blockBytes))) === 'EIO') {
      refused += 1;
    }
  }
  report.add(
    'a write of 512 bytes into a bad block',
    `EIO for ${refused} of ${tried.length}`,
    'all, and it stays an error',
    refused === tried.length,
  );
}

async function overwrite(client: NbdClient, blocks: ReadonlySet<number>): Promise<void> {
  for (const block of blocks) {
    const bytes = Buffer.alloc(blockBytes);
    const sector = block * sectorsPerBlock;
    stampSectors(bytes, 0, sector, sectorsPerBlock, sequenceOf(block), seed);
    await client.write(block * blockBytes, bytes);
  }
  await client.flush();
}

/** As `fill` numbered it. */
function sequenceOf(block: number): number {
  return Math.floor((block * blockBytes) / MiB) + 1;
}

/** Reads block after block: which fail with EIO, and how many hold anything but what was written. */
async function readEach(
  client: NbdClient,
  blocks: number,
): Promise<{ failed: Set<number>; wrong: number }> {
  const failed = new Set<number>();
  let wrong = 0;
  for (let block = 0; block < blocks; block += 1) {
    try {
      const bytes = await client.read(block * blockBytes, blockBytes);
      for (let at = 0; at < sectorsPerBlock; at += 1) {
        const sector = block * sectorsPerBlock + at;
        const content = recogniseSector(bytes, at * sectorBytes, sector, seed);
        if (content.kind !== 'write' || content.sequence !== sequenceOf(block)) wrong += 1;
      }
    } catch (error) {
      if (!(error instanceof NbdError && error.errnoName === 'EIO')) throw error;
      failed.add(block);
    }
  }
  return { failed, wrong };
}

async function errorOf(request: Promise<unknown>): Promise<string> {
  try {
    await request;
    return '';
  } catch (error) {
    if (error instanceof NbdError) return error.errnoName;
    throw error;
  }
}

function isSame(a: ReadonlySet<number>, b: ReadonlySet<number>): boolean {
  return a.size === b.size && [...a].every((each) => b.has(each));
}

/** So that blocks come from the disk; without the right to do so they come from memory. */
function dropCaches(): void {
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '1\n');
  } catch {
    process.stderr.write('caches are not dropped: that needs root\n');
  }
}
