/** Snapshots and clones of the disk store, one thing at a time. */
import t from 'tap';
import { chunksPerRegion, regionBytes } from '@stor/protocol';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { ReplicaTables } from '../src/core/store/replica-tables.ts';
import type { DiskStore, ReplicaStore } from '../src/index.ts';
import type { DiskReplica } from '../src/store/disk-replica.ts';
import { maxFreedWaitMs } from '../src/store/slot-supply.ts';
import {
  blockBytes,
  call,
  chunkBytes,
  Failures,
  flush,
  identity,
  openStore,
  read,
  write,
} from './store-fixture.ts';

function open(files: FaultyFiles, failures = new Failures()): ReturnType<typeof openStore> {
  return openStore('/disk', files.process(), {
    ...{ failures, bootId: files.bootId, clock: new FakeClock() },
  });
}

function replicaOf(store: DiskStore): ReplicaStore {
  const found = store.replica(identity.replicaId);
  if (!found) throw new Error('the replica is gone');
  return found;
}

function take(replica: ReplicaStore, id: string): Promise<void> {
  return call((done) => {
    replica.takeSnapshot(id, 1, 'prepared', done);
  });
}

function confirm(replica: ReplicaStore, id: string): Promise<void> {
  return call((done) => {
    replica.confirmSnapshot(id, done);
  });
}

function drop(replica: ReplicaStore, id: string): Promise<void> {
  return call((done) => {
    replica.dropSnapshot(id, done);
  });
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function readView(replica: ReplicaStore, id: string, chunk: number): Promise<number> {
  const target = Buffer.alloc(blockBytes, 0xee);
  await call((done) => {
    replica.view(id)?.read(chunk * chunkBytes, blockBytes, target, 0, done);
  });
  return target[0] ?? -1;
}

t.test('a snapshot that was taken late is no longer than where it was taken first', async (t) => {
  const files = new FaultyFiles({ seed: 5 });
  let store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 7);
  await call((done) => {
    replica.takeSnapshot('s-1', 1, 'incomplete', done);
  });
  t.equal(replica.view('s-1')?.sizeBytes, identity.sizeBytes);
  const shorter = identity.sizeBytes - chunkBytes;
  await call((done) => {
    replica.confirmSnapshot('s-1', done, shorter);
  });
  t.match(replica.snapshots(), [{ state: 'ready', sizeBytes: shorter }]);
  t.equal(replica.view('s-1')?.sizeBytes, shorter);
  t.equal(await readView(replica, 's-1', 0), 7);
  await call((done) => {
    replica.confirmSnapshot('s-1', done, chunkBytes);
  });
  t.match(replica.snapshots(), [{ sizeBytes: shorter }], 'one that is ready stays as it is');
  await store.close();
  store = await open(files);
  t.match(replicaOf(store).snapshots(), [{ state: 'ready', sizeBytes: shorter }]);
  await store.close();
});

t.test('the table of layers grows while no write is held', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const failures = new Failures();
  // a journal that needs no checkpoint, which writes to the table too
  const store = await openStore('/disk', files.process(), {
    ...{ failures, bootId: files.bootId, clock: new FakeClock() },
    options: { journalBytes: 1024 * 4096 },
  });
  const replica = await store.createReplica(identity);
  let isTaking = false;
  const grown: boolean[] = [];
  files.hook = (op, file) => {
    if (op === 'datasync' && /layers$/.test(file)) grown.push(isTaking);
    return null;
  };
  for (let i = 0; i < 100; i++) {
    isTaking = true;
    await take(replica, `s-${i}`);
    isTaking = false;
    await confirm(replica, `s-${i}`);
  }
  t.ok(grown.length > 0, 'it has grown');
  t.notOk(grown.includes(true), 'and no snapshot had to wait for that');

  // lack of room for the next ones fails nothing
  files.hook = (op, file) => (op === 'write' && /layers$/.test(file) ? 'ENOSPC' : null);
  for (let i = 100; i < 170; i++) {
    await take(replica, `s-${i}`);
    await confirm(replica, `s-${i}`);
  }
  t.equal(replica.failure, null);
  t.same(failures.all, []);
  // a sync that failed may have lost pages of a checkpoint, too (I7)
  files.hook = (op, file) => (op === 'datasync' && /layers$/.test(file) ? 'EIO' : null);
  const ended = (async () => {
    for (let i = 170; i < 300; i++) {
      await take(replica, `s-${i}`);
      await confirm(replica, `s-${i}`);
    }
  })();
  await t.rejects(ended, { code: 'DISK_FAILED', message: /EIO/ });
  t.match(failures.all, [{ replicaId: identity.replicaId, reason: /EIO/ }]);
  await t.rejects(write(replica, 0, blockBytes, 1), { code: 'DISK_FAILED' });
  files.hook = () => null;
  await store.close();
});

