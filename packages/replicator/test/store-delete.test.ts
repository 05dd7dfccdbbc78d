import t from 'tap';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import {
  blockBytes,
  blocksOf,
  chunkBytes,
  Failures,
  identity,
  openStore,
  read,
  write,
} from './store-fixture.ts';

const other = { ...identity, replicaId: 'r-0000000000000002' };
/** A page of journal holds one commit here: this many commits fill it more than once. */
const commits = 60;

function open(files: FaultyFiles): ReturnType<typeof openStore> {
  return openStore('/disk', files.process(), {
    bootId: files.bootId,
    clock: new FakeClock(),
    options: { journalBytes: 20 * 4096 },
  });
}

for (const kind of ['kill', 'powerLoss'] as const) {
  t.test(`checkpoints before a deletion is durable keep the replica whole: ${kind}`, async (t) => {
    const files = new FaultyFiles({ seed: 1 });
    const store = await open(files);
    const replica = await store.createReplica(identity);
    const busy = await store.createReplica(other);
    for (let chunk = 0; chunk < 4; chunk++) {
      await write(replica, chunk * chunkBytes, blockBytes, 1 + chunk);
    }
    await new Promise((resolve) => {
      replica.flush(resolve);
    });
    // each waits for the one before and for a commit, and the deletion waits for them all
    const { bytes, sums } = blocksOf(1, 1);
    const at = 10 * chunkBytes;
    for (let i = 0; i < 5 * commits; i++) {
      replica.write(at, blockBytes, bytes, 0, sums, 0, () => {});
      replica.zero(at, chunkBytes, false, () => {});
    }
    let deleted = false;
    store.deleteReplica(identity.replicaId).then(
      () => {
        deleted = true;
      },
      () => {},
    );
    await Promise.resolve();
    t.same(
      store.replicas().map(({ replicaId }) => replicaId),
      [other.replicaId],
      'nobody gets it any more',
    );
    t.equal(store.replica(identity.replicaId), null);
    for (let chunk = 0; chunk < commits; chunk++) {
      await write(busy, chunk * chunkBytes, blockBytes, 1);
    }
    t.notOk(deleted, 'the crash comes before the deletion');
    files[kind]();

    const again = await open(files);
    const found = again.replica(identity.replicaId);
    t.ok(found);
    if (!found) return;
    t.equal(found.failure, null);
    for (let chunk = 0; chunk < 4; chunk++) {
      t.ok(found.isAllocated(chunk), `chunk ${chunk}`);
      const bytes = await read(found, chunk * chunkBytes, blockBytes);
      t.same(bytes, Buffer.alloc(blockBytes, 1 + chunk));
    }
    t.same(found.marks(), [0], 'what was written is still marked');
    await again.deleteReplica(identity.replicaId);
    await again.close();
    t.same(files.process().list('/disk/replicas'), [other.replicaId]);
  });
}

t.test('a kill while replicas come and go and tables are written', async (t) => {
  for (let at = 20; at < 420; at += 9) {
    const files = new FaultyFiles({ seed: at, punches: at % 2 === 0 });
    const crashed = new Promise<void>((resolve) => {
      files.onCrash = resolve;
    });
    const options = { journalBytes: 16 * 4096 };
    const first = await openStore('/disk', files.process(), { clock: new FakeClock(), options });
    const comeAndGo = async (lane: number): Promise<void> => {
      for (let round = 0; round < 30; round++) {
        const replicaId = `r-${lane}-${round}`;
        const replica = await first.createReplica({ ...identity, replicaId });
        for (const chunk of [0, 1, 2]) await write(replica, chunk * chunkBytes, blockBytes, 1);
        await first.deleteReplica(replicaId);
      }
    };
    files.crashAfter(at, 'kill');
    await Promise.race([crashed, Promise.allSettled([1, 2, 3].map(comeAndGo))]);
    files.cancelCrash();
    files.kill();
    const failures = new Failures();
    const clock = new FakeClock();
    const again = await openStore('/disk', files.process(), { clock, failures, options }).catch(
      (error: unknown) => String(error),
    );
    if (typeof again === 'string') t.fail(`killed at operation ${at}: ${again}`);
    else await again.close();
    if (failures.all.length > 0) t.fail(`killed at operation ${at}`, { failures: failures.all });
  }
  t.pass('opened each time');
});
