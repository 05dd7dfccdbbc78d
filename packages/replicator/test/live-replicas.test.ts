/** Replicas that come, go and move while the volume is in use. */
import { StorError, blockBytes, chunkBytes } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import t, { type Test } from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request, type SimClusterOptions } from '@stor/replicator/testing';

/** Set STOR_SEEDS to try more. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 3);
const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function begin(
  options: Partial<SimClusterOptions>,
  at = 0,
): Promise<{ cluster: SimCluster; volume: PrimaryVolume }> {
  const cluster = new SimCluster({ seed: 70, sizeBytes, ...options });
  const volume = await cluster.wait(cluster.attach(at));
  for (let i = 0; i < 8; i++) {
    const bytes = block(i + 1);
    await cluster.wait(request(volume, 'write', i * chunkBytes, blockBytes, bytes));
  }
  return { cluster, volume };
}

async function read(cluster: SimCluster, volume: PrimaryVolume, offset: number): Promise<number> {
  const target = Buffer.alloc(blockBytes);
  const error = await cluster.wait(request(volume, 'read', offset, blockBytes, target), 5_000);
  if (error) throw error;
  return target[0] ?? -1;
}

function equalReplicas(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  for (const other of others) t.ok(first?.bytes.equals(other.bytes), other.identity.replicaId);
}

t.test('more replicas are filled and join, the local one included', async (t) => {
  const { cluster, volume } = await begin({ nodes: 3, replicaNodes: 1 }, 1);
  cluster.control.replicas = 3;
  t.equal(cluster.addReplica(1), 'r-1');
  t.equal(cluster.addReplica(2), 'r-2');
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  equalReplicas(t, cluster);
  cluster.kill(0);
  t.equal(await read(cluster, volume, 0), 50, 'the new local replica answers');
  t.equal(await read(cluster, volume, 7 * chunkBytes), 8);
});

t.test('fewer replicas: those marked leave the set, then the record', async (t) => {
  const { cluster, volume } = await begin({});
  cluster.control.replicas = 1;
  cluster.control.leaving.add('r-0');
  cluster.control.leaving.add('r-2');
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 10_000));
  t.same(cluster.control.inSync, ['r-1'], 'the local one may be among them');
  await cluster.run(100);
  t.equal(volume.status().state, 'serving');
  t.same(cluster.removeLeft(), ['r-0', 'r-2']);
  cluster.push();
  await cluster.run(100);
  t.same(
    volume.status().segments[0]?.members.map(({ replicaId }) => replicaId),
    ['r-1'],
  );
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  t.equal(await read(cluster, volume, 0), 50);
  await cluster.run(30_000);
  t.same(cluster.control.inSync, ['r-1'], 'nobody is filled again');
});

t.test('a move never leaves fewer members than wanted', async (t) => {
  const { cluster, volume } = await begin({ nodes: 4, replicaNodes: 3 });
  cluster.control.leaving.add('r-1');
  cluster.push();
  await cluster.run(5_000);
  t.same(cluster.control.inSync, ['r-0', 'r-1', 'r-2'], 'it stays until there is another one');
  cluster.addReplica(3);
  cluster.push();
  const sizes = cluster.control.history.length;
  t.ok(await cluster.until(() => !cluster.control.inSync.includes('r-1'), 30_000));
  t.same([...cluster.control.inSync].sort(), ['r-0', 'r-2', 'r-3']);
  for (const { inSync } of cluster.control.history.slice(sizes)) t.ok(inSync.length >= 3);
  await cluster.run(100);
  t.same(cluster.removeLeft(), ['r-1']);
  cluster.push();
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  await cluster.wait(volume.stop());
  equalReplicas(t, cluster);
});

t.test('a replica that is to go is not filled, and one that is being filled stops', async (t) => {
  const { cluster, volume } = await begin({});
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  cluster.control.replicas = 2;
  cluster.control.leaving.add('r-2');
  cluster.push();
  cluster.start(2);
  await cluster.run(30_000);
  t.same(cluster.control.inSync, ['r-0', 'r-1']);
  t.equal(volume.status().state, 'serving');
  // the mark is taken back
  cluster.control.replicas = 3;
  cluster.control.leaving.clear();
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
  // and set while it is filled again
  cluster.kill(2);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(100);
  cluster.store(0).stuck = true;
  const write = request(volume, 'write', 2 * 4 * 1024 * 1024, blockBytes, block(9));
  cluster.start(2);
  const state = (): string | undefined =>
    volume.status().segments[0]?.members.find(({ replicaId }) => replicaId === 'r-2')?.state;
  t.ok(await cluster.until(() => state() === 'syncing', 20_000));
  cluster.control.replicas = 2;
  cluster.control.leaving.add('r-2');
  cluster.push();
  await cluster.run(10);
  t.not(state(), 'syncing');
  cluster.store(0).stuck = false;
  cluster.store(0).flush(() => {});
  t.equal(await cluster.wait(write), null);
  await cluster.run(20_000);
  t.same([...cluster.control.inSync].sort(), ['r-0', 'r-1']);
});

t.test('a replica whose record is gone stays a member until the set is without it', async (t) => {
  const { cluster, volume } = await begin({});
  // no controller does that; a primary must not lose a copy by it all the same
  const [settings] = [cluster.control.settings('v-1', [])];
  if (settings) volume.update(settings);
  await cluster.run(5_000);
  t.equal(cluster.control.inSync.length, 3);
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  equalReplicas(t, cluster);
});

t.test('a replica is placed beside one whose disk is gone, on the same node', async (t) => {
  const { cluster, volume } = await begin({});
  // without a word of failure: the node only says that it has no such replica
  await cluster.wait(cluster.node(1).disk?.deleteReplica('r-1') ?? Promise.resolve());
  cluster.network.cut('n-0', 'n-1');
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  await cluster.run(1_000);
  const replicaId = cluster.addReplica(1);
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.includes(replicaId), 30_000));
  cluster.control.leaving.add('r-1');
  cluster.push();
  await cluster.run(100);
  t.same(cluster.removeLeft(), ['r-1']);
  cluster.push();
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  equalReplicas(t, cluster);
});

t.test('a replica does not take the answer of the one before it on its node', async (t) => {
  const { cluster, volume: first } = await begin({});
  t.ok(await cluster.until(() => (cluster.states[1]?.marks.size ?? 1) === 0, 90_000));
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  // a primary that has not asked this node anything yet
  await cluster.wait(first.stop());
  const volume = await cluster.wait(cluster.attach(0));
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(60))), null);
  const replicaId = cluster.addReplica(1);
  cluster.start(1);
  // the record changes while the answer to the fence of the old one is on its way
  const old = cluster.node(1).disk?.replica('r-1');
  if (!old) throw new Error('no replica');
  const { fence } = old;
  let isFenced = false;
  old.fence = (epoch, done) => {
    fence.call(old, epoch, (error) => {
      isFenced = true;
      done(error);
    });
  };
  t.ok(await cluster.until(() => isFenced, 20_000));
  cluster.push();
  const isOpen = (): boolean =>
    volume
      .status()
      .segments[0]?.members.some(
        (each) => each.replicaId === replicaId && each.state !== 'connecting',
      ) === true;
  t.ok(await cluster.until(isOpen, 20_000));
  const young = cluster.node(1).disk?.replica(replicaId);
  t.equal(young?.highestEpoch, volume.epoch, 'it is open only when it has answered itself');
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 60_000), replicaId);
  for (const state of cluster.states) {
    const { replicaId: id } = state.identity;
    if (cluster.control.inSync.includes(id)) t.equal(state.bytes[0], 60, id);
    if (cluster.control.inSync.includes(id)) t.equal(state.bytes[7 * chunkBytes], 8, id);
  }
});

t.test('a volume whose only replica was away with writes under way begins anew', async (t) => {
  const { cluster, volume } = await begin({ nodes: 2, replicaNodes: 1 });
  const disk = cluster.node(0).disk;
  const state = cluster.states[0];
  if (!disk || !state) throw new Error('no disk');
  // the disk is closed while it is written to, and opened again
  cluster.store(0).write = (_offset, _length, _bytes, _start, _sums, _sumsStart, done) => {
    done(new StorError('ABORTED', 'the disk is closed'));
  };
  await cluster.wait(disk.deleteReplica('r-0'));
  const write = request(volume, 'write', 2 * 4 * 1024 * 1024, blockBytes, block(9));
  await cluster.run(100);
  t.equal(volume.status().state, 'holding');
  disk.open(state);
  t.equal((await cluster.wait(write, 30_000))?.code, 'UNAVAILABLE');
  const next = await cluster.wait(cluster.attach(0));
  t.equal(await read(cluster, next, 0), 1);
  t.equal(await cluster.wait(request(next, 'write', 0, blockBytes, block(50))), null);
});

t.test('settings that come while the primary begins count', async (t) => {
  const cluster = new SimCluster({ seed: 71, sizeBytes, nodes: 3, replicaNodes: 1 });
  cluster.kill(0);
  const attaching = cluster.attach(1);
  await cluster.run(100);
  cluster.control.replicas = 2;
  cluster.addReplica(2);
  cluster.push();
  await cluster.run(100);
  cluster.start(0);
  const volume = await cluster.wait(attaching);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 30_000));
  t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(50))), null);
  equalReplicas(t, cluster);
});

// A controller that moves replicas about at random, faults, and a client: nothing may be lost.
t.test('replicas move under load and faults', async (t) => {
  for (let seed = 200; seed < 200 + seeds; seed++) {
    const cluster = new SimCluster({ seed, sizeBytes, nodes: 5, replicaNodes: 3 });
    const random = new SeededRandom(seed);
    const below = (limit: number): number => Math.floor(random.next() * limit);
    const model = new Map<number, number>();
    const volume = await cluster.wait(cluster.attach(4));
    let moves = 0;
    let low = 5;
    for (let round = 0; round < 60; round++) {
      const places = new Set(cluster.places);
      const free = [0, 1, 2, 3, 4].filter((index) => !places.has(index));
      const dice = random.next();
      const { control } = cluster;
      if (dice < 0.25 && free.length > 0 && cluster.states.length < 5) {
        cluster.addReplica(free[below(free.length)] ?? 0);
        control.replicas = 1 + below(3);
      }
      if (dice > 0.7) {
        const state = cluster.states[below(cluster.states.length)];
        const staying = cluster.states.length - control.leaving.size;
        if (state && staying > control.replicas) {
          control.leaving.add(state.identity.replicaId);
          moves += 1;
        }
      }
      if (dice > 0.4 && dice < 0.5) {
        const victim = below(4);
        cluster.kill(victim);
        cluster.scheduler.at(500 + below(5_000), () => {
          cluster.start(victim);
        });
      }
      cluster.push(below(50));
      const at = below(40) * chunkBytes;
      const value = 1 + below(250);
      t.equal(
        await cluster.wait(request(volume, 'write', at, blockBytes, block(value))),
        null,
        `a write of seed ${seed}`,
      );
      model.set(at, value);
      await cluster.run(below(3_000));
      low = Math.min(low, control.inSync.length);
      cluster.removeLeft();
    }
    for (let index = 0; index < 5; index++) cluster.start(index);
    const rest = (): number => cluster.states.length - cluster.control.leaving.size;
    cluster.control.replicas = Math.min(3, rest());
    cluster.push();
    t.ok(
      await cluster.until(() => {
        if (cluster.removeLeft().length > 0) cluster.push();
        return cluster.control.leaving.size === 0 && cluster.control.inSync.length === rest();
      }, 120_000),
      `seed ${seed} ends well: ${JSON.stringify(volume.status().segments)}`,
    );
    for (const [at, value] of model) t.equal(await read(cluster, volume, at), value);
    t.ok(moves > 0);
    await cluster.wait(volume.stop());
    equalReplicas(t, cluster);
  }
});

for (const lost of ['before it is filled', 'while it is filled'] as const) {
  t.test(`a replica that left, stays after all, and is lost ${lost}`, async (t) => {
    const { cluster, volume } = await begin({});
    cluster.control.replicas = 2;
    cluster.control.leaving.add('r-2');
    cluster.push();
    t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 10_000));
    await cluster.run(100);
    // it is connected all the time, and does not get this
    await cluster.wait(request(volume, 'write', 0, blockBytes, block(99)));
    await cluster.run(3_000);
    cluster.control.replicas = 3;
    const state = (): string | undefined =>
      volume.status().segments[0]?.members.find(({ replicaId }) => replicaId === 'r-2')?.state;
    if (lost === 'while it is filled') {
      cluster.control.leaving.clear();
      cluster.push();
      t.ok(await cluster.until(() => state() === 'syncing', 10_000));
    }
    cluster.network.cut('n-0', 'n-2');
    await cluster.run(100);
    t.equal(state(), 'connecting');
    cluster.control.leaving.clear();
    cluster.push();
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
    equalReplicas(t, cluster);
  });
}

t.test('a replica does not take over the failure of the one before it on its node', async (t) => {
  const { cluster, volume } = await begin({});
  cluster.kill(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 20_000));
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: true };
  cluster.push();
  cluster.start(1);
  const stateOf = (id: string): string | undefined =>
    volume.status().segments[0]?.members.find(({ replicaId }) => replicaId === id)?.state;
  t.ok(await cluster.until(() => stateOf('r-1') === 'absent', 20_000));
  const young = cluster.addReplica(1);
  const old = cluster.states[1];
  if (old) old.failure = new StorError('DISK_FAILED', 'a disk broke');
  // the record changes while the word of it is on its way to the primary
  t.ok(await cluster.until(() => cluster.node(1).failures.length > 0, 2_000));
  t.equal(stateOf('r-1'), 'absent');
  cluster.control.failed.add('r-1');
  cluster.control.policy = { ...cluster.control.policy, rebuildPaused: false };
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.includes(young), 30_000));
  t.same(
    cluster.node(0).failures.map(({ replicaId }) => replicaId),
    [],
  );
});

/** Puts a second replica on a node and marks the one that was there to go, as an evacuation does. */
async function moveWithin(
  cluster: SimCluster,
  volume: PrimaryVolume,
  node: number,
  between: () => Promise<void> = async () => {},
): Promise<void> {
  const added = cluster.addReplica(node);
  cluster.control.leaving.add(`r-${node}`);
  cluster.push();
  await between();
  for (let i = 0; i < 40; i++) {
    const bytes = block(60 + i);
    await cluster.wait(request(volume, 'write', (i % 16) * chunkBytes, blockBytes, bytes));
  }
  const isDone = (): boolean =>
    cluster.control.inSync.includes(added) && !cluster.control.inSync.includes(`r-${node}`);
  if (!(await cluster.until(isDone, 120_000))) throw new Error(`${added} has not taken its place`);
}