t.test('a region that is being written keeps its mark', async (t) => {
  const tables = new ReplicaTables(1, 1, identity);
  tables.apply({ type: 'mark', replica: 1, regions: Uint32Array.of(0, 1, 2) });
  tables.takeCut();
  const busy = (region: number): boolean => region === 1;
  t.same([...tables.startRetire(tables.cut, busy)], [0, 2]);
  t.ok(tables.isMarked(1));
  t.notOk(tables.isMarked(0), 'from now on a write marks again');
  t.same([...tables.startRetire(tables.cut, () => false)], [1]);
});

t.test('a failure for good is that of all replicas that share the files', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const failures = new Failures();
  const store = await open(files, failures);
  const replica = await store.createReplica(identity);
  const other = await store.createReplica({ ...identity, replicaId: 'r-9' });
  await write(replica, 0, chunkBytes, 1);
  await take(replica, 's-1');
  await confirm(replica, 's-1');
  const cloneOf = { replicaId: identity.replicaId, snapshotId: 's-1' };
  const clones: ReplicaStore[] = [];
  for (const replicaId of ['r-2', 'r-3']) {
    clones.push(await store.createReplica({ ...identity, replicaId }, { cloneOf }));
  }
  files.hook = (operation) => (operation === 'datasync' ? 'EIO' : null);
  await write(replica, 0, blockBytes, 2).catch(() => {});
  await t.rejects(flush(replica), { code: 'DISK_FAILED' });
  files.hook = () => null;
  for (const one of [replica, ...clones]) t.match(one.failure, { code: 'DISK_FAILED' });
  t.ok(failures.all.length >= 1);
  t.ok(other);
  await store.close();
});

t.test('a failed sync of data fails clones, and nobody else', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const failures = new Failures();
  const store = await open(files, failures);
  const replica = await store.createReplica(identity);
  const other = await store.createReplica({ ...identity, replicaId: 'r-9' });
  await write(replica, 0, chunkBytes, 1);
  await take(replica, 's-1');
  await confirm(replica, 's-1');
  const cloneOf = { replicaId: identity.replicaId, snapshotId: 's-1' };
  const clone = await store.createReplica({ ...identity, replicaId: 'r-2' }, { cloneOf });
  await write(clone, 0, blockBytes, 2);
  const own = `/disk/lineages/${identity.replicaId}/data`;
  files.hook = (operation, path) => (operation === 'datasync' && path === own ? 'EIO' : null);
  await t.rejects(flush(clone), { code: 'DISK_FAILED' });
  files.hook = () => null;
  t.match(replica.failure, { code: 'DISK_FAILED', message: /EIO/ });
  t.same(
    failures.all.map(({ replicaId }) => replicaId).sort(),
    [identity.replicaId, 'r-2'].sort(),
    'each is recorded once',
  );
  t.equal(other.failure, null);
  await write(other, 0, blockBytes, 1);
  await store.close();
});

t.test('the source of a clone may be deleted first', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  let store = await open(files);
  const replica = await store.createReplica(identity);
  for (let chunk = 0; chunk < 4; chunk++) {
    await write(replica, chunk * chunkBytes, chunkBytes, 1 + chunk);
  }
  await take(replica, 's-1');
  await t.rejects(
    store.createReplica(
      { ...identity, replicaId: 'r-2' },
      { cloneOf: { replicaId: identity.replicaId, snapshotId: 's-1' } },
    ),
    { code: 'FAILED_PRECONDITION', message: /is prepared/ },
  );
  await confirm(replica, 's-1');
  const cloneOf = { replicaId: identity.replicaId, snapshotId: 's-1' };
  const smaller = { ...identity, replicaId: 'r-2', sizeBytes: chunkBytes };
  await t.rejects(store.createReplica(smaller, { cloneOf }), { code: 'INVALID_ARGUMENT' });
  const sizeBytes = identity.sizeBytes + chunkBytes;
  let clone = await store.createReplica({ ...identity, replicaId: 'r-2', sizeBytes }, { cloneOf });
  await write(replica, 0, chunkBytes, 9);
  await write(clone, chunkBytes, blockBytes, 8);
  await store.deleteReplica(identity.replicaId);
  t.same(files.process().list('/disk/lineages'), [identity.replicaId], 'its files stay');
  // the id is free again, and the folder's name is not
  const again = await store.createReplica(identity);
  t.equal(again.allocatedBytes, 0);
  await store.close();
  store = await open(files);
  const found = store.replica('r-2');
  t.ok(found);
  if (found) clone = found;
  t.same((await read(clone, 0, blockBytes))[0], 1);
  t.same((await read(clone, chunkBytes, blockBytes))[0], 8);
  t.same((await read(clone, chunkBytes + blockBytes, blockBytes))[0], 2);
  t.same(clone.snapshots(), []);
  await store.deleteReplica('r-2');
  t.equal(files.process().list('/disk/lineages').length, 1, 'then they go');
  await store.close();
});

