import {
  blockBytes,
  chunkBytes,
  regionBytes,
  StorError,
  defaultPolicy,
  peerHeaderBytes,
  peerWriteBodyBytes,
  type AttachmentGrant,
} from '@stor/protocol';
import type { SharedBytes, StreamSocket } from '@stor/runtime';
import { SeededRandom } from '@stor/runtime/testing';
import t, { type Test } from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';
import { activationGraceMs } from '../src/replication/limits.ts';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function read(
  cluster: SimCluster,
  volume: PrimaryVolume,
  offset: number,
  length = blockBytes,
): Promise<Buffer> {
  const target = Buffer.alloc(length);
  const error = await cluster.wait(request(volume, 'read', offset, length, target));
  if (error) throw error;
  return target;
}

async function write(
  cluster: SimCluster,
  volume: PrimaryVolume,
  offset: number,
  fill: number,
): Promise<StorError | null> {
  return cluster.wait(request(volume, 'write', offset, blockBytes, block(fill)));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'none';
  } catch (error) {
    return StorError.from(error).code;
  }
}

function equalReplicas(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  for (const other of others) t.ok(first?.bytes.equals(other.bytes), 'replicas are equal');
}

t.test('writes reach all replicas and are read back', async (t) => {
  const cluster = new SimCluster({ seed: 1, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  t.equal(await write(cluster, volume, 8192, 7), null);
  for (const state of cluster.states) {
    t.equal(state.bytes[8192], 7);
    t.ok(state.marks.has(0));
  }
  t.same(await read(cluster, volume, 8192), block(7));
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
  for (const state of cluster.states) t.equal(state.unflushed.size, 0);
  await cluster.wait(request(volume, 'write', 0, blockBytes, block(1), { fua: true }));
  for (const state of cluster.states) t.equal(state.unflushed.size, 0, 'FUA is durable everywhere');
  await cluster.wait(volume.stop());
  await cluster.wait(volume.stop());
  for (const state of cluster.states)
    t.equal(state.marks.size, 0, 'the last checkpoint cleared it');
  const refused = await cluster.wait(request(volume, 'write', 0, blockBytes, block(1)));
  t.equal(refused?.code, 'ABORTED');
});

t.test(
  'what is alone leaves before this node does the same, and more writes leave together',
  async (t) => {
    const cluster = new SimCluster({ seed: 3, sizeBytes });
    const links: StreamSocket[] = [];
    const { network } = cluster;
    const connect = network.connect.bind(network);
    network.connect = async (...args) => {
      const socket = await connect(...args);
      links.push(socket);
      return socket;
    };
    const volume = await cluster.wait(cluster.attach(0));
    t.equal(await write(cluster, volume, 0, 1), null);
    t.equal(links.length, 2);
    const store = cluster.store(0);
    const inline = store.writeInline.bind(store);
    const flush = store.flush.bind(store);
    /** for each call, when the local store gets it: the bytes that are on their way to the others */
    const seen: number[][] = [];
    const look = (): void => {
      seen.push(links.map(({ pendingBytes }) => pendingBytes));
    };
    store.writeInline = (...args) => {
      look();
      return inline(...args);
    };
    store.flush = (done) => {
      look();
      flush(done);
    };
    let sends = 0;
    for (const link of links) {
      const send = link.write.bind(link);
      link.write = (bytes, written) => {
        sends += 1;
        send(bytes, written);
      };
    }
    const submit = (place: number): Promise<StorError | null> =>
      request(volume, 'write', place * blockBytes, blockBytes, block(place));
    const frameBytes = peerHeaderBytes + peerWriteBodyBytes(blockBytes);
    const alone = submit(1);
    t.same(seen, [[frameBytes, frameBytes]]);
    t.equal(sends, 2);
    t.equal(await cluster.wait(alone), null);
    sends = 0;
    const several = [2, 3, 4, 5].map((place) => submit(place));
    t.equal(sends, 2, 'the first of several leaves at once');
    t.same(await cluster.wait(Promise.all(several)), [null, null, null, null]);
    t.equal(sends, 4, 'the others together, at the end of the turn');
    seen.length = 0;
    t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
    t.same(seen, [[peerHeaderBytes, peerHeaderBytes]]);
    equalReplicas(t, cluster);
    await cluster.wait(volume.stop());
  },
);

t.test(
  'a dead secondary leaves before the next acknowledgement and comes back equal',
  async (t) => {
    const cluster = new SimCluster({ seed: 2, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 0, 1);
    cluster.kill(1);
    t.equal(await write(cluster, volume, 0, 2), null);
    t.same(cluster.control.inSync, ['r-0', 'r-2'], 'the set shrank first (I4)');
    t.same(cluster.states[0]?.setView?.members, ['r-0', 'r-2'], 'and its members keep it');
    await write(cluster, volume, 5 * 1024 * 1024, 3);
    cluster.start(1);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
    await cluster.run(100);
    equalReplicas(t, cluster);
    t.equal(cluster.states[1]?.bytes[0], 2);
  },
);

t.test('a member away for several checkpoints gets what changed, and only that', async (t) => {
  const cluster = new SimCluster({ seed: 3, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  for (let chunk = 0; chunk < 48; chunk++)
    await write(cluster, volume, chunk * chunkBytes, chunk + 1);
  await cluster.run(60_000);
  t.equal(cluster.states[1]?.marks.size, 0, 'checkpoints cleared the marks');
  cluster.kill(1);
  await write(cluster, volume, 0, 101);
  await cluster.run(60_000);
  await write(cluster, volume, regionBytes, 102);
  await cluster.run(60_000);
  const generation = cluster.states[0]?.generation.n ?? 0;
  t.ok(generation > (cluster.states[1]?.generation.n ?? 0) + 1, 'several checkpoints later');
  t.equal(cluster.states[0]?.marks.size, 0, 'nothing is marked at the source any more');
  let written = 0;
  const state = cluster.states[1];
  if (!state) throw new Error('no state');
  const put = state.put.bind(state);
  state.put = (...args) => {
    written += 1;
    put(...args);
  };
  cluster.start(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  equalReplicas(t, cluster);
  t.ok(written <= 2 * (chunkBytes / blockBytes), `two chunks were copied, not ${written} blocks`);
});

t.test('an older primary is refused and told', async (t) => {
  const cluster = new SimCluster({ seed: 4, sizeBytes });
  const old = await cluster.wait(cluster.attach(0));
  let reason = '';
  old.onStopped((error) => {
    reason = error.code;
  });
  await write(cluster, old, 0, 1);
  const young = await cluster.wait(cluster.attach(1));
  t.equal(reason, 'STALE_EPOCH');
  const refused = await cluster.wait(request(old, 'write', 0, blockBytes, block(9)));
  t.equal(refused?.code, 'STALE_EPOCH');
  t.notOk(old.readInline(0, blockBytes, Buffer.alloc(blockBytes), 0));
  t.same(await read(cluster, young, 0), block(1));
  const node = cluster.node(1);
  const grant: AttachmentGrant = {
    ...cluster.volume,
    name: 'v-1',
    epoch: 1,
    resourceVersion: 1,
    mode: 'auto',
    previousReleased: false,
    acceptUnflushedLoss: false,
    replicas: 3,
    policy: defaultPolicy(3),
    segments: [{ index: 0, setRevision: 1, inSync: ['r-0'], replicas: [] }],
  };
  const signal = new AbortController().signal;
  t.equal(await codeOf(node.lane?.attach(grant, { signal }) ?? Promise.resolve()), 'STALE_EPOCH');
});

t.test('a primary that was stopped and goes on serves nothing on an old lease', async (t) => {
  const cluster = new SimCluster({ seed: 5, sizeBytes });
  const old = await cluster.wait(cluster.attach(0));
  await write(cluster, old, 0, 1);
  cluster.pause(0);
  const young = await cluster.wait(cluster.attach(1));
  t.equal(await write(cluster, young, 0, 2), null);
  t.notOk(old.readInline(0, blockBytes, Buffer.alloc(blockBytes), 0), 'its leases are over (I6)');
  t.equal(old.holeBytes?.(chunkBytes, blockBytes), 0, 'nor does it know holes any more');
  const late = request(old, 'read', 0, blockBytes, Buffer.alloc(blockBytes));
  cluster.resume(0);
  t.equal((await cluster.wait(late))?.code, 'STALE_EPOCH');
});

t.test(
  'the last member is never dropped: I/O is held until it is back, without errors',
  async (t) => {
    const cluster = new SimCluster({ seed: 6, sizeBytes, nodes: 2, replicaNodes: 1 });
    const volume = await cluster.wait(cluster.attach(1));
    await write(cluster, volume, 0, 1);
    const writes = Array.from({ length: 8 }, (_, i) =>
      request(volume, 'write', i * blockBytes, blockBytes, block(10 + i), {
        retained: i % 2 === 0,
      }),
    );
    cluster.kill(0);
    const late = request(volume, 'write', 20 * blockBytes, blockBytes, block(99));
    const flushed = request(volume, 'flush', 0, 0, null);
    await cluster.run(5_000);
    t.equal(volume.status().state, 'holding');
    t.same(cluster.control.inSync, ['r-0']);
    cluster.start(0);
    for (const error of await cluster.wait(Promise.all([...writes, late, flushed])))
      t.equal(error, null);
    for (let i = 0; i < 8; i++) t.equal(cluster.states[0]?.bytes[i * blockBytes], 10 + i);
    t.equal(cluster.states[0]?.bytes[20 * blockBytes], 99);
  },
);

t.test(
  'a large read is given its data where they lie, a small or unaligned one gets a copy',
  async (t) => {
    const cluster = new SimCluster({ seed: 8, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    const bytes = Buffer.alloc(chunkBytes);
    for (let i = 0; i < bytes.length; i++) bytes[i] = (i >> 9) & 0xff;
    const written = request(volume, 'write', 0, chunkBytes, bytes, { retained: true });
    t.equal(await cluster.wait(written), null);
    for (const [offset, length, isGiven] of [
      [0, chunkBytes, true],
      [blockBytes, 128 * 1024, true],
      [512, 128 * 1024, false],
      [0, 64 * 1024, false],
    ] as const) {
      const target = Buffer.alloc(length);
      let given: { memory: SharedBytes; start: number } | null = null;
      const error = await cluster.wait(
        new Promise<StorError | null>((done) => {
          const adopt = (memory: SharedBytes, start: number): void => {
            given = { memory, start };
          };
          const flags = { retained: true, fua: false, noHole: false };
          volume.read({ offset, length, bytes: target, start: 0, ...flags, adopt, done });
        }),
      );
      t.equal(error, null);
      const lying = given as { memory: SharedBytes; start: number } | null;
      t.equal(lying !== null, isGiven, `${length} bytes at ${offset}`);
      const got = lying ? lying.memory.bytes.subarray(lying.start, lying.start + length) : target;
      t.ok(got.equals(bytes.subarray(offset, offset + length)));
      lying?.memory.release();
      if (lying) t.throws(() => lying.memory.release(), 'it was the only user');
    }
  },
);

t.test('a broken local disk leaves; the primary goes on without it and says so', async (t) => {
  const cluster = new SimCluster({ seed: 7, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.store(0).failNextWrite = true;
  t.equal(await write(cluster, volume, 0, 2), null, 'the client sees no error');
  t.same(cluster.control.inSync, ['r-1', 'r-2']);
  t.match(cluster.node(0).failures, [{ replicaId: 'r-0', diskId: 'd-0' }]);
  t.same(await read(cluster, volume, 0), block(2));
  t.equal(volume.status().segments[0]?.members[0]?.state, 'failed');
  cluster.store(1).failNextWrite = true;
  t.equal(await write(cluster, volume, 0, 3), null);
  t.same(cluster.control.inSync, ['r-2']);
});

t.test(
  'a disk that fills up against all promises takes its replica out, but not for good',
  async (t) => {
    const cluster = new SimCluster({ seed: 19, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 0, 1);
    for (const node of [0, 1]) {
      cluster.store(node).failureCode = 'NO_SPACE';
      cluster.store(node).failNextWrite = true;
      t.equal(await write(cluster, volume, 0, 2 + node), null, 'the client sees no error');
      t.same(cluster.node(node).failures, [], 'it is not reported as failed');
    }
    t.same(cluster.control.inSync, ['r-2']);
    t.same(await read(cluster, volume, 0), block(3));
    cluster.store(0).capacityChunks = 0;
    for (const node of [0, 1]) cluster.store(node).failNextWrite = false;
    await cluster.run(60_000);
    t.same(
      [...cluster.control.inSync].sort(),
      ['r-1', 'r-2'],
      'back without a restart, where there is room',
    );
    cluster.store(0).capacityChunks = 100;
    await cluster.run(20_000);
    t.same([...cluster.control.inSync].sort(), ['r-0', 'r-1', 'r-2']);
    equalReplicas(t, cluster);
  },
);

t.test('the only replica returns by itself when its full disk has room again', async (t) => {
  for (const node of [0, 1]) {
    const cluster = new SimCluster({ seed: 21 + node, sizeBytes, nodes: 2, replicaNodes: 1 });
    const volume = await cluster.wait(cluster.attach(node));
    t.equal(await write(cluster, volume, 0, 1), null);
    const store = cluster.store(0);
    store.capacityChunks = 0;
    store.failureCode = 'NO_SPACE';
    store.failNextWrite = true;
    const pending = write(cluster, volume, 0, 2);
    await cluster.run(30_000);
    t.match(store.failure, { code: 'NO_SPACE' });
    store.failNextWrite = false;
    store.capacityChunks = 100;
    const outcome = await pending;
    // a local write whose outcome is open ends this primary, and the next one settles it
    const now = outcome === null ? volume : await cluster.wait(cluster.attach(node));
    t.equal(await write(cluster, now, 0, 3), null);
    t.same(await read(cluster, now, 0), block(3));
    t.equal(store.failure, null);
  }
});

t.test('a bad block is answered from another replica', async (t) => {
  const cluster = new SimCluster({ seed: 8, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 5);
  cluster.states[0]?.bytes.fill(0x55, 100, 110);
  t.same(await read(cluster, volume, 0), block(5));
  for (const state of cluster.states) state.bytes.fill(0x55, 100, 110);
  const error = await cluster.wait(request(volume, 'read', 0, blockBytes, block(0)));
  t.equal(error?.code, 'CHECKSUM_MISMATCH', 'bad everywhere: an error, never wrong bytes');
});

t.test('a full member refuses new chunks before anything is sent; the rest goes on', async (t) => {
  const cluster = new SimCluster({ seed: 9, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.store(1).capacityChunks = 1;
  await cluster.run(2_000);
  const refused = await write(cluster, volume, chunkBytes, 2);
  t.match(refused, { code: 'NO_SPACE', message: /no space on disk d-1 of node n-1/ });
  t.equal(cluster.states[0]?.allocated.has(1), false, 'nobody was given it');
  const [segment] = volume.status().segments;
  t.equal(segment?.noSpaceWrites, 1);
  t.same(
    segment?.members.map(({ noSpace }) => noSpace === true),
    [false, true, false],
  );
  t.equal(await write(cluster, volume, 0, 3), null, 'overwrites go on');
  t.same(cluster.control.inSync, ['r-0', 'r-1', 'r-2']);
  cluster.store(1).capacityChunks = 100;
  await cluster.run(2_000);
  t.equal(await write(cluster, volume, chunkBytes, 2), null);
  cluster.store(0).capacityChunks = 2;
  t.equal((await write(cluster, volume, 2 * chunkBytes, 2))?.code, 'NO_SPACE', 'the local one too');
});

t.test('a member that answers pings but not writes leaves', async (t) => {
  const cluster = new SimCluster({ seed: 10, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.store(2).stuck = true;
  const pending = request(volume, 'write', chunkBytes, blockBytes, block(4));
  await cluster.run(5_000);
  t.same(cluster.control.inSync.length, 3, 'slow is not gone');
  t.equal(await cluster.wait(pending), null);
  t.same(cluster.control.inSync, ['r-0', 'r-1']);
});

t.test('a local disk that hangs leaves, and what it was given stays as it is', async (t) => {
  const cluster = new SimCluster({ seed: 17, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.store(0).stuck = true;
  for (const retained of [true, false]) {
    const bytes = block(4);
    const pending = request(volume, 'write', chunkBytes, blockBytes, bytes, { retained });
    t.equal(await cluster.wait(pending), null);
  }
  t.same(cluster.control.inSync, ['r-1', 'r-2']);
  t.same(await read(cluster, volume, chunkBytes), block(4));
});

t.test('a member that returns while the set without the others is being agreed on', async (t) => {
  const cluster = new SimCluster({ seed: 18, sizeBytes, nodes: 3, replicaNodes: 2 });
  const volume = await cluster.wait(cluster.attach(2));
  await write(cluster, volume, 0, 1);
  cluster.control.unknown = 1;
  cluster.kill(1);
  const pending = request(volume, 'write', 0, blockBytes, block(2));
  await cluster.run(50);
  cluster.network.cut('n-2', 'n-0');
  await cluster.run(5_000);
  t.equal(volume.status().state, 'holding');
  cluster.control.unknown = 0;
  t.equal(await cluster.wait(pending), null);
  t.same(cluster.control.inSync, ['r-0']);
});

t.test('the set changes once although answers get lost', async (t) => {
  const cluster = new SimCluster({ seed: 11, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.control.unknown = 0.8;
  cluster.kill(2);
  t.equal(await write(cluster, volume, 0, 2), null);
  t.equal(cluster.control.history.length, 1);
  t.equal(volume.status().segments[0]?.setRevision, cluster.control.setRevision);
});

t.test('without a control plane a lost member holds I/O', async (t) => {
  const cluster = new SimCluster({ seed: 12, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.node(0).controlReachable = false;
  cluster.kill(1);
  let answered = false;
  const pending = request(volume, 'write', 0, blockBytes, block(2)).then((error) => {
    answered = true;
    return error;
  });
  await cluster.run(10_000);
  t.notOk(answered, 'an acknowledgement needs the smaller set to be recorded (I4)');
  t.equal(volume.status().state, 'holding');
  cluster.node(0).controlReachable = true;
  t.equal(await cluster.wait(pending), null);
});

t.test('a stale replica cannot serve after the control plane went back in time', async (t) => {
  const cluster = new SimCluster({ seed: 13, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 0, 1);
  cluster.kill(1);
  await write(cluster, volume, 0, 2);
  await cluster.wait(volume.stop());
  cluster.kill(2);
  // a backup from before the set shrank; epochs are raised by the restore
  cluster.control.inSync = ['r-0', 'r-1', 'r-2'];
  cluster.control.setRevision = 1;
  cluster.control.epoch += 100;
  cluster.start(1);
  cluster.start(2);
  const later = await cluster.wait(cluster.attach(1));
  t.same(await read(cluster, later, 0), block(2));
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  equalReplicas(t, cluster);
});

t.test(
  'what a replica remembers from before a restore is older than the sets after it',
  async (t) => {
    const cluster = new SimCluster({ seed: 15, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    // many changes of the set, of which the backup has none
    for (let i = 0; i < 3; i++) {
      cluster.kill(1);
      await write(cluster, volume, 0, 1);
      cluster.start(1);
      t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
    }
    await write(cluster, volume, 0, 2);
    await cluster.wait(volume.stop());
    for (const node of [1, 2]) cluster.kill(node);
    cluster.control.inSync = ['r-0', 'r-1', 'r-2'];
    cluster.control.setRevision = 1;
    cluster.control.epoch += 100;
    // only one of those that remember a newer set is there, and goes on alone
    const later = await cluster.wait(cluster.attach(0));
    t.same(cluster.control.inSync, ['r-0']);
    await write(cluster, later, 0, 3);
    cluster.kill(0);
    for (const node of [1, 2]) cluster.start(node);
    t.equal(await codeOf(cluster.wait(cluster.attach(1), 60_000)), 'UNAVAILABLE');
    const again = cluster.attach(2);
    cluster.start(0);
    t.same(await read(cluster, await cluster.wait(again), 0), block(3));
  },
);

/**
 * The newest set is that of r-1 alone. r-0 was alone in an older one, and was killed before it could
 * note the newer ones. Backup 1 is from before both sets, backup 2 has what r-0 remembers.
 */
async function restored(
  cluster: SimCluster,
  backup: number,
  change: (volume: PrimaryVolume) => Promise<void>,
): Promise<void> {
  const { control } = cluster;
  const volume = await cluster.wait(cluster.attach(2));
  await write(cluster, volume, 0, 1);
  cluster.kill(1);
  await write(cluster, volume, 0, 2);
  cluster.start(1);
  await cluster.until(() => control.inSync.length === 2, 20_000);
  cluster.kill(0);
  await change(volume);
  cluster.kill(1);
  cluster.kill(2);
  control.inSync = backup === 1 ? ['r-0', 'r-1'] : ['r-0'];
  control.setRevision = backup;
  control.epoch += 100;
  control.cleanRelease = false;
  cluster.start(2);
}

t.test('a replica that answers first does not hide a newer set after a restore', async (t) => {
  for (const backup of [1, 2]) {
    for (const primary of [0, 1, 2]) {
      const options = { seed: 41, sizeBytes, nodes: 3, replicaNodes: 2 };
      const cluster = new SimCluster(options);
      await restored(cluster, backup, async (volume) => {
        await write(cluster, volume, 0, 3);
      });
      t.same(cluster.states[0]?.setView?.members, ['r-0']);
      t.same(cluster.states[1]?.setView?.members, ['r-1']);
      cluster.start(0);
      cluster.start(1);
      const later = await cluster.wait(cluster.attach(primary));
      t.same(await read(cluster, later, 0), block(3), `backup ${backup}, primary ${primary}`);
      t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
      equalReplicas(t, cluster);
    }
  }
});

t.test('a replica that comes back seconds after a restore is waited for', async (t) => {
  const cluster = new SimCluster({ seed: 42, sizeBytes, nodes: 3, replicaNodes: 2 });
  await restored(cluster, 1, async (volume) => {
    await write(cluster, volume, 0, 3);
  });
  cluster.start(0);
  const attached = cluster.attach(2);
  await cluster.run(5_000);
  cluster.start(1);
  t.same(await read(cluster, await cluster.wait(attached), 0), block(3));
});

t.test('sets of before a restore stay older than those after it, whoever is back', async (t) => {
  const cluster = new SimCluster({ seed: 43, sizeBytes, nodes: 3, replicaNodes: 2 });
  const { control } = cluster;
  await restored(cluster, 1, async (volume) => {
    await write(cluster, volume, 0, 3);
  });
  // the replica of the newest set is away for too long: what was written after the backup is given up
  cluster.start(0);
  const later = await cluster.wait(cluster.attach(2));
  t.same(await read(cluster, later, 0), block(2));
  await write(cluster, later, 0, 4);
  const rememberedRevision = cluster.states[1]?.setView?.setRevision ?? 0;
  t.ok(control.setRevision < rememberedRevision, 'the other history has come further');
  cluster.kill(2);
  for (const node of [1, 2]) cluster.start(node);
  const last = await cluster.wait(cluster.attach(1));
  t.same(await read(cluster, last, 0), block(4));
  t.ok(control.setRevision > rememberedRevision);
  t.ok(await cluster.until(() => control.inSync.length === 2, 20_000));
  equalReplicas(t, cluster);
});

t.test('a handover does not wait for a replica outside the set', async (t) => {
  const cluster = new SimCluster({ seed: 44, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(2);
  await write(cluster, volume, 0, 1);
  await cluster.wait(volume.stop());
  await cluster.run(100);
  cluster.control.released(volume.epoch);
  const beganMs = cluster.scheduler.nowMs;
  await cluster.wait(cluster.attach(1));
  t.ok(cluster.scheduler.nowMs - beganMs < activationGraceMs);
});

t.test('a stale replica alone is not enough', async (t) => {
  const cluster = new SimCluster({ seed: 14, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  cluster.kill(1);
  await write(cluster, volume, 0, 2);
  cluster.kill(2);
  await write(cluster, volume, 0, 3);
  cluster.kill(0);
  cluster.start(1);
  cluster.start(2);
  t.equal(await codeOf(cluster.wait(cluster.attach(1), 60_000)), 'UNAVAILABLE');
  const again = cluster.attach(2);
  cluster.start(0);
  t.same(await read(cluster, await cluster.wait(again), 0), block(3));
});

t.test('when all lost their memory, flushed data stands and all must answer first', async (t) => {
  for (let seed = 20; seed < 40; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    for (let i = 0; i < 6; i++) await write(cluster, volume, i * blockBytes, 1 + i);
    await cluster.wait(request(volume, 'flush', 0, 0, null));
    for (let i = 0; i < 3; i++) await write(cluster, volume, i * blockBytes, 101 + i);
    for (let node = 0; node < 3; node++) cluster.cutPower(node);
    cluster.start(0);
    cluster.start(1);
    const early = codeOf(cluster.attach(0));
    t.equal(await cluster.wait(early), 'UNAVAILABLE', 'the third may know more');
    cluster.start(2);
    const later = await cluster.wait(cluster.attach(seed % 3));
    for (let i = 0; i < 6; i++) {
      const found = await read(cluster, later, i * blockBytes);
      const flushed = found.equals(block(1 + i));
      t.ok(flushed || (i < 3 && found.equals(block(101 + i))), `block ${i} of seed ${seed}`);
    }
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
    await cluster.wait(later.stop());
    equalReplicas(t, cluster);
  }
});

t.test('attach can be called off, and close ends everything', async (t) => {
  const cluster = new SimCluster({ seed: 15, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  const abort = new AbortController();
  const second = codeOf(cluster.attach(1, abort.signal));
  await cluster.run(500);
  abort.abort();
  t.equal(await cluster.wait(second), 'ABORTED');
  const third = await cluster.wait(cluster.attach(2));
  const pending = request(third, 'write', 0, blockBytes, block(1));
  await cluster.wait(cluster.node(2).lane?.close() ?? Promise.resolve());
  await cluster.wait(cluster.node(2).lane?.close() ?? Promise.resolve());
  t.equal(await cluster.wait(pending), null, 'what was started is finished');
  t.equal(cluster.node(2).lane?.primary('v-1'), null);
  t.equal(volume.status().state, 'stopped');
});

t.test('extents say what takes space', async (t) => {
  const cluster = new SimCluster({ seed: 16, sizeBytes, nodes: 4, replicaNodes: 3 });
  for (const node of [0, 3]) {
    const volume = await cluster.wait(cluster.attach(node));
    await write(cluster, volume, chunkBytes, 1);
    const extents = await cluster.wait(
      new Promise((resolve) => {
        volume.extents(512, 3 * chunkBytes, 8, (_error, found) => {
          resolve(found);
        });
      }),
    );
    t.same(extents, [
      { offset: 512, length: chunkBytes - 512, allocated: false },
      { offset: chunkBytes, length: chunkBytes, allocated: true },
      { offset: 2 * chunkBytes, length: chunkBytes + 512, allocated: false },
    ]);
    const holeBytes = (offset: number, length: number): number | undefined =>
      volume.holeBytes?.(offset, length);
    t.equal(holeBytes(512, 3 * chunkBytes), chunkBytes - 512, 'as far as the data');
    t.equal(holeBytes(chunkBytes, 2 * chunkBytes), 0);
    t.equal(holeBytes(2 * chunkBytes + 3, 5), 5);
    await cluster.wait(request(volume, 'trim', chunkBytes, chunkBytes, null));
    t.notOk(cluster.states[0]?.allocated.has(1));
    await cluster.wait(volume.stop());
    cluster.control.released(volume.epoch);
  }
});

t.test('a chunk that is trimmed in pieces gives its space back', async (t) => {
  const cluster = new SimCluster({ seed: 3, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  const allocated = (chunk: number): boolean[] =>
    cluster.states.map((state) => state.allocated.has(chunk));
  const piece = chunkBytes / 4;
  const trim = (offset: number): Promise<StorError | null> =>
    cluster.wait(request(volume, 'trim', offset, piece, null));
  for (const chunk of [1, 2, 3]) {
    const full = Buffer.alloc(chunkBytes, 9);
    t.equal(
      await cluster.wait(request(volume, 'write', chunk * chunkBytes, chunkBytes, full)),
      null,
    );
  }
  for (const at of [2, 0, 3, 1]) t.equal(await trim(chunkBytes + at * piece), null);
  // the last piece and a write at once: what is written stays
  for (const at of [2, 0, 3]) t.equal(await trim(2 * chunkBytes + at * piece), null);
  const last = request(volume, 'trim', 2 * chunkBytes + piece, piece, null);
  const written = request(volume, 'write', 2 * chunkBytes, blockBytes, block(5));
  t.equal(await cluster.wait(last), null);
  t.equal(await cluster.wait(written), null);
  // one piece was written again before the last was trimmed
  for (const at of [2, 0, 3]) t.equal(await trim(3 * chunkBytes + at * piece), null);
  t.equal(await write(cluster, volume, 3 * chunkBytes, 6), null);
  t.equal(await trim(3 * chunkBytes + piece), null);
  await cluster.run(1_000);
  t.strictSame(allocated(1), [false, false, false]);
  t.strictSame(allocated(3), [true, true, true]);
  t.same(await read(cluster, volume, 2 * chunkBytes), block(5));
  t.same(await read(cluster, volume, 3 * chunkBytes), block(6));
  t.same(await read(cluster, volume, 2 * chunkBytes + blockBytes), block(0));
  equalReplicas(t, cluster);
  t.equal(await write(cluster, volume, chunkBytes, 8), null);
  t.strictSame(allocated(1), [true, true, true]);
  equalReplicas(t, cluster);
});

t.test('what is being trimmed is no hole until every replica has trimmed it', async (t) => {
  const cluster = new SimCluster({ seed: 17, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, chunkBytes, 1);
  const isData = (): Promise<boolean | undefined> =>
    cluster.wait(
      new Promise((resolve) => {
        volume.extents(chunkBytes, chunkBytes, 8, (_error, found) => {
          resolve(found[0]?.allocated);
        });
      }),
    );
  const store = cluster.store(1);
  store.stuck = true;
  const trim = request(volume, 'trim', chunkBytes, chunkBytes, null);
  await cluster.run(100);
  // after a crash of the primary it may be data again, and nobody may have read zeros there
  t.equal(await isData(), true);
  t.equal(volume.holeBytes?.(chunkBytes, blockBytes), 0);
  t.equal(volume.holeBytes?.(2 * chunkBytes, blockBytes), blockBytes, 'beside it');
  store.stuck = false;
  store.flush(() => {});
  t.equal(await cluster.wait(trim), null);
  t.equal(await isData(), false);
  t.equal(volume.holeBytes?.(chunkBytes, blockBytes), blockBytes);
});

// A client of bytes against a plain buffer: unaligned, large, zeroed, trimmed; several at a time.
t.test('any requests give what a plain buffer gives, while secondaries come and go', async (t) => {
  for (let seed = 100; seed < 112; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 4, replicaNodes: 3 });
    const random = new SeededRandom(seed);
    const below = (limit: number): number => Math.floor(random.next() * limit);
    const model = Buffer.alloc(sizeBytes);
    const volume = await cluster.wait(cluster.attach(seed % 2 === 0 ? 0 : 3));
    for (let round = 0; round < 40; round++) {
      const batch: Promise<void>[] = [];
      // disjoint ranges that meet within blocks
      let at = below(sizeBytes / 4);
      for (let i = 0; i < 6 && at < sizeBytes - 1; i++) {
        const length = Math.min(sizeBytes - at, 1 + below(i === 0 ? 900_000 : 20_000));
        batch.push(oneRequest(t, volume, model, at, length, below(6), random));
        at += length + below(3_000);
      }
      const victim = 1 + below(2);
      if (random.next() < 0.15) cluster.kill(victim);
      else if (random.next() < 0.3) cluster.start(victim);
      else if (random.next() < 0.1)
        cluster.network.cut(`n-${seed % 2 === 0 ? 0 : 3}`, `n-${victim}`);
      await cluster.wait(Promise.all(batch));
    }
    cluster.start(1);
    cluster.start(2);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 60_000));
    t.same(await read(cluster, volume, 0, sizeBytes), model);
    await cluster.wait(volume.stop());
    for (const state of cluster.states) t.ok(state.bytes.equals(model), `seed ${seed}`);
  }
});

async function oneRequest(
  t: Test,
  volume: PrimaryVolume,
  model: Buffer,
  offset: number,
  length: number,
  kind: number,
  random: SeededRandom,
): Promise<void> {
  const options = { fua: random.next() < 0.2, retained: random.next() < 0.5, noHole: kind === 3 };
  if (kind === 0) {
    const expected = Buffer.from(model.subarray(offset, offset + length));
    const target = Buffer.alloc(length);
    t.equal(await request(volume, 'read', offset, length, target), null);
    if (!target.equals(expected)) t.fail(`a read at ${offset} of ${length}`);
    return;
  }
  if (kind <= 2) {
    const bytes = Buffer.alloc(length, Math.floor(random.next() * 255) + 1);
    model.set(bytes, offset);
    t.equal(await request(volume, 'write', offset, length, bytes, options), null);
  } else if (kind <= 4) {
    model.fill(0, offset, offset + length);
    t.equal(await request(volume, 'writeZeroes', offset, length, null, options), null);
  } else {
    const first = Math.ceil(offset / blockBytes) * blockBytes;
    const end = Math.floor((offset + length) / blockBytes) * blockBytes;
    if (end > first) model.fill(0, first, end);
    t.equal(await request(volume, 'trim', offset, length, null, options), null);
  }
}
