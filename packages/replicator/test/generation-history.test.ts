/** What a replica takes over of a source's knowledge: nothing that changed may be missing. */
import { regionBytes } from '@stor/protocol';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import fc from 'fast-check';
import t from 'tap';

import {
  historyMarked,
  historyOf,
  maxHistoryGenerations,
  stampsOf,
} from '../src/core/replication/generation-history.ts';
import { historyOfPeer, peerHistoryOf } from '../src/peer/peer-history.ts';
import { compareGenerations, type Generation, type ReplicaStore } from '../src/index.ts';
import { call, identity, openStore, write } from './store-fixture.ts';

const generationArb = fc.record({ epoch: fc.nat(40), n: fc.nat(40) });

t.test('a history hides no change, and says little more', async () => {
  fc.assert(
    fc.property(
      generationArb,
      fc.array(fc.tuple(fc.boolean(), generationArb), { minLength: 1, maxLength: 900 }),
      generationArb,
      (after, regions, asked) => {
        const history = historyOf({
          after,
          regionCount: regions.length,
          next: (from) => (from < regions.length ? from : -1),
          isMarked: (region) => regions[region]?.[0] === true,
          stampOf: (region) => regions[region]?.[1] ?? { epoch: 0, n: 0 },
        });
        if (history.generations.length > maxHistoryGenerations) return false;
        const { marked, stamped } = stampsOf(historyOfPeer(peerHistoryOf(history)));
        const stampOf = new Map<number, Generation>();
        for (const { generation, regions: list } of stamped) {
          for (const region of list) stampOf.set(region, generation);
        }
        const distinct = new Set(regions.map(([, { epoch, n }]) => epoch * 100 + n)).size;
        return regions.every(([isMarked, stamp], region) => {
          const taken = stampOf.get(region);
          if (isMarked) return marked.includes(region) && history.regions[region] === historyMarked;
          if (compareGenerations(stamp, after) <= 0) return !taken;
          if (!taken || compareGenerations(taken, stamp) < 0) return false;
          // exact while a byte can name all of them
          if (distinct <= maxHistoryGenerations) return compareGenerations(taken, stamp) === 0;
          // whoever asks is told of the change
          return compareGenerations(stamp, asked) <= 0 || compareGenerations(taken, asked) > 0;
        });
      },
    ),
    { numRuns: 300 },
  );
});

t.test('joined generations are as even as they can be', async (t) => {
  const regionCount = 20_000;
  const history = historyOf({
    after: { epoch: 0, n: 0 },
    regionCount,
    next: (from) => (from < regionCount ? from : -1),
    isMarked: () => false,
    stampOf: (region) => ({ epoch: 1, n: 1 + region }),
  });
  t.equal(history.generations.length, maxHistoryGenerations);
  const counts = new Map<number, number>();
  for (const code of history.regions) counts.set(code, (counts.get(code) ?? 0) + 1);
  t.ok(Math.max(...counts.values()) <= Math.ceil(regionCount / maxHistoryGenerations) + 1);
});

async function retire(replica: ReplicaStore, n: number): Promise<void> {
  await call((done) => {
    replica.retireMarks({ epoch: 1, n }, done);
  });
  replica.cutMarks();
}

t.test('a replica that was made equal can say what changed before it was', async (t) => {
  const clock = new FakeClock();
  const files = new FaultyFiles({ seed: 1 });
  let store = await openStore('/disk', files.process(), { clock });
  const sizeBytes = 8 * regionBytes;
  const source = await store.createReplica({ ...identity, sizeBytes });
  const copy = await store.createReplica({ ...identity, replicaId: 'r-2', sizeBytes });
  for (const [n, region] of [0, 1, 2].entries()) {
    await write(source, region * regionBytes, 4096, 1);
    source.cutMarks();
    await retire(source, n + 1);
  }
  await write(source, 5 * regionBytes, 4096, 1);
  t.same(source.regionsChangedSince({ epoch: 1, n: 1 }), [1, 2, 5]);

  await call((done) => {
    copy.adoptGeneration(source.generation, source.history(), done);
  });
  const check = (replica: ReplicaStore | null): void => {
    t.same(replica?.generation, { epoch: 1, n: 3 });
    t.same(replica?.marks(), [5], 'what is marked there is marked here');
    t.same(replica?.regionsChangedSince({ epoch: 1, n: 1 }), [1, 2, 5]);
    t.same(replica?.regionsChangedSince({ epoch: 1, n: 3 }), [5]);
  };
  check(copy);
  await store.close();
  store = await openStore('/disk', files.process(), { clock });
  check(store.replica('r-2'));
  const again = store.replica('r-2');
  if (!again) throw new Error('it is gone');
  await retire(again, 4);
  await retire(again, 5);
  t.same(again.marks(), []);
  t.same(again.regionsChangedSince({ epoch: 1, n: 3 }), [5], 'stamped by the next checkpoint');
  await store.close();
});