t.test('1,000 snapshots: the middle half goes, and the rest is as it was', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  const replica = (await store.createReplica(identity)) as DiskReplica;
  const chunks = 8;
  const taken = 1_000;
  for (let i = 0; i < taken; i++) {
    await write(replica, (i % chunks) * chunkBytes, blockBytes, 1 + (i % 200));
    await take(replica, `s-${i}`);
  }
  t.equal(replica.snapshots().length, taken);
  const valueAt = (i: number, chunk: number): number => {
    const last = i - ((i - chunk) % chunks);
    return i < chunk ? 0 : 1 + (last % 200);
  };
  for (let i = 250; i < 750; i++) await drop(replica, `s-${i}`);
  t.equal(replica.snapshots().length, taken / 2);
  for (let i = 0; i < taken; i += i === 249 ? 501 : 1) {
    const chunk = (i * 3) % chunks;
    const value = await readView(replica, `s-${i}`, chunk);
    if (value !== valueAt(i, chunk)) t.fail(`s-${i}, chunk ${chunk}: ${value}`);
  }
  await store.close();
  const again = await open(files);
  const found = again.replica(identity.replicaId);
  t.equal(found?.snapshots().length, taken / 2);
  for (let chunk = 0; found && chunk < chunks; chunk++) {
    t.equal(await readView(found, 's-800', chunk), valueAt(800, chunk));
  }
  t.equal(found?.snapshots().find((one) => one.snapshotId === 's-750')?.parent, 's-249');
  await again.close();
});

t.test('space: what is live, what snapshots hold, what is on its way back', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  const replica = (await store.createReplica(identity)) as DiskReplica;
  for (let chunk = 0; chunk < 4; chunk++) await write(replica, chunk * chunkBytes, chunkBytes, 1);
  await take(replica, 's-1');
  t.match(replica.space(), { allocatedBytes: 4 * chunkBytes, snapshotBytes: 0 });
  t.notOk(replica.ownsChunk(0));
  await write(replica, 0, blockBytes, 2);
  t.ok(replica.ownsChunk(0));
  await call((done) => {
    replica.zero(chunkBytes, chunkBytes, false, done);
  });
  t.notOk(replica.isAllocated(1));
  t.match(replica.space(), { allocatedBytes: 3 * chunkBytes, snapshotBytes: 2 * chunkBytes });
  t.same(replica.changedChunks('s-1', null)?.list(), [0, 1]);
  t.same(replica.changedChunks(null, 's-1')?.list(), [0, 1, 2, 3]);
  t.equal(replica.changedChunks('s-7', null), null);
  t.equal(replica.headParent, 's-1');
  await drop(replica, 's-1');
  t.ok(replica.ownsChunk(3), 'nobody else sees it any more');
  t.equal(replica.view('s-1'), null);
  await flush(replica);
  await store.close();
  const again = await open(files);
  const found = again.replica(identity.replicaId);
  while (found?.space().snapshotBytes !== 0) await turn();
  t.equal(found.space().allocatedBytes, 3 * chunkBytes, 'the rest came free in the background');
  await again.close();
});