for (const [where, node] of [
  ['another node', 2],
  ["the primary's node", 0],
] as const) {
  t.test(`a replica moves to another disk of ${where}, and the set never shrinks`, async (t) => {
    const { cluster, volume } = await begin({});
    await moveWithin(cluster, volume, node);
    t.ok(
      cluster.control.history.every(({ inSync }) => inSync.length >= 3),
      'the old one leaves after the new one has joined',
    );
    t.ok(
      cluster.control.history.some(({ inSync }) => inSync.length === 4),
      'for a moment both are members',
    );
    t.same(cluster.removeLeft(), [`r-${node}`]);
    cluster.push();
    await cluster.run(1_000);
    t.equal(await cluster.wait(request(volume, 'write', 0, blockBytes, block(9))), null);
    equalReplicas(t, cluster);
    t.equal(await read(cluster, volume, 0), 9);
    // the next primary has the one that stayed as its local replica
    await cluster.wait(volume.stop());
    const next = await cluster.wait(cluster.attach(node));
    t.equal(await read(cluster, next, 0), 9);
    t.same(cluster.control.inSync.slice().sort(), expectedAfter(node));
  });
}

function expectedAfter(node: number): string[] {
  return ['r-0', 'r-1', 'r-2', 'r-3'].filter((id) => id !== `r-${node}`);
}

