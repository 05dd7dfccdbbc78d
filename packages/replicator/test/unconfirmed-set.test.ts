/** A set of one replica that its primary never came to acknowledge anything under. */
import { blockBytes } from '@stor/protocol';
import t, { type Test } from 'tap';

import type { PrimaryVolume } from '@stor/replicator';
import { SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const block = (fill: number): Buffer => Buffer.alloc(blockBytes, fill);

async function write(cluster: SimCluster, volume: PrimaryVolume, fill: number): Promise<void> {
  const error = await cluster.wait(request(volume, 'write', 0, blockBytes, block(fill)));
  if (error) throw error;
}

async function read(cluster: SimCluster, volume: PrimaryVolume): Promise<number> {
  const target = Buffer.alloc(blockBytes);
  const error = await cluster.wait(request(volume, 'read', 0, blockBytes, target));
  if (error) throw error;
  return target[0] ?? -1;
}

function cutOff(cluster: SimCluster, index: number): void {
  for (const { id } of cluster.nodes) {
    const own = cluster.node(index).id;
    if (id === own) continue;
    cluster.network.block(own, id);
    cluster.network.block(id, own);
  }
}

/** The disk fails for good, which the control plane hears. */
function failDisk(cluster: SimCluster, index: number): void {
  cluster.store(index).fail();
  cluster.control.failed.add(`r-${index}`);
}

/** A primary on node 0 that wrote 1, and is cut off; `lostAnswers`: it does not hear what became of it. */
async function alone(
  t: Test,
  seed: number,
  lostAnswers: boolean,
): Promise<{ cluster: SimCluster; volume: PrimaryVolume }> {
  const cluster = new SimCluster({ seed, sizeBytes });
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  if (lostAnswers) cluster.control.loseAnswers = true;
  else cluster.control.loseConfirmations = true;
  cutOff(cluster, 0);
  t.ok(await cluster.until(() => cluster.control.inSync.length === 1, 20_000), 'it shrinks');
  t.same(cluster.control.inSync, ['r-0']);
  await cluster.run(1_000);
  return { cluster, volume };
}

for (const lostAnswers of [true, false]) {
  const what = lostAnswers ? 'of unknown outcome' : 'that is not confirmed';

  t.test(
    `a set of one ${what}, whose disk fails: another node begins with the others`,
    async (t) => {
      const { cluster, volume } = await alone(t, 60, lostAnswers);
      let answered = false;
      void request(volume, 'write', 0, blockBytes, block(2)).then((error) => {
        answered = error === null;
      });
      await cluster.run(500);
      failDisk(cluster, 0);
      await cluster.run(5_000);
      cluster.kill(0);
      t.notOk(answered, 'nothing is acknowledged without the others');
      cluster.control.loseAnswers = false;
      cluster.control.loseConfirmations = false;
      const next = await cluster.wait(cluster.attach(1));
      t.equal(await read(cluster, next), 1);
      await write(cluster, next, 3);
      t.equal(await read(cluster, next), 3);
      const areBack = (): boolean => cluster.control.inSync.toSorted().join() === 'r-1,r-2';
      t.ok(await cluster.until(areBack, 30_000));
    },
  );

  t.test(`a set of one ${what}, whose node is gone: the others need not wait`, async (t) => {
    const { cluster } = await alone(t, 61, lostAnswers);
    cluster.kill(0);
    cluster.control.loseAnswers = false;
    cluster.control.loseConfirmations = false;
    cluster.network.heal();
    const next = await cluster.wait(cluster.attach(2));
    t.equal(await read(cluster, next), 1);
    await write(cluster, next, 3);
    // what it has that nobody was told of is undone
    cluster.start(0);
    t.ok(await cluster.until(() => cluster.control.inSync.length === 3, 30_000));
    await cluster.run(100);
    const [first, ...others] = cluster.states;
    for (const other of others) t.ok(first?.bytes.equals(other.bytes));
  });
}

t.test('the primary itself goes on with the others when they are back', async (t) => {
  const { cluster, volume } = await alone(t, 62, false);
  let answered = false;
  const late = request(volume, 'write', 0, blockBytes, block(2)).then((error) => {
    answered = error === null;
  });
  failDisk(cluster, 0);
  await cluster.run(2_000);
  cluster.network.heal();
  cluster.control.loseConfirmations = false;
  await cluster.wait(late, 30_000);
  t.ok(answered);
  t.equal(await read(cluster, volume), 2);
  t.notOk(cluster.control.inSync.includes('r-0'));
  t.ok(await cluster.until(() => cluster.control.inSync.length === 2, 30_000));
  t.equal(volume.status().state, 'serving');
});

t.test(
  'what was acknowledged under a set of one is never given up for an older state',
  async (t) => {
    const cluster = new SimCluster({ seed: 63, sizeBytes });
    const volume = await cluster.wait(cluster.attach(0));
    await write(cluster, volume, 1);
    cutOff(cluster, 0);
    await write(cluster, volume, 2);
    t.same(cluster.control.inSync, ['r-0']);
    t.equal(cluster.control.sets[0]?.unconfirmed, undefined);
    failDisk(cluster, 0);
    await cluster.run(1_000);
    cluster.kill(0);
    const again = await cluster.wait(
      cluster.attach(1).then(
        () => 'served',
        ({ code }: { code: string }) => code,
      ),
      120_000,
    );
    t.equal(again, 'UNAVAILABLE');
  },
);

t.test('the next primary may be cut off as well', async (t) => {
  const { cluster } = await alone(t, 64, true);
  cluster.kill(0);
  cluster.control.loseAnswers = false;
  cluster.control.loseConfirmations = true;
  // alone too, and it is never confirmed that it acknowledges alone
  cluster.network.heal();
  cluster.kill(2);
  const waiting = cluster.attach(1).catch(() => null);
  t.ok(await cluster.until(() => cluster.control.inSync[0] === 'r-1', 20_000));
  await cluster.run(1_000);
  failDisk(cluster, 1);
  cluster.kill(1);
  void waiting;
  cluster.control.loseConfirmations = false;
  // what the first one had, nobody was told of; it was in the set before, and is whole
  cluster.start(0);
  const next = await cluster.wait(cluster.attach(0));
  t.equal(await read(cluster, next), 1);
  await write(cluster, next, 3);
});