t.test('a few freed slots are given back to the file system after a while', async (t) => {
  const files = new FaultyFiles({ seed: 1, punches: true });
  const clock = new FakeClock();
  const options = { bootId: files.bootId, clock };
  const store = await openStore('/disk', files.process(), options);
  const replica = (await store.createReplica(identity)) as DiskReplica;
  await write(replica, 0, 4 * chunkBytes, 1);
  await call((done) => {
    replica.zero(0, 3 * chunkBytes, false, done);
  });
  t.equal(replica.space().reclaimableBytes, 3 * chunkBytes, 'they wait for more');
  clock.advance(maxFreedWaitMs);
  while (replica.space().reclaimableBytes > 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.equal((await store.usage()).usedBytes < 2 * chunkBytes, true, 'the file system has it');
  await call((done) => {
    replica.zero(3 * chunkBytes, chunkBytes, false, done);
  });
  await store.close();
  // what waited when the disk was closed
  const again = await openStore('/disk', files.process(), options);
  const found = again.replica(identity.replicaId);
  t.ok((found?.space().reclaimableBytes ?? 0) >= chunkBytes);
  clock.advance(maxFreedWaitMs);
  while (found?.space().reclaimableBytes !== 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  await again.close();
});

t.test('a snapshot that is confirmed outlives a power cut', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const files = new FaultyFiles({ seed });
    const store = await open(files);
    const replica = await store.createReplica(identity);
    for (let chunk = 0; chunk < 4; chunk++) await write(replica, chunk * chunkBytes, chunkBytes, 1);
    await take(replica, 's-1');
    await write(replica, 0, blockBytes, 2);
    await take(replica, 's-2');
    // the store flushes by itself, whoever has not
    await confirm(replica, 's-2');
    files.powerLoss();
    const again = await open(files);
    const found = replicaOf(again);
    t.equal(found.snapshots().at(-1)?.state, 'ready');
    t.equal(await readView(found, 's-2', 0), 2);
    for (let chunk = 1; chunk < 4; chunk++) t.equal(await readView(found, 's-2', chunk), 1);
    await again.close();
  }
});

t.test('a rollback marks what it changes, and nothing else', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  const sizeBytes = 4 * regionBytes;
  const replica = await store.createReplica({ ...identity, sizeBytes });
  for (let region = 0; region < 4; region++) {
    await write(replica, region * regionBytes, blockBytes, 1);
  }
  await take(replica, 's-1');
  await confirm(replica, 's-1');
  await write(replica, regionBytes, blockBytes, 2);
  await call((done) => {
    replica.zero(3 * regionBytes, chunkBytes, false, done);
  });
  replica.cutMarks();
  await call((done) => {
    replica.retireMarks({ epoch: 1, n: 1 }, done);
  });
  t.same(replica.marks(), []);
  await call((done) => {
    replica.rollback('s-1', done);
  });
  t.same(replica.marks(), [1, 3]);
  files.kill();
  const again = await open(files);
  const found = replicaOf(again);
  t.same(found.marks(), [1, 3]);
  t.same(found.regionsChangedSince({ epoch: 1, n: 1 }), [1, 3]);
  for (let region = 0; region < 4; region++) {
    t.equal((await read(found, region * regionBytes, blockBytes))[0], 1);
  }
  await again.close();
});

t.test('a copy that is made while a flush is under way is not final with it', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const files = new FaultyFiles({ seed });
    const store = await open(files);
    const replica = await store.createReplica(identity);
    await write(replica, 0, chunkBytes, 1);
    await take(replica, 's-1');
    await confirm(replica, 's-1');
    await write(replica, chunkBytes, blockBytes, 1);
    await write(replica, chunkBytes, blockBytes, 2);
    const { defer } = files;
    const held: (() => void)[] = [];
    // data and checksums; not the journal
    files.defer = (step, operation) => {
      if (operation === 'datasync' && held.length < 2) held.push(step);
      else defer(step, operation);
    };
    const flushing = flush(replica);
    while (held.length < 2) await turn();
    await write(replica, 0, blockBytes, 2);
    files.defer = defer;
    for (const step of held) step();
    await flushing;
    files.powerLoss();
    const again = await open(files);
    const found = replicaOf(again);
    const bytes = await read(found, 0, chunkBytes);
    t.same([...new Set(bytes)], [1], 'it is again what lies below');
    await again.close();
  }
});

t.test('a freed slot is empty for good before it is another chunk', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const files = new FaultyFiles({ seed });
    const store = await open(files);
    const replica = await store.createReplica(identity);
    await write(replica, 0, chunkBytes, 1);
    await flush(replica);
    await call((done) => {
      replica.zero(0, chunkBytes, false, done);
    });
    while (replica.space().reclaimableBytes > 0) await turn();
    await write(replica, 5 * chunkBytes, blockBytes, 2);
    files.powerLoss();
    const again = await open(files);
    const found = replicaOf(again);
    const rest = await read(found, 5 * chunkBytes + blockBytes, chunkBytes - blockBytes);
    t.same([...new Set(rest)], [0], 'nothing of the chunk that was trimmed');
    await again.close();
  }
});

