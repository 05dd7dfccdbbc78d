import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { removeDiskFiles } from '../src/index.ts';
import { flush, identity, openStore, write } from './store-fixture.ts';

const path = '/disk';

async function usedDisk(seed: number): Promise<FaultyFiles> {
  const files = new FaultyFiles({ seed });
  const store = await openStore(path, files.process());
  const replica = await store.createReplica(identity);
  await write(replica, 0, 4096, 7);
  await flush(replica);
  await store.deleteReplica(identity.replicaId);
  await store.close();
  return files;
}

for (const kind of ['kill', 'power'] as const) {
  t.test(
    `a ${kind} at any point of taking out leaves what can be taken out, or given`,
    async (t) => {
      let crashes = 0;
      for (let at = 1; ; at++) {
        const files = await usedDisk(at);
        files.crashAfter(at, kind);
        try {
          removeDiskFiles(files.process(), path);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ECRASHED') throw error;
        }
        if (files.crashPending) break;
        crashes++;
        const now = files.process();
        if (at % 2 === 0) {
          removeDiskFiles(now, path);
          t.same(now.list(path), [], 'repeated');
        }
        const store = await openStore(path, now);
        await store.createReplica(identity);
        await store.close();
      }
      t.ok(crashes > 8, `${crashes} crashes`);
    },
  );
}

t.test('a disk that holds replicas stays as it is', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await openStore(path, files.process());
  await store.createReplica(identity);
  await store.close();
  const before = files.process().list(path);
  removeDiskFiles(files.process(), path);
  t.same(files.process().list(path), before);
  removeDiskFiles(files.process(), '/nowhere');
});
