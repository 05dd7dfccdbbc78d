import t from 'tap';
import type { StorError } from '@stor/protocol';
import { ReplicaGate } from '../src/replication/replica-gate.ts';
import type { ReplicaStore, StoreDone } from '../src/replica-store.ts';

/** A store that remembers the epoch it was fenced at. */
function stubStore(): ReplicaStore & { fencedAt: number[] } {
  const fencedAt: number[] = [];
  return {
    fencedAt,
    get highestEpoch() {
      return Math.max(0, ...fencedAt);
    },
    fence(epoch: number, done: StoreDone) {
      fencedAt.push(epoch);
      done(null);
    },
  } as unknown as ReplicaStore & { fencedAt: number[] };
}

const turns = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

t.test('a fence is answered only after the work of lower epochs is over (I2)', async (t) => {
  const gate = new ReplicaGate();
  const store = stubStore();
  let displaced: StorError | null = null;
  const old = await gate.open(store, 1, 'n-old', (reason) => {
    displaced = reason;
  });
  // a slow write of the old primary is under way
  const finish = old.tracked(() => {});
  let answered = false;
  const opening = gate
    .open(store, 2, 'n-new', () => {})
    .then((session) => {
      answered = true;
      return session;
    });
  t.equal(old.alive, false, 'nothing of the old session starts from this turn on');
  t.match(displaced, { code: 'STALE_EPOCH' });
  await turns();
  t.equal(answered, false, 'its write is still on its way to the disk');
  t.same(store.fencedAt, [1], 'marks are not read before it is done');
  finish(null);
  t.equal((await opening).epoch, 2);
  t.same(store.fencedAt, [1, 2]);
});

t.test('a lower epoch, and one epoch for two holders, are refused', async (t) => {
  const gate = new ReplicaGate();
  const store = stubStore();
  await gate.open(store, 5, 'n-1', () => {});
  await t.rejects(
    gate.open(store, 4, 'n-2', () => {}),
    { code: 'STALE_EPOCH', details: { highestEpoch: '5' } },
  );
  await t.rejects(
    gate.open(store, 5, 'n-2', () => {}),
    { code: 'STALE_EPOCH' },
  );
  await t.resolves(
    gate.open(store, 5, 'n-1', () => {}),
    'the same primary may come again',
  );
  // also across a restart of the process: the store remembers
  await t.rejects(
    new ReplicaGate().open(store, 4, 'n-2', () => {}),
    { code: 'STALE_EPOCH' },
  );
});

t.test(
  'a primary of this process hears of a newer epoch though its session is closed',
  async (t) => {
    const gate = new ReplicaGate();
    const store = stubStore();
    const heard: string[] = [];
    const unwatch = gate.watch(3, ({ code }) => heard.push(code));
    const session = await gate.open(store, 3, 'n-1', () => {});
    gate.close(session);
    t.same(heard, []);
    const opening = gate.open(store, 4, 'n-2', () => {});
    t.same(heard, ['STALE_EPOCH'], 'in the turn in which it is asked');
    await opening;
    unwatch();
    await gate.open(store, 5, 'n-3', () => {});
    t.equal(heard.length, 1);
  },
);
