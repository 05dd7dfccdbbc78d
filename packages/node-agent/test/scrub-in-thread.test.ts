// Whole agents on a fake clock: bits rot on the disks of replicas, reads and scrubs mend them.
import { loadServices, type ApiClient, type Scrub } from '@stor/protocol';
import t from 'tap';
import type { NbdClient } from 'nbd-client-js';
import { ThreadCluster, type ThreadNode } from './thread-cluster.ts';

const blockBytes = 4096;
const blocks = 512;

async function prepare(replicas: number): Promise<{ cluster: ThreadCluster; api: ApiClient }> {
  const cluster = new ThreadCluster(11, await loadServices());
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => (await cluster.during(api.listDisks({}))).disks.length === 3);
  const volume = { name: 'db', sizeBytes: blocks * blockBytes, replicas, labels: {} };
  await cluster.during(api.createVolume(volume));
  return { cluster, api };
}

const content = (block: number): Buffer => Buffer.alloc(blockBytes, (block % 250) + 1);

async function fill(cluster: ThreadCluster, client: NbdClient): Promise<void> {
  const writes = Array.from({ length: blocks }, (_, i) => client.write(i * blockBytes, content(i)));
  await cluster.during(Promise.all(writes));
  await cluster.during(client.flush());
}

/** Which blocks fail; any that holds something else is the test's error. */
async function readAll(cluster: ThreadCluster, client: NbdClient): Promise<number[]> {
  const failed: number[] = [];
  for (let block = 0; block < blocks; block++) {
    const reading = client.read(block * blockBytes, blockBytes);
    const bytes = await cluster.during(reading.catch(() => null));
    if (!bytes) failed.push(block);
    else if (!bytes.equals(content(block))) throw new Error(`block ${block} is wrong`);
  }
  return failed;
}

/** Flips a bit of the bytes or of the checksum of each of these blocks, on one node. */
function rot(node: ThreadNode, what: 'data' | 'sums', wanted: readonly number[]): void {
  const lineages = '/data/disks/d1/lineages';
  const [lineage = 'none'] = node.files.process().list(lineages);
  const data = node.files.content(`${lineages}/${lineage}/data`);
  const sums = node.files.content(`${lineages}/${lineage}/sums`);
  const page = Buffer.alloc(blockBytes);
  const left = new Set(wanted);
  for (let linear = 0; linear * blockBytes < data.sizeBytes; linear++) {
    data.read(page, 0, blockBytes, linear * blockBytes);
    // a slot is a chunk of 64 blocks: the content tells which of those that look the same
    const block = [...left].find((each) => content(each).equals(page) && each % 64 === linear % 64);
    if (block === undefined) continue;
    left.delete(block);
    const [file, at] = what === 'data' ? [data, linear * blockBytes + 7] : [sums, linear * 4 + 1];
    const byte = Buffer.alloc(1);
    file.read(byte, 0, 1, at);
    file.corrupt(at, Uint8Array.of((byte[0] ?? 0) ^ 16));
  }
  if (left.size > 0) throw new Error(`blocks ${[...left].join()} were not found`);
}

async function scrubbed(cluster: ThreadCluster, api: ApiClient): Promise<Scrub['history'][0]> {
  const status = async (): Promise<Scrub | undefined> =>
    (await cluster.during(api.listScrubs({ volume: 'db' }))).scrubs[0];
  const before = (await status())?.history.length ?? 0;
  await cluster.during(api.startScrub({ volume: 'db' }));
  let last: Scrub['history'][0] | undefined;
  await cluster.until(async () => {
    const seen = await status();
    last = seen?.history.at(-1);
    return seen?.state === 'idle' && seen.history.length > before;
  });
  if (!last) throw new Error('no scrub has ended');
  return last;
}

t.test('what rots at any replica is mended, also in a volume that nobody uses', async (t) => {
  const { cluster, api } = await prepare(3);
  const client = await cluster.connect(cluster.node(0), 'db');
  await fill(cluster, client);
  for (const [index, node] of cluster.nodes.entries()) {
    rot(node, 'data', [index, 130 + index]);
    rot(node, 'sums', [260 + index]);
  }
  t.same(await readAll(cluster, client), [], 'nobody notices');
  const first = await scrubbed(cluster, api);
  t.match(first, { complete: true, counts: { kept: 0, diverged: 0 } });
  await cluster.during(client.disconnect());
  await cluster.until(async () => {
    const volume = await cluster.during(api.getVolume({ name: 'db' }));
    return volume.status.primary === null;
  });
  rot(cluster.node(1), 'data', [7, 400]);
  rot(cluster.node(2), 'sums', [8]);
  const second = await scrubbed(cluster, api);
  t.match(second, { reason: 'order', counts: { found: 3, repaired: 3, kept: 0, diverged: 0 } });
  await cluster.until(async () => {
    const volume = await cluster.during(api.getVolume({ name: 'db' }));
    return volume.status.primary === null;
  });
  const { events } = await cluster.during(
    api.listEvents({ volume: 'db', afterRevision: 0, limit: 0 }),
  );
  const told = (reason: string): number =>
    events.filter((each) => each.reason === reason).reduce((sum, { count }) => sum + count, 0);
  t.equal(told('bad-block-found'), 12);
  t.equal(told('bad-block-repaired'), 12);
  t.equal(told('scrub-finished'), 2);
  await cluster.during(api.close());
  await cluster.close();
});

t.test('with one replica exactly the blocks that rot fail, until they are written', async (t) => {
  const { cluster, api } = await prepare(1);
  const { status } = await cluster.during(api.getVolume({ name: 'db' }));
  const at = cluster.nodes.findIndex(({ id }) => id === status.replicas[0]?.nodeId);
  const client = await cluster.connect(cluster.node((at + 1) % 3), 'db');
  await fill(cluster, client);
  rot(cluster.node(at), 'data', [3, 200]);
  rot(cluster.node(at), 'sums', [64]);
  // the checksums of what was just written are in memory still: only a scrub looks at the file
  t.same(await readAll(cluster, client), [3, 200]);
  t.match((await scrubbed(cluster, api)).counts, { found: 3, repaired: 0, kept: 3 });
  t.same(await readAll(cluster, client), [3, 200], 'nothing was made up');
  for (const block of [3, 64, 200]) {
    await cluster.during(client.write(block * blockBytes, content(block)));
  }
  t.same(await readAll(cluster, client), []);
  t.match((await scrubbed(cluster, api)).counts, { found: 0, kept: 0 });
  await cluster.during(client.disconnect());
  await cluster.during(api.close());
  await cluster.close();
});
