import { blockBytes } from '@stor/protocol';
import t from 'tap';

import { SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

t.test('writes reach all replicas and are read back', async (t) => {
  const cluster = new SimCluster({ seed: 1, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  const error = await cluster.wait(request(volume, 'write', 8192, blockBytes, block(7)));
  t.equal(error, null);
  for (const state of cluster.states) {
    t.equal(state.bytes[8192], 7);
    t.ok(state.marks.has(0));
  }
  const target = Buffer.alloc(blockBytes);
  t.equal(await cluster.wait(request(volume, 'read', 8192, blockBytes, target)), null);
  t.same(target, block(7));
  t.equal(await cluster.wait(request(volume, 'flush', 0, 0, null)), null);
  for (const state of cluster.states) t.equal(state.unflushed.size, 0);
  await cluster.wait(volume.stop());
  for (const state of cluster.states) t.equal(state.marks.size, 0, 'the last checkpoint cleared it');
});

t.test('a dead secondary leaves, comes back and is made equal', async (t) => {
  const cluster = new SimCluster({ seed: 2, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await cluster.wait(request(volume, 'write', 0, blockBytes, block(1)));
  cluster.kill(1);
  const error = await cluster.wait(request(volume, 'write', 0, blockBytes, block(2)));
  t.equal(error, null);
  t.same(cluster.control.inSync, ['r-0', 'r-2']);
  await cluster.wait(request(volume, 'write', 5 * 1024 * 1024, blockBytes, block(3)));
  cluster.start(1);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 20_000));
  await cluster.run(100);
  const [a, b, c] = cluster.states;
  t.ok(a?.bytes.equals(b?.bytes ?? Buffer.alloc(0)));
  t.ok(a?.bytes.equals(c?.bytes ?? Buffer.alloc(0)));
  t.equal(b?.bytes[0], 2);
});
