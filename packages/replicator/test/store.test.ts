/** The disk store on real files: what it refuses, who may open it, full disks, damage. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { systemFiles } from '@stor/runtime';
import {
  blockBytes,
  blocksOf,
  call,
  chunkBytes,
  clusterId,
  diskId,
  Failures,
  flush,
  identity,
  mib,
  nodeId,
  openStore,
  read,
  write,
} from './store-fixture.ts';

t.test('a replica keeps what was written, through a clean stop', async (t) => {
  const dir = path.join(t.testdir(), 'disk');
  let store = await openStore(dir, systemFiles);
  let replica = await store.createReplica(identity);
  const { bytes, sums } = blocksOf(1, 7);
  t.notOk(replica.writeInline(0, blockBytes, bytes, 0, sums, 0), 'a new chunk is never inline');
  await write(replica, 0, blockBytes, 1);
  t.ok(replica.writeInline(0, blockBytes, bytes, 0, sums, 0), 'an overwrite is');
  const out = Buffer.alloc(blockBytes);
  t.ok(replica.readInline(0, blockBytes, out, 0));
  t.same(out, bytes);
  await write(replica, 5 * mib, 2 * mib, 9);
  t.equal(replica.allocatedBytes, chunkBytes + 2 * mib);
  t.same(replica.extents(0, 8 * mib, 10), [
    { offset: 0, length: chunkBytes, allocated: true },
    { offset: chunkBytes, length: 5 * mib - chunkBytes, allocated: false },
    { offset: 5 * mib, length: 2 * mib, allocated: true },
    { offset: 7 * mib, length: mib, allocated: false },
  ]);
  await call((done) => {
    replica.fence(5, done);
  });
  await t.rejects(
    call((done) => {
      replica.fence(4, done);
    }),
    { code: 'STALE_EPOCH', details: { highestEpoch: '5' } },
  );
  t.same(replica.marks(), [0, 1]);
  replica.cutMarks();
  await write(replica, 5 * mib, blockBytes, 10);
  await call((done) => {
    replica.retireMarks({ epoch: 5, n: 1 }, done);
  });
  t.same(replica.marks(), [1], 'a region written after the cut keeps its mark');
  await store.close();
  await store.close();

  store = await openStore(dir, systemFiles, { create: false });
  const reopened = store.replica(identity.replicaId);
  t.not(reopened, null);
  t.not(reopened, replica);
  replica = reopened ?? replica;
  t.equal(replica.highestEpoch, 5);
  t.ok(replica.keptMemory);
  t.same(replica.generation, { epoch: 5, n: 1 });
  t.same(replica.marks(), [1]);
  t.notOk(replica.readInline(0, blockBytes, out, 0), 'nothing is known to be in the page cache');
  t.same(await read(replica, 0, blockBytes), bytes);
  t.same(await read(replica, 5 * mib + blockBytes, blockBytes), Buffer.alloc(blockBytes, 9));
  t.ok(replica.readInline(0, blockBytes, out, 0));
  await call((done) => {
    replica.zero(5 * mib, 3 * mib, false, done);
  });
  t.equal(replica.allocatedBytes, chunkBytes);
  await store.deleteReplica(identity.replicaId);
  t.notOk(store.replica(identity.replicaId));
  t.same(fs.readdirSync(path.join(dir, 'replicas')), []);
  t.same(fs.readdirSync(path.join(dir, 'lineages')), []);
  await store.deleteReplica(identity.replicaId);
  await store.close();
  await t.rejects(store.createReplica(identity), { code: 'ABORTED' });
});

t.test('a replica is created once', async (t) => {
  const dir = path.join(t.testdir(), 'disk');
  const store = await openStore(dir, systemFiles);
  t.teardown(() => store.close());
  const [a, b] = await Promise.all([store.createReplica(identity), store.createReplica(identity)]);
  t.equal(a, b, 'a request that is sent again finds what the first one made');
  const larger = { ...identity, sizeBytes: identity.sizeBytes * 2 };
  await t.rejects(store.createReplica(larger), { code: 'ALREADY_EXISTS' });
  await write(a, 0, blockBytes, 1);
  await t.rejects(store.createReplica(identity), { code: 'ALREADY_EXISTS' });
});

t.test('it refuses what is not its own, and says why', async (t) => {
  const top = t.testdir({ photos: { 'cat.jpg': 'meow' }, empty: {} });
  const dir = path.join(top, 'disk');
  await (await openStore(dir, systemFiles)).close();
  const before = fs.readdirSync(dir);
  const otherCluster = { clusterId: 'c-0000000000000002', nodeId };
  await t.rejects(openStore(dir, systemFiles, { expect: otherCluster }), {
    code: 'FOREIGN_DATA',
    message: /belongs to cluster c-0000000000000001, this node to c-0000000000000002/,
  });
  const otherNode = { clusterId, nodeId: 'n-0000000000000002' };
  await t.rejects(openStore(dir, systemFiles, { expect: otherNode }), {
    code: 'FOREIGN_DATA',
    message: /belongs to node n-0000000000000001, this is node n-0000000000000002/,
  });
  const file = path.join(dir, 'disk.json');
  const text = fs.readFileSync(file, 'utf8');
  fs.writeFileSync(file, text.replace('"formatVersion": 2', '"formatVersion": 3'));
  await t.rejects(openStore(dir, systemFiles), {
    code: 'FOREIGN_DATA',
    message: /has format 3, this version of Stor reads up to 2: start the newer version/,
  });
  fs.writeFileSync(file, 'not json');
  await t.rejects(openStore(dir, systemFiles), { code: 'FOREIGN_DATA' });
  t.same(fs.readdirSync(dir), before, 'nothing was touched');
  await t.rejects(openStore(path.join(top, 'photos'), systemFiles), {
    code: 'FOREIGN_DATA',
    message: /is not empty \(cat\.jpg\) and is no Stor disk/,
  });
  t.same(fs.readdirSync(path.join(top, 'photos')), ['cat.jpg']);
  await t.rejects(openStore(path.join(top, 'empty'), systemFiles, { create: false }), {
    code: 'NOT_FOUND',
    message: /is its file system mounted/,
  });
  await t.rejects(openStore(path.join(top, 'none'), systemFiles, { create: false }), {
    code: 'NOT_FOUND',
  });
});

t.test('one process at a time; kill -9 lets go, and keeps every write', async (t) => {
  // deeper than a UNIX socket's name may be long
  const dir = path.join(t.testdir(), 'a'.repeat(90), 'b'.repeat(90), 'disk');
  const holder = fileURLToPath(new URL('store-lock-holder.ts', import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, holder, dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  t.equal(said.toString(), 'ready\n');
  await t.rejects(openStore(dir, systemFiles), {
    code: 'IN_USE',
    message: new RegExp(`is in use by process ${child.pid ?? 0}`),
    details: { pid: String(child.pid) },
  });
  child.kill('SIGSTOP');
  await t.rejects(openStore(dir, systemFiles), { code: 'IN_USE' }, 'a paused one still holds it');
  child.kill('SIGKILL');
  await once(child, 'exit');
  let store = await openStore(dir, systemFiles, { bootId: 'boot-0' });
  let replica = store.replicas()[0];
  t.ok(replica?.keptMemory, 'the host went on, so nothing is lost');
  t.same(replica && (await read(replica, 0, blockBytes)), Buffer.alloc(blockBytes, 42));
  t.same(replica?.marks(), [0]);
  await store.close();

  const again = spawn(process.execPath, [...process.execArgv, holder, dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => again.kill('SIGKILL'));
  await once(again.stdout, 'data');
  again.kill('SIGKILL');
  await once(again, 'exit');
  store = await openStore(dir, systemFiles, { bootId: 'boot-1' });
  replica = store.replicas()[0];
  t.equal(replica?.keptMemory, false, 'after a reboot it may have lost writes');
  await store.close();
  store = await openStore(dir, systemFiles, { bootId: 'boot-2' });
  replica = store.replicas()[0];
  t.equal(replica?.keptMemory, false, 'a clean stop does not bring them back');
  await call((done) => {
    replica?.adoptGeneration({ epoch: 3, n: 1 }, null, done);
  });
  await store.close();
  store = await openStore(dir, systemFiles, { bootId: 'boot-3' });
  t.equal(store.replicas()[0]?.keptMemory, true, 'being made equal does');
  await store.close();
});

t.test('many openers at once: one gets it', async (t) => {
  const dir = path.join(t.testdir(), 'disk');
  await (await openStore(dir, systemFiles)).close();
  const results = await Promise.allSettled(
    Array.from({ length: 5 }, () => openStore(dir, systemFiles)),
  );
  const open = results.filter((result) => result.status === 'fulfilled');
  t.ok(open.length <= 1, `${open.length} hold it`);
  for (const result of results) {
    if (result.status === 'rejected') t.match(result.reason, { code: 'IN_USE' });
  }
  for (const { value } of open) await value.close();
  const last = await openStore(dir, systemFiles);
  await last.close();
});

/** A file system of 16 MiB, or null where the test may not mount one. */
function mountSmall(): string | null {
  const dir = fs.mkdtempSync(path.join(tmpdir(), 'stor-full-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', dir], { stdio: 'ignore' });
    return dir;
  } catch {
    fs.rmdirSync(dir);
    return null;
  }
}

