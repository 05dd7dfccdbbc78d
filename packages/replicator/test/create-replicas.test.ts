// Hundreds of replicas may be wanted at once, on a lane that serves clients and answers its peers.
import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { identity, openStore } from './store-fixture.ts';

const count = 16;

function replicaId(index: number): string {
  return `r-${String(index + 1).padStart(16, '0')}`;
}

t.test('many replicas are made one at a time, and synced in the pool', async (t) => {
  const world = new FaultyFiles({ seed: 1 });
  const files = world.process();
  const store = await openStore('/disk', files);
  let turn = 0;
  let isOver = false;
  const nextTurn = (): void => {
    turn += 1;
    if (!isOver) setImmediate(nextTurn);
  };
  setImmediate(nextTurn);
  const begun = new Map<number, number>();
  world.hook = (operation, path) => {
    const isReplica = path.startsWith('/disk/replicas/') && path.endsWith('.creating');
    if (operation === 'makeDirectory' && isReplica) begun.set(turn, (begun.get(turn) ?? 0) + 1);
    return null;
  };
  const onTheLane: string[] = [];
  const create = files.create.bind(files);
  files.create = (path) => {
    const file = create(path);
    const sync = file.datasyncSync.bind(file);
    file.datasyncSync = () => {
      onTheLane.push(path);
      sync();
    };
    return file;
  };

  const all = Array.from({ length: count }, (_each, index) =>
    store.createReplica({ ...identity, replicaId: replicaId(index), segment: index }),
  );
  await Promise.all(all);
  isOver = true;
  t.equal(begun.size, count, 'each in a turn of its own');
  t.same(onTheLane, []);

  world.powerLoss();
  const after = await openStore('/disk', world.process(), { bootId: world.bootId });
  t.same(
    after.replicas().map((replica) => replica.replicaId),
    Array.from({ length: count }, (_each, index) => replicaId(index)),
    'durable when it was answered',
  );
  await after.close();
});

t.test('a store that closes finishes those that it has taken', async (t) => {
  const world = new FaultyFiles({ seed: 1 });
  const store = await openStore('/disk', world.process());
  const all = Array.from({ length: count }, (_each, index) =>
    store.createReplica({ ...identity, replicaId: replicaId(index), segment: index }),
  );
  await store.close();
  const ids = (await Promise.all(all)).map((replica) => replica.replicaId);
  const again = await openStore('/disk', world.process());
  t.same(
    again.replicas().map((replica) => replica.replicaId),
    ids,
  );
  await again.close();
});

t.test('one that fails does not hold up the next', async (t) => {
  const world = new FaultyFiles({ seed: 1 });
  const store = await openStore('/disk', world.process());
  world.hook = (operation, path) =>
    operation === 'datasync' && path.includes(replicaId(0)) ? 'EIO' : null;
  const [bad, good] = await Promise.allSettled(
    [0, 1].map((index) =>
      store.createReplica({ ...identity, replicaId: replicaId(index), segment: index }),
    ),
  );
  t.match(bad, { status: 'rejected', reason: { code: 'DISK_FAILED' } });
  t.equal(good?.status, 'fulfilled');
  t.equal(store.failure, null, 'as before: files that nobody knows are no loss');
  t.same(world.process().list('/disk/replicas'), [replicaId(1)]);
  await store.close();
});
