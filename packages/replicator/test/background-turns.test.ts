/** Rebuild, resync and scrub take their turns on every lane before anything is held. */
import { blockBytes, chunkBytes, type BackgroundClass } from '@stor/protocol';
import t, { type Test } from 'tap';

import type { BackgroundTurn, BackgroundTurns, PrimaryVolume } from '@stor/replicator';
import { noCounts } from '../src/primary/scrubber.ts';
import { SimCluster, request } from '@stor/replicator/testing';

const sizeBytes = 12 * 1024 * 1024;
const chunks = sizeBytes / chunkBytes;

interface Waiting {
  ofClass: BackgroundClass;
  isWanted: () => boolean;
  begin: (turn: BackgroundTurn) => void;
}

/** Says which turns were asked for, and gives them when the test says so. */
class Turns implements BackgroundTurns {
  isOpen = false;
  given: BackgroundClass[] = [];
  underWay = 0;
  mostUnderWay = 0;
  waiting: Waiting[] = [];

  ask(
    ofClass: BackgroundClass,
    _bytes: number,
    isWanted: () => boolean,
    begin: (turn: BackgroundTurn) => void,
  ): void {
    if (this.isOpen) begin(this.take(ofClass));
    else this.waiting.push({ ofClass, isWanted, begin });
  }

  take(ofClass: BackgroundClass): BackgroundTurn {
    this.given.push(ofClass);
    this.underWay += 1;
    this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay);
    return { end: () => (this.underWay -= 1) };
  }

  open(): void {
    this.isOpen = true;
    for (const { ofClass, isWanted, begin } of this.waiting.splice(0)) {
      if (isWanted()) begin(this.take(ofClass));
    }
  }
}

async function write(cluster: SimCluster, volume: PrimaryVolume, fill: number): Promise<void> {
  for (let chunk = 0; chunk < chunks; chunk++) {
    const bytes = Buffer.alloc(blockBytes, fill);
    const offset = chunk * chunkBytes;
    const error = await cluster.wait(request(volume, 'write', offset, blockBytes, bytes), 1_000);
    if (error) throw error;
  }
}

const inSync = (cluster: SimCluster, count: number): Promise<boolean> =>
  cluster.until(() => cluster.control.inSync.length === count, 60_000);

function allEqual(t: Test, cluster: SimCluster): void {
  const [first, ...others] = cluster.states;
  for (const other of others) t.ok(first?.bytes.equals(other.bytes), other.identity.replicaId);
}

function rig(): { cluster: SimCluster; turns: Turns[] } {
  const turns = [0, 1, 2].map(() => new Turns());
  return { cluster: new SimCluster({ seed: 5, sizeBytes, replicaNodes: 2, turns }), turns };
}

t.test('a rebuild that waits for turns holds up nobody, and goes on when they come', async (t) => {
  const { cluster, turns } = rig();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  cluster.addReplica(2);
  cluster.push();
  t.ok(await cluster.until(() => (turns[2]?.waiting.length ?? 0) > 0, 10_000));
  t.equal(turns[0]?.waiting.length, 0, 'the own lane is asked last');
  // longer than a member may owe any answer
  await cluster.run(120_000);
  await write(cluster, volume, 2);
  t.equal(turns[2]?.given.length, 0);
  turns[2]?.open();
  t.ok(await cluster.until(() => (turns[0]?.waiting.length ?? 0) > 0, 10_000));
  await cluster.run(60_000);
  await write(cluster, volume, 3);
  t.equal(cluster.control.inSync.length, 2, 'nothing is copied yet');
  turns[0]?.open();
  t.ok(await inSync(cluster, 3));
  await cluster.run(1_000);
  allEqual(t, cluster);
  for (const index of [0, 2]) {
    const { given = [], underWay } = turns[index] ?? {};
    t.same(new Set(given), new Set(['rebuild']), `node ${index}`);
    t.ok(given.length >= chunks, `one for each chunk: ${given.length}`);
    t.equal(underWay, 0, 'all are given back');
  }
  t.equal(turns[1]?.given.length, 0, 'a replica that takes no part is not asked');
  t.ok((turns[0]?.mostUnderWay ?? 0) > 1, 'several chunks are under way at once');
});

t.test('what was written while a replica was away is a resync', async (t) => {
  const { cluster, turns } = rig();
  for (const each of turns) each.open();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  await cluster.run(60_000);
  cluster.kill(1);
  await cluster.until(() => cluster.control.inSync.length === 1, 10_000);
  await write(cluster, volume, 2);
  cluster.start(1);
  t.ok(await inSync(cluster, 2));
  await cluster.run(1_000);
  allEqual(t, cluster);
  for (const index of [0, 1]) t.same(new Set(turns[index]?.given), new Set(['resync']));
});

t.test('turns of a resync that is over are given back, also those that come late', async (t) => {
  const { cluster, turns } = rig();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  cluster.addReplica(2);
  turns[2]?.open();
  cluster.push();
  t.ok(await cluster.until(() => (turns[0]?.waiting.length ?? 0) > 0, 10_000));
  cluster.kill(2);
  await cluster.run(10_000);
  turns[0]?.open();
  t.equal(turns[0]?.underWay, 0, 'nobody wants them any more');
  cluster.start(2);
  t.ok(await inSync(cluster, 3));
  await cluster.wait(volume.stop());
  t.equal(turns[0]?.underWay, 0);
});

t.test('a resync that loses its sources in the middle gives every turn back', async (t) => {
  // where the pace stops it is chance: among these are many that stop after the last chunk that fails
  for (let copied = 1; copied < chunks / 2; copied++) {
    const { cluster, turns } = rig();
    for (const each of turns) each.open();
    const volume = await cluster.wait(cluster.attach(2));
    await write(cluster, volume, 1);
    cluster.addReplica(2);
    cluster.push();
    const own = turns[2];
    t.ok(await cluster.until(() => (own?.given.length ?? 0) >= copied, 10_000));
    cluster.kill(0);
    cluster.kill(1);
    await cluster.run(20_000);
    await cluster.wait(volume.stop());
    t.equal(own?.underWay, 0, `${copied} chunks were begun`);
  }
});

t.test('a scrub takes a turn on the node of every replica for each chunk', async (t) => {
  const { cluster, turns } = rig();
  const volume = await cluster.wait(cluster.attach(0));
  await write(cluster, volume, 1);
  const { epoch } = volume;
  const order = { volumeId: 'v-1', epoch, runId: 'run-1', paused: false };
  const begin = { position: { segment: 0, chunk: 0 }, counts: { ...noCounts } };
  const rate = { rateBytesPerSecond: 2 ** 30 };
  const ask = (): string | undefined => volume.scrub({ ...order, ...begin, ...rate })?.state;
  ask();
  t.ok(await cluster.until(() => turns[1]?.waiting.length === 1, 10_000));
  await write(cluster, volume, 2);
  turns[1]?.open();
  turns[0]?.open();
  for (let i = 0; i < 60 && ask() !== 'finished'; i++) await cluster.run(1_000);
  t.equal(ask(), 'finished');
  for (const index of [0, 1]) {
    t.same(turns[index]?.given, Array(chunks).fill('scrub'), `node ${index}`);
    t.equal(turns[index]?.underWay, 0);
  }
});
