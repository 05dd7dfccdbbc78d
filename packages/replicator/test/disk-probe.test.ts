/** An idle disk is asked whether it still works; its death is told before a client finds it. */
import { FaultyFiles, type FaultHook } from '@stor/runtime/testing';
import t from 'tap';
import { Failures, diskId, flush, identity, openStore, read, write } from './store-fixture.ts';

const path = '/disk';

/** Operations on the file of the probe, and an error for one kind of them. */
function watch(files: FaultyFiles, fails: { operation: string; code: string } | null): string[] {
  const seen: string[] = [];
  const hook: FaultHook = (operation, file) => {
    if (!file.endsWith('/probe')) return null;
    seen.push(operation);
    return fails?.operation === operation ? fails.code : null;
  };
  files.hook = hook;
  return seen;
}

t.test('only a disk on which nothing was made durable is asked', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await openStore(path, files.process());
  const replica = await store.createReplica(identity);
  const seen = watch(files, null);
  await write(replica, 0, 4096, 7);
  await flush(replica);
  await store.probe();
  t.same(seen, [], 'it has just made something durable');
  await Promise.all([store.probe(), store.probe()]);
  t.same(
    seen.filter((operation) => operation !== 'read'),
    ['create', 'write', 'datasync'],
    'once, though asked twice',
  );
  await store.probe();
  await write(replica, 0, 4096, 8);
  await flush(replica);
  const before = seen.length;
  await store.probe();
  t.equal(seen.length, before);
  t.equal(store.failure, null);
  await store.close();
  const again = await openStore(path, files.process(), { create: false });
  await again.probe();
  await again.probe();
  t.equal(again.failure, null, 'the file is there already');
  await again.close();
  await t.resolves(again.probe(), 'a closed disk is not asked');
});

for (const operation of ['write', 'datasync', 'read', 'create']) {
  t.test(`a failed ${operation} fails the disk, outside of it first`, async (t) => {
    const files = new FaultyFiles({ seed: 2 });
    const failures = new Failures();
    const store = await openStore(path, files.process(), { failures });
    const replica = await store.createReplica(identity);
    await store.probe();
    watch(files, { operation, code: 'EIO' });
    await t.rejects(store.probe(), { code: 'DISK_FAILED', message: /probe failed: .*EIO/ });
    t.equal(store.failure?.code, 'DISK_FAILED');
    t.match(failures.all, [{ diskId, replicaId: null, reason: /probe failed/ }]);
    t.equal(replica.failure?.code, 'DISK_FAILED', 'and its replicas with it');
    await t.resolves(store.probe(), 'it is not asked again');
    t.equal(failures.all.length, 1);
    await store.close();
    await t.rejects(openStore(path, files.process(), { create: false, failures }), {
      code: 'DISK_FAILED',
      message: /failed earlier: probe failed/,
    });
  });
}

t.test('lack of room is no failure', async (t) => {
  const files = new FaultyFiles({ seed: 3 });
  const store = await openStore(path, files.process());
  const replica = await store.createReplica(identity);
  await store.probe();
  for (const operation of ['create', 'write', 'datasync']) {
    watch(files, { operation, code: 'ENOSPC' });
    await t.resolves(store.probe());
  }
  t.equal(store.failure, null);
  await write(replica, 0, 4096, 9);
  t.equal((await read(replica, 0, 4096))[0], 9);
  await store.close();
});
