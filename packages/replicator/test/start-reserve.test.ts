/** A disk that others have filled to the last byte is opened by giving up the room laid by for that. */
import { type Files } from '@stor/runtime';
import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { flush, identity, mib, openStore, read, write } from './store-fixture.ts';

const path = '/disk';
const reserve = `${path}/start.reserve`;

/** No name is made on it without free blocks, as on XFS: not even that of the lock. */
function fullOf(files: FaultyFiles): Files {
  const now = files.process();
  const space = (): { totalBytes: number; freeBytes: number } => {
    const freeBytes = now.exists(reserve) ? 0 : mib;
    return { totalBytes: 100 * mib, freeBytes };
  };
  const lock: Files['lock'] = async (directory) => {
    if (space().freeBytes > 0) return now.lock(directory);
    throw Object.assign(new Error('listen ENOSPC: no space left on device'), { code: 'ENOSPC' });
  };
  return new Proxy(now, {
    get(target, key) {
      if (key === 'lock') return lock;
      if (key === 'space') return space;
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

async function usedDisk(): Promise<FaultyFiles> {
  const files = new FaultyFiles({ seed: 1 });
  const store = await openStore(path, files.process());
  const replica = await store.createReplica(identity);
  await write(replica, 0, 4096, 7);
  await flush(replica);
  files.kill();
  return files;
}

t.test('a full disk opens with its reserve, and lays it by again when there is room', async (t) => {
  const files = await usedDisk();
  t.ok(files.process().exists(reserve), 'laid by while there was room');
  const full = await openStore(path, fullOf(files), { create: false });
  const replica = full.replica(identity.replicaId);
  if (!replica) throw new Error('no replica');
  t.equal((await read(replica, 0, 4096))[0], 7);
  await write(replica, 0, 4096, 8);
  await flush(replica);
  t.notOk(files.process().exists(reserve), 'given up');
  await full.close();
  const again = await openStore(path, files.process(), { create: false });
  t.ok(files.process().exists(reserve), 'and back');
  await again.close();
});

t.test('without a reserve it says that there is no room, and releases what it took', async (t) => {
  const files = await usedDisk();
  files.process().remove(reserve);
  const now = fullOf(files);
  const none: Files = new Proxy(now, {
    get: (target, key) =>
      key === 'space'
        ? () => ({ totalBytes: 100 * mib, freeBytes: 0 })
        : key === 'lock'
          ? async () => {
              throw Object.assign(new Error('listen ENOSPC'), { code: 'ENOSPC' });
            }
          : (Reflect.get(target, key) as unknown),
  });
  await t.rejects(openStore(path, none, { create: false }), { code: 'NO_SPACE' });
  const store = await openStore(path, files.process(), { create: false });
  t.equal(store.replicas().length, 1, 'nothing was harmed');
  await store.close();
});