for (let seed = 1; seed <= seeds; seed++) {
  t.test(`seed ${seed}: the node dies while a replica moves between its disks`, async (t) => {
    for (const [primary, node] of [
      [0, 2],
      [0, 0],
    ] as const) {
      const { cluster, volume } = await begin({ seed }, primary);
      let serving = volume;
      const delayMs = new SeededRandom(seed).next() * 1_500;
      await moveWithinWithDeath(cluster, primary, node, delayMs, (next) => {
        serving = next;
      });
      cluster.removeLeft();
      cluster.push();
      await cluster.run(1_000);
      t.equal(await cluster.wait(request(serving, 'write', 0, blockBytes, block(77))), null);
      equalReplicas(t, cluster);
      for (let i = 1; i < 8; i++) t.equal(await read(cluster, serving, i * chunkBytes), i + 1);
    }
  });
}

async function moveWithinWithDeath(
  cluster: SimCluster,
  primary: number,
  node: number,
  delayMs: number,
  served: (volume: PrimaryVolume) => void,
): Promise<void> {
  const added = cluster.addReplica(node);
  cluster.push();
  await cluster.run(delayMs);
  cluster.control.leaving.add(`r-${node}`);
  cluster.push();
  cluster.kill(node);
  await cluster.run(4_000);
  cluster.start(node);
  if (node === primary) served(await cluster.wait(cluster.attach(primary)));
  const isDone = async (): Promise<boolean> => {
    const { inSync } = cluster.control;
    if (inSync.includes(added) && !inSync.includes(`r-${node}`)) return true;
    cluster.push();
    return false;
  };
  for (let i = 0; i < 200; i++) {
    if (await isDone()) return;
    await cluster.run(500);
  }
  throw new Error(`${added} has not taken the place of r-${node}`);
}

t.test('two replicas on one node are one to the failure mode', async (t) => {
  const { cluster, volume } = await begin({ nodes: 3, replicaNodes: 2 });
  cluster.control.policy.failureMode = 'threshold=2';
  const beside = cluster.addReplica(0);
  cluster.push();
  t.ok(await cluster.until(() => cluster.control.inSync.includes(beside), 60_000));
  cluster.kill(1);
  t.ok(await cluster.until(() => !cluster.control.inSync.includes('r-1'), 60_000));
  t.equal(cluster.control.inSync.length, 2, 'two members are left, both on node 0');
  await cluster.run(1_000);
  t.equal(volume.status().state, 'holding', 'they die together, so a write needs another node');
  t.match(volume.status().reason, /1 of 2 replicas is in sync/);
  cluster.start(1);
  t.ok(await cluster.until(() => volume.status().state === 'serving', 60_000));
});