t.test('a freed slot is not emptied under a read that found it before', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, 2 * blockBytes, 1);
  await take(replica, 's-1');
  await confirm(replica, 's-1');
  const { defer } = files;
  const held: (() => void)[] = [];
  files.defer = (step, operation) => {
    if (operation === 'read') held.push(step);
    else defer(step, operation);
  };
  const reading = read(replica, 0, blockBytes);
  while (held.length === 0) await turn();
  files.defer = defer;
  await write(replica, blockBytes, blockBytes, 2);
  await flush(replica);
  await drop(replica, 's-1');
  // the old slot belongs to nobody now
  for (let i = 0; i < 500; i++) await turn();
  t.equal(replica.space().reclaimableBytes, chunkBytes, 'it waits for the read');
  for (const step of held) step();
  t.same(new Set(await reading), new Set([1]), 'not zeros with a checksum that fits');
  while (replica.space().reclaimableBytes > 0) await turn();
  t.same((await read(replica, 0, blockBytes))[0], 1);
  await store.close();
});

t.test('an incomplete snapshot is filled; then it does not change any more', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, chunkBytes, 1);
  await call((done) => {
    replica.takeSnapshot('s-1', 1, 'incomplete', done);
  });
  const view = replica.view('s-1');
  t.ok(view);
  if (!view) return;
  const bytes = Buffer.alloc(chunkBytes, 7);
  const { crc32 } = await import('@stor/runtime');
  const sums = new Uint32Array(64).fill(crc32(bytes.subarray(0, blockBytes)));
  const put = (chunk: number): Promise<void> =>
    call((done) => {
      view.write(chunk * chunkBytes, chunkBytes, bytes, 0, sums, 0, done);
    });
  await put(0);
  await put(2);
  t.same((await read(replica, 2 * chunkBytes, blockBytes))[0], 7, 'the live image grew from it');
  await write(replica, 2 * chunkBytes, blockBytes, 3);
  await call((done) => {
    view.zero(0, chunkBytes, done);
  });
  t.equal(await readView(replica, 's-1', 0), 0);
  t.equal(await readView(replica, 's-1', 2), 7);
  await t.rejects(
    call((done) => {
      replica.rollback('s-1', done);
    }),
    { code: 'FAILED_PRECONDITION' },
  );
  await confirm(replica, 's-1');
  await put(2);
  await t.rejects(put(5), { code: 'FAILED_PRECONDITION', message: /nothing to repair/ });
  t.equal(replica.failure, null, 'a refusal is no failure');
  await call((done) => {
    replica.rollback('s-1', done);
  });
  t.same((await read(replica, 2 * chunkBytes, blockBytes))[0], 7);
  t.equal(replica.marks().length, Math.ceil(3 / chunksPerRegion));
  await store.close();
});

t.test('it grows, durably, and never shrinks', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  let store = await open(files);
  let replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  const resize = (sizeBytes: number): Promise<void> =>
    call((done) => {
      replica.resize(sizeBytes, done);
    });
  // more regions than a page of their table holds
  const larger = identity.sizeBytes * 40;
  await resize(larger);
  await resize(larger);
  await t.rejects(resize(identity.sizeBytes), { code: 'INVALID_ARGUMENT' });
  await write(replica, larger - blockBytes, blockBytes, 5);
  await flush(replica);
  files.powerLoss();
  store = await open(files);
  replica = store.replica(identity.replicaId) ?? replica;
  t.equal(replica.sizeBytes, larger);
  t.same((await read(replica, larger - blockBytes, blockBytes))[0], 5);
  t.equal(replica.marks().length, 2);
  await store.close();
});

t.test('a disk that is refused leaves no file open', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const store = await open(files);
  await store.createReplica(identity);
  await store.close();
  const process = files.process();
  let opened = 0;
  const counting = new Proxy(process, {
    get(target, key) {
      if (key === 'open' || key === 'create') {
        return (path: string) => {
          const file = target[key](path);
          opened += 1;
          const close = file.close.bind(file);
          let isOpen = true;
          file.close = () => {
            if (isOpen) opened -= 1;
            isOpen = false;
            close();
          };
          return file;
        };
      }
      const value = Reflect.get(target, key) as unknown;
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value;
    },
  });
  for (const name of ['image.a', 'image.b']) {
    files.content(`/disk/${name}`).corrupt(70, Uint8Array.of(1, 2, 3));
  }
  await t.rejects(openStore('/disk', counting, { clock: new FakeClock() }), {
    code: 'DISK_FAILED',
    message: /both copies of its metadata/,
  });
  t.equal(opened, 0);
});
