/** What of a disk counts with whom, over snapshots and clones. */
import { FakeClock, FaultyFiles, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import type { DiskReplica } from '../src/store/disk-replica.ts';
import { call, chunkBytes, flush, identity, mib, openStore, write } from './store-fixture.ts';

const seeds = Number(process.env['STOR_SEEDS'] ?? 6);
const chunks = 8;

/** The same by brute force: the first that shows a slot, else the layer's, else the oldest. */
function expected(replicas: readonly DiskReplica[]): Map<string, [number, number, number]> {
  const found = new Map<string, [number, number, number]>();
  const sorted = [...replicas].sort((a, b) => a.tables.number - b.tables.number);
  for (const { replicaId } of sorted) found.set(replicaId, [0, 0, 0]);
  const [oldest] = sorted;
  if (!oldest) return found;
  const { tables, supply } = oldest.lineage;
  const add = (replica: DiskReplica | undefined, which: 0 | 1 | 2, count = 1): void => {
    const share = found.get((replica ?? oldest).replicaId);
    if (share) share[which] += count * chunkBytes;
  };
  add(oldest, 2, supply.dirty);
  for (let slot = 0; slot < tables.slots.end; slot++) {
    const word = tables.slots.words[slot] ?? 0;
    const place = word & 0xffffff;
    // nobody's, or a hole
    if (word === 0 || ((word >>> 25) & 1) === 1) continue;
    const layer = tables.layers.get(place);
    const viewer = sorted.find(({ image }) => shows(image, slot));
    const owner = sorted.find((each) => each.tables.number === layer?.replica);
    const isDead = layer?.kind === 'hidden' && tables.layers.childCount(place) === 0;
    if (viewer) add(viewer, 0);
    else add(owner, isDead ? 2 : 1);
  }
  return found;
}

function shows(image: DiskReplica['image'], slot: number): boolean {
  const chunks = Array.from({ length: image.chunkCount }, (_, chunk) => chunk);
  return chunks.some((chunk) => image.slotOf.get(chunk) === slot + 1);
}

async function snapshot(replica: DiskReplica, id: string): Promise<void> {
  await call((done) => {
    replica.takeSnapshot(id, 1, 'prepared', done);
  });
  await call((done) => {
    replica.confirmSnapshot(id, done);
  });
}

t.test('the numbers of all replicas of a disk add up to what it holds', async (t) => {
  for (let seed = 1; seed <= seeds; seed++) {
    const random = new SeededRandom(seed);
    const pick = (n: number): number => Math.floor(random.next() * n);
    const files = new FaultyFiles({ seed, punches: seed % 2 === 0 });
    const clock = new FakeClock();
    const store = await openStore('/disk', files.process(), { bootId: files.bootId, clock });
    const small = { ...identity, sizeBytes: chunks * chunkBytes };
    const all = [(await store.createReplica(small)) as DiskReplica];
    let made = 0;
    for (let step = 0; step < 120; step++) {
      const replica = all[pick(all.length)];
      if (!replica) break;
      const snapshots = replica.snapshots();
      const one = snapshots[pick(snapshots.length)];
      const at = pick(chunks) * chunkBytes;
      switch (pick(9)) {
        case 0:
          made += 1;
          await snapshot(replica, `s-${made}`);
          break;
        case 1:
          await call((done) => {
            if (one) replica.dropSnapshot(one.snapshotId, done);
            else replica.flush(done);
          });
          break;
        case 2: {
          if (!one || all.length > 3) break;
          made += 1;
          const cloneOf = { replicaId: replica.replicaId, snapshotId: one.snapshotId };
          const clone = { ...small, replicaId: `r-clone-${made}` };
          all.push((await store.createReplica(clone, { cloneOf })) as DiskReplica);
          break;
        }
        case 3:
          if (all.length === 1 || pick(3) > 0) break;
          all.splice(all.indexOf(replica), 1);
          await store.deleteReplica(replica.replicaId);
          break;
        case 4:
          await call((done) => {
            replica.zero(at, chunkBytes, false, done);
          });
          break;
        case 5:
          await flush(replica);
          clock.advance(10_000);
          break;
        default:
          await write(replica, at, 4096, step & 0xff);
      }
      if (pick(2) === 0) await new Promise((resolve) => setImmediate(resolve));
      const wanted = expected(all);
      for (const each of all) {
        const { allocatedBytes, snapshotBytes, reclaimableBytes } = each.space();
        const told = [allocatedBytes, snapshotBytes, reclaimableBytes];
        const right = wanted.get(each.replicaId);
        if (String(told) !== String(right)) {
          t.same(told, right, `seed ${seed}, step ${step}, ${each.replicaId}`);
          return;
        }
      }
      const sum = all.reduce((bytes, each) => {
        const { allocatedBytes, snapshotBytes, reclaimableBytes } = each.space();
        return bytes + allocatedBytes + snapshotBytes + reclaimableBytes;
      }, 0);
      const { tables, supply } = all[0]?.lineage ?? {};
      if (sum !== ((tables?.dataCount ?? 0) + (supply?.dirty ?? 0)) * chunkBytes) {
        t.fail(`seed ${seed}, step ${step}: they do not add up`);
        return;
      }
    }
    await store.close();
  }
  t.pass();
});

t.test('a clone uses nothing until it differs from its source', async (t) => {
  const files = new FaultyFiles({ seed: 1, punches: true });
  const options = { bootId: files.bootId, clock: new FakeClock() };
  const store = await openStore('/disk', files.process(), options);
  const source = (await store.createReplica(identity)) as DiskReplica;
  await write(source, 0, mib, 1);
  await snapshot(source, 's-1');
  const cloneOf = { replicaId: identity.replicaId, snapshotId: 's-1' };
  const id = { ...identity, replicaId: 'r-2' };
  const clone = (await store.createReplica(id, { cloneOf })) as DiskReplica;
  t.match(clone.space(), { allocatedBytes: 0, snapshotBytes: 0 });
  t.match(source.space(), { allocatedBytes: mib, snapshotBytes: 0 });
  await write(clone, 0, chunkBytes, 2);
  t.match(clone.space(), { allocatedBytes: chunkBytes, snapshotBytes: 0 });
  await write(source, chunkBytes, chunkBytes, 3);
  t.match(source.space(), { allocatedBytes: mib, snapshotBytes: 0 });
  t.match(clone.space(), { allocatedBytes: 2 * chunkBytes }, 'only it has the old chunk');
  await store.deleteReplica(identity.replicaId);
  t.equal(clone.allocatedBytes, mib, 'its image is as large as ever');
  t.equal(clone.space().allocatedBytes, mib, 'and all its own now');
  await store.close();
});
