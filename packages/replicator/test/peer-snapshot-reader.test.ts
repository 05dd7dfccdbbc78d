import { StorError, blockBytes, chunkBytes } from '@stor/protocol';
import { FailoverSnapshotReader, type ReplicaView, type SnapshotReader } from '@stor/replicator';
import { SimCluster } from '@stor/replicator/testing';
import { silentLogger } from '@stor/runtime';
import t from 'tap';
import { Bitmap } from '../src/core/replication/bitmap.ts';

const sizeBytes = 3 * 1024 * 1024 + 5 * chunkBytes;
const older = 's-00000000000000aa';
const wanted = 's-00000000000000bb';

/** What a replica holds of the snapshot, as its disk would give it. */
class Frozen {
  readonly truth = Buffer.alloc(sizeBytes);
  readonly bad = new Set<number>();
  readonly ids = [older, wanted];
  reads = 0;

  constructor() {
    for (let at = 0; at < sizeBytes; at++) this.truth[at] = (at * 31 + (at >> 12)) & 0xff;
  }

  /** Puts it on the replica of a node, whatever that one's store can do by itself. */
  on(cluster: SimCluster, node: number): void {
    Object.assign(cluster.store(node), {
      takeSnapshot: () => {},
      snapshots: () =>
        this.ids.map((snapshotId) => {
          const more = { epoch: 1, sizeBytes, parent: null, ownBytes: 0 };
          return { snapshotId, state: 'ready', ...more };
        }),
      view: () => this.#view(),
      changedChunks: (from: string, to: string) => {
        if (from !== older || to !== wanted) return null;
        const changed = new Bitmap(Math.ceil(sizeBytes / chunkBytes));
        changed.add(4);
        return changed;
      },
    });
  }

  #view(): ReplicaView {
    return {
      snapshotId: wanted,
      sizeBytes,
      read: (offset, length, target, start, done) => {
        this.reads += 1;
        let error: StorError | null = null;
        if (!this.ids.includes(wanted)) error = new StorError('NOT_FOUND', 'it was dropped');
        for (let at = offset; at < offset + length; at += blockBytes) {
          if (this.bad.has(at / blockBytes)) error = new StorError('CHECKSUM_MISMATCH', 'rotten');
        }
        target.set(this.truth.subarray(offset, offset + length), start);
        queueMicrotask(() => {
          done(error);
        });
      },
      extents: (offset, length, limit) =>
        [
          { offset, length: chunkBytes, allocated: true },
          { offset: offset + chunkBytes, length: length - chunkBytes, allocated: false },
        ].slice(0, limit),
    } as Partial<ReplicaView> as ReplicaView;
  }
}

/** Node 2 has no replica and reads what nodes 0 and 1 have. */
function setUp(): { cluster: SimCluster; frozen: Frozen[]; reader: FailoverSnapshotReader } {
  const cluster = new SimCluster({ seed: 3, sizeBytes, nodes: 3, replicaNodes: 2 });
  const frozen = [0, 1].map((node) => {
    const each = new Frozen();
    each.on(cluster, node);
    return each;
  });
  const { lane, clock } = cluster.node(2);
  const snapshot = { volumeId: 'v-1', segment: 0, snapshotId: wanted, offsetBytes: 0 };
  const sources = [0, 1].map((node) => {
    const address = {
      nodeId: `n-${node}`,
      diskId: `d-${node}`,
      host: 'sim',
      port: cluster.node(node).port,
    };
    return lane!.snapshotSource({ replicaId: `r-${node}`, ...address }, snapshot);
  });
  const reader = new FailoverSnapshotReader({ sources, sizeBytes, clock, logger: silentLogger });
  return { cluster, frozen, reader };
}

async function read(
  cluster: SimCluster,
  reader: SnapshotReader,
  offset: number,
  length: number,
): Promise<Buffer> {
  const target = Buffer.alloc(length);
  const error = await cluster.wait(
    new Promise<StorError | null>((resolve) => {
      reader.read(offset, length, target, 0, resolve);
    }),
  );
  if (error) throw error;
  return target;
}

t.test('a snapshot is read over a link, verified, without any primary', async (t) => {
  const { cluster, frozen, reader } = setUp();
  await cluster.wait(reader.ready());
  const [first, second] = frozen as [Frozen, Frozen];
  const whole = await read(cluster, reader, 0, sizeBytes);
  t.ok(whole.equals(first.truth), 'also more than one request to the other node takes');
  const offset = 17 * blockBytes;
  const part = await read(cluster, reader, offset, 3 * blockBytes);
  t.ok(part.equals(first.truth.subarray(offset, offset + 3 * blockBytes)));
  t.equal(second.reads, 0);
  t.same(
    await cluster.wait(
      new Promise((resolve) => {
        reader.extents(0, 4 * chunkBytes, 8, (_error, extents) => {
          resolve(extents);
        });
      }),
    ),
    [
      { offset: 0, length: chunkBytes, allocated: true },
      { offset: chunkBytes, length: 3 * chunkBytes, allocated: false },
    ],
  );
  const dirty = (since: string): Promise<unknown> =>
    cluster.wait(
      new Promise((resolve) => {
        reader.changedSince(since, 3 * chunkBytes, 3 * chunkBytes, 8, (error, extents) => {
          resolve(error?.code ?? extents);
        });
      }),
    );
  for (let round = 0; round < 2; round++) {
    t.same(await dirty(older), [
      { offset: 3 * chunkBytes, length: chunkBytes, dirty: false },
      { offset: 4 * chunkBytes, length: chunkBytes, dirty: true },
      { offset: 5 * chunkBytes, length: chunkBytes, dirty: false },
    ]);
  }
  t.equal(await dirty('s-00000000000000cc'), 'NOT_FOUND');
  t.equal(cluster.control.holder, null, 'nobody was asked for an attachment');
  reader.close();
});

t.test('a bad block, a dead node, a dropped snapshot: the other replica answers', async (t) => {
  const { cluster, frozen, reader } = setUp();
  const [first, second] = frozen as [Frozen, Frozen];
  await cluster.wait(reader.ready());
  first.bad.add(7);
  const eight = await read(cluster, reader, 0, 8 * blockBytes);
  t.ok(eight.equals(first.truth.subarray(0, 8 * blockBytes)));
  t.ok(second.reads > 0);
  const { disks } = cluster.node(2).lane!.integrity();
  t.same(disks, [{ diskId: 'd-0', found: 1, repaired: 0 }], 'a scrub is to repair it there');
  cluster.kill(0);
  const whole = await read(cluster, reader, 0, sizeBytes);
  t.ok(whole.equals(first.truth));
  second.ids.splice(1, 1);
  await t.rejects(read(cluster, reader, 0, blockBytes), { code: /NOT_FOUND|UNAVAILABLE/ });
  cluster.start(0);
  first.ids.splice(1, 1);
  first.on(cluster, 0);
  await cluster.run(10_000);
  await t.rejects(read(cluster, reader, 0, blockBytes), { code: 'NOT_FOUND', message: /deleted/ });
});

t.test('a node that owes an answer is left', async (t) => {
  const { cluster, frozen, reader } = setUp();
  const [first] = frozen as [Frozen, Frozen];
  await cluster.wait(reader.ready());
  const view = { read: () => {}, sizeBytes, snapshotId: wanted };
  Object.assign(cluster.store(0), { view: () => view });
  reader.close();
  const again = setUp();
  Object.assign(again.cluster.store(0), { view: () => view });
  const got = await read(again.cluster, again.reader, 0, blockBytes);
  t.ok(got.equals(first.truth.subarray(0, blockBytes)));
});