async function fillDisk(t: Test, dir: string): Promise<void> {
  const failures = new Failures();
  const own = path.join(dir, 'stor');
  const options = { journalBytes: 64 * 4096, reserveBytes: 2 * mib };
  let store = await openStore(own, systemFiles, { failures, options });
  let replica = await store.createReplica(identity);
  const promised = replica.freeChunks();
  t.ok(promised > 20 && promised < 56, `${promised} chunks`);
  for (let i = 0; i < promised; i++) await write(replica, i * chunkBytes, chunkBytes, i);
  t.equal(replica.freeChunks(), 0);
  t.ok((await store.usage()).freeBytes < chunkBytes);
  await write(replica, 0, chunkBytes, 99);
  await flush(replica);
  const other = { ...identity, replicaId: 'r-2', sizeBytes: 2 ** 40 };
  await t.rejects(store.createReplica(other), { code: 'NO_SPACE' });
  t.same(fs.readdirSync(path.join(own, 'replicas')), [identity.replicaId], 'nothing is left');

  // somebody else fills what was kept free: the next write that needs space cannot be done
  const { bavail, bsize } = fs.statfsSync(dir);
  fs.writeFileSync(path.join(dir, 'hog'), Buffer.alloc(bavail * bsize - 64 * 1024));
  let error: unknown = null;
  for (let i = promised; error === null && i < 256; i++) {
    error = await write(replica, i * chunkBytes, chunkBytes, 1).then(
      () => null,
      (caught: unknown) => caught,
    );
  }
  t.match(error, { code: 'NO_SPACE', message: /the disk is full/ });
  t.match(replica.failure, { code: 'NO_SPACE' });
  t.same(failures.all, [], 'nothing that was there is lost, so nothing is for good');
  const fence = (epoch: number): Promise<void> =>
    call((done) => {
      replica.fence(epoch, done);
    });
  await t.rejects(fence(4), { code: 'NO_SPACE' }, 'as long as it may not even overwrite');
  await store.close();
  store = await openStore(own, systemFiles, { failures, options, create: false });
  replica = store.replica(identity.replicaId) ?? replica;
  for (let i = promised; !replica.failure && i < 256; i++) {
    await write(replica, i * chunkBytes, chunkBytes, 1).catch(() => {});
  }
  t.match(replica.failure, { code: 'NO_SPACE' });
  fs.rmSync(path.join(dir, 'hog'));
  await fence(5);
  t.equal(replica.highestEpoch, 5, 'the fence that found room is kept, like any');
  await write(replica, 0, blockBytes, 98);
  await flush(replica);
  await write(replica, 0, blockBytes, 99);
  await store.close();
  store = await openStore(own, systemFiles, { failures, options, create: false });
  replica = store.replica(identity.replicaId) ?? replica;
  t.equal(replica.failure, null);
  t.same(await read(replica, 0, blockBytes), Buffer.alloc(blockBytes, 99));
  await call((done) => {
    replica.zero(0, 32 * chunkBytes, false, done);
  });
  await write(replica, 0, 16 * chunkBytes, 3);
  t.same(await read(replica, 15 * chunkBytes, blockBytes), Buffer.alloc(blockBytes, 3));
  t.equal(replica.failure, null, 'freed slots are used again');
  await store.close();
}

const small = mountSmall();
t.test('a full disk', { skip: small === null && 'tmpfs cannot be mounted' }, async (t) => {
  const dir = small ?? '';
  try {
    await fillDisk(t, dir);
  } finally {
    execFileSync('umount', ['-l', dir]);
    fs.rmdirSync(dir);
  }
});

t.test('a failed replica or disk stays failed', async (t) => {
  const dir = path.join(t.testdir(), 'disk');
  const failures = new Failures();
  const store = await openStore(dir, systemFiles, { failures });
  await store.createReplica(identity);
  await store.close();
  failures.record({ diskId, replicaId: identity.replicaId, reason: 'write failed: EIO' });
  const again = await openStore(dir, systemFiles, { failures });
  const replica = again.replica(identity.replicaId);
  t.match(replica?.failure, { code: 'DISK_FAILED', message: /write failed: EIO/ });
  await t.rejects(replica ? write(replica, 0, blockBytes, 1) : Promise.resolve(), {
    code: 'DISK_FAILED',
  });
  await again.close();
  failures.record({ diskId, replicaId: null, reason: 'journal failed: EIO' });
  await t.rejects(openStore(dir, systemFiles, { failures }), {
    code: 'DISK_FAILED',
    message: /journal failed: EIO/,
  });
});
