// Whole agents on a fake clock: FLUSH on one connection is about what others have written, in every segment (I1).
import { loadServices, StorError, type ApiClient, type VolumePolicy } from '@stor/protocol';
import type { NbdClient } from 'nbd-client-js';
import t from 'tap';
import { ThreadCluster } from './thread-cluster.ts';

const blockBytes = 4096;
const segmentBytes = 4 * 2 ** 20;
const segments = 4;
const replicas = 3;
/** the middle of each segment, where no request of another one comes */
const places = Array.from({ length: segments }, (_, i) => i * segmentBytes + segmentBytes / 2);

async function prepare(
  seed: number,
  policy: Partial<VolumePolicy> = {},
): Promise<{ cluster: ThreadCluster; api: ApiClient; connect: () => Promise<NbdClient> }> {
  const cluster = new ThreadCluster(seed, await loadServices());
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => {
    const { disks } = await cluster.during(api.listDisks({}));
    return disks.length === 3;
  });
  const sizeBytes = segments * segmentBytes;
  const volume = { name: 'db', sizeBytes, segmentBytes, replicas, labels: {}, policy };
  await cluster.during(api.createVolume(volume));
  return { cluster, api, connect: () => cluster.connect(cluster.node(1), 'db') };
}

/** Every replica of the volume on every node, with its node. */
function replicasOf(cluster: ThreadCluster) {
  return cluster.nodes.flatMap(({ lanes }) =>
    lanes.flatMap(({ lane }) => lane.stores).flatMap((store) => store.replicas()),
  );
}

async function write(cluster: ThreadCluster, client: NbdClient, value: number): Promise<void> {
  const bytes = Buffer.alloc(blockBytes, value);
  await cluster.during(Promise.all(places.map((offset) => client.write(offset, bytes))));
}

t.test('every member of every segment has flushed before the answer', async (t) => {
  const { cluster, api, connect } = await prepare(1);
  const [writer, flusher] = [await connect(), await connect()];
  await write(cluster, writer, 7);
  const flushed = new Set<string>();
  const all = replicasOf(cluster);
  t.equal(all.length, segments * replicas);
  for (const [i, replica] of all.entries()) {
    const flush = replica.flush.bind(replica);
    // one after another, the last one long after the others
    replica.flush = (done) => {
      cluster.clock.after(10 + 20 * i, () => {
        flush((error) => {
          if (!error) flushed.add(replica.replicaId);
          done(error);
        });
      });
    };
  }
  const before = await cluster.during(
    flusher.flush().then(() => {
      return flushed.size;
    }),
  );
  t.equal(before, segments * replicas);
  for (const client of [writer, flusher]) await cluster.during(client.disconnect());
  await cluster.during(api.close());
  await cluster.close();
});

for (const isFlushed of [true, false]) {
  const what = isFlushed ? 'survives' : 'may be lost without a flush in';
  t.test(`what another connection wrote ${what} a power cut of all nodes`, async (t) => {
    let lost = 0;
    for (let seed = 1; seed <= 2; seed++) {
      const { cluster, api, connect } = await prepare(seed);
      const [writer, flusher] = [await connect(), await connect()];
      await write(cluster, writer, 7);
      if (isFlushed) await cluster.during(flusher.flush());
      for (const node of cluster.nodes) {
        cluster.kill(node);
        node.files.powerLoss();
      }
      await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
      let reader: NbdClient | null = null;
      await cluster.until(async () => {
        reader = await connect().catch(() => null);
        return reader !== null;
      });
      for (const offset of places) {
        const bytes = await cluster.during(
          (reader as unknown as NbdClient).read(offset, blockBytes),
        );
        if (bytes.every((byte) => byte === 7)) continue;
        lost += 1;
      }
      await cluster.during(api.close());
      await cluster.close();
    }
    if (isFlushed) t.equal(lost, 0);
    else t.ok(lost > 0, 'the test would notice');
  });
}

t.test('a segment that cannot be flushed makes FLUSH fail on every connection', async (t) => {
  const { cluster, api, connect } = await prepare(3, { failureMode: 'alwayson', onLoss: 'error' });
  const [writer, flusher] = [await connect(), await connect()];
  await write(cluster, writer, 7);
  for (const replica of replicasOf(cluster)) {
    if (replica.segment !== 2) continue;
    replica.flush = (done) => {
      cluster.clock.after(5, () => {
        done(new StorError('DISK_FAILED', 'fdatasync failed with EIO'));
      });
    };
  }
  for (const client of [flusher, writer, flusher]) {
    const answer = await cluster.during(
      client.flush().then(
        () => 'flushed',
        () => 'refused',
      ),
    );
    t.equal(answer, 'refused');
  }
  await cluster.during(api.close());
  await cluster.close();
});
