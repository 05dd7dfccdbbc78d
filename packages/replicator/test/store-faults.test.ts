/** The disk store on files that fail, lie and rot; and its pure parts against stupid versions. */
import fc from 'fast-check';
import t from 'tap';
import { chunksPerRegion, regionBytes, StorError } from '@stor/protocol';
import { crc32, type OpenFile } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { CallOrder, type OrderedCall } from '../src/core/store/call-order.ts';
import { ColdReads, HotBlocks } from '../src/core/store/block-cache.ts';
import {
  encodeFrame,
  encodeJournalHeader,
  replayJournal,
} from '../src/core/store/journal-frame.ts';
import {
  decodeRecord,
  encodedRecordBytes,
  encodeRecord,
  type JournalRecord,
} from '../src/core/store/journal-record.ts';
import type { Layer } from '../src/core/store/layer-table.ts';
import { PagedNumbers } from '../src/core/store/paged-numbers.ts';
import { runsOf } from '../src/core/store/runs.ts';
import { FileSync } from '../src/store/file-sync.ts';
import { IoPool } from '../src/store/io-pool.ts';
import {
  blockBytes,
  blocksOf,
  call,
  chunkBytes,
  diskId,
  Failures,
  flush,
  identity,
  mib,
  openStore,
  read,
  write,
} from './store-fixture.ts';

const replicaPath = `/disk/replicas/${identity.replicaId}`;
const lineagePath = `/disk/lineages/${identity.replicaId}`;

function world(capacityBytes?: number): FaultyFiles {
  return new FaultyFiles({ seed: 1, ...(capacityBytes === undefined ? {} : { capacityBytes }) });
}

function open(files: FaultyFiles, failures = new Failures()): ReturnType<typeof openStore> {
  return openStore('/disk', files.process(), {
    failures,
    bootId: files.bootId,
    clock: new FakeClock(),
  });
}

const failing = [
  { what: 'data write', operation: 'write', path: /data$/, disk: false },
  { what: 'sums write', operation: 'write', path: /sums$/, disk: false },
  { what: 'data fdatasync', operation: 'datasync', path: /data$/, disk: false },
  { what: 'sums fdatasync', operation: 'datasync', path: /sums$/, disk: false },
  { what: 'journal write', operation: 'write', path: /journal/, disk: true },
  { what: 'journal fdatasync', operation: 'datasync', path: /journal/, disk: true },
];

for (const { what, operation, path, disk } of failing) {
  t.test(`a failed ${what} is recorded first and never tried again (I7)`, async (t) => {
    const files = world();
    const failures = new Failures();
    const store = await open(files, failures);
    const replica = await store.createReplica(identity);
    const other = await store.createReplica({ ...identity, replicaId: 'r-2' });
    await write(replica, 0, blockBytes, 1);
    await flush(replica);
    let recordedWhenAnswered = 0;
    files.hook = (op, file) => (op === operation && path.test(file) ? 'EIO' : null);
    const attempt = (async () => {
      await write(replica, 8 * mib, blockBytes, 2);
      await flush(replica);
    })().catch((error: unknown) => {
      recordedWhenAnswered = failures.all.length;
      throw error;
    });
    await t.rejects(attempt, { code: 'DISK_FAILED', message: /EIO/ });
    t.equal(recordedWhenAnswered, 1);
    t.match(failures.all, [{ diskId, replicaId: disk ? null : identity.replicaId, reason: /EIO/ }]);
    files.hook = () => null;
    const operations = files.operations;
    await t.rejects(flush(replica), { code: 'DISK_FAILED' });
    await t.rejects(write(replica, 0, blockBytes, 3), { code: 'DISK_FAILED' });
    await t.rejects(read(replica, 0, blockBytes), { code: 'DISK_FAILED' });
    const { bytes, sums } = blocksOf(1, 1);
    t.throws(() => replica.writeInline(0, blockBytes, bytes, 0, sums, 0), { code: 'DISK_FAILED' });
    t.notOk(replica.readInline(0, blockBytes, bytes, 0));
    t.equal(files.operations, operations, 'nothing was tried again');
    if (disk) {
      t.match(store.failure, { code: 'DISK_FAILED' });
      await t.rejects(write(other, 0, blockBytes, 1), { code: 'DISK_FAILED' });
      await t.rejects(store.createReplica({ ...identity, replicaId: 'r-3' }), {
        code: 'DISK_FAILED',
      });
    } else {
      await write(other, 0, blockBytes, 1);
      await flush(other);
    }
    await store.close();
  });
}

t.test(
  'a failed fdatasync is recorded at once, whatever else its flush waits for (I7)',
  async (t) => {
    const files = world();
    const failures = new Failures();
    const store = await open(files, failures);
    const replica = await store.createReplica(identity);
    await write(replica, 0, blockBytes, 1);
    await flush(replica);
    await write(replica, 0, blockBytes, 2);
    files.hook = (op, file) => (op === 'datasync' && file.endsWith('/data') ? 'EIO' : null);
    const { defer } = files;
    const held: (() => void)[] = [];
    let syncs = 0;
    // data first, then their checksums, which take long
    files.defer = (step, operation) => {
      if (operation === 'datasync' && ++syncs === 2) held.push(step);
      else defer(step, operation);
    };
    const flushing = flush(replica);
    let ended = false;
    const failed = t.rejects(flushing, { code: 'DISK_FAILED' }).then(() => (ended = true));
    // a process that is killed now would believe the disk when it opens it again
    for (let turns = 0; turns < 1_000 && failures.all.length === 0; turns++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    t.equal(failures.all.length, 1);
    t.notOk(ended);
    for (const step of held) step();
    await failed;
    t.equal(failures.all.length, 1);
    await store.close();
  },
);

t.test('a replica that cannot be made or removed as it should is no raw error', async (t) => {
  for (const operation of ['rename', 'syncDirectory', 'makeDirectory'] as const) {
    const files = world();
    const failures = new Failures();
    let store = await open(files, failures);
    const replica = await store.createReplica(identity);
    await write(replica, 0, blockBytes, 1);
    files.hook = (op) => (op === operation ? 'EIO' : null);
    const made = store.createReplica({ ...identity, replicaId: 'r-2' });
    await t.rejects(made, { code: 'DISK_FAILED' });
    if (operation !== 'makeDirectory') {
      await t.rejects(store.deleteReplica(identity.replicaId), { code: 'DISK_FAILED' });
    }
    files.hook = () => null;
    await store.close();
    store = await open(files);
    const ids = store.replicas().map(({ replicaId }) => replicaId);
    for (const id of ids) t.equal(store.replica(id)?.failure, null);
    await store.close();
  }
});

t.test('of syncs that overlap each one knows when another one failed (I7)', async (t) => {
  const calls: ((error: Error | null) => void)[] = [];
  const file = { datasync: (done: (error: Error | null) => void) => calls.push(done) };
  const syncs = new FileSync(file as unknown as OpenFile, new IoPool(4));
  const ended: string[] = [];
  const begin = (name: string): Promise<void> =>
    syncs.sync().then(
      () => void ended.push(`${name} well`),
      (error: unknown) => void ended.push(`${name} ${(error as Error).message}`),
    );
  const alone = begin('a');
  calls[0]?.(null);
  await alone;
  const both = [begin('b'), begin('c')];
  calls[1]?.(null);
  await new Promise((resolve) => setImmediate(resolve));
  t.same(ended, ['a well'], 'the other one may be told what was lost');
  calls[2]?.(new Error('EIO'));
  await Promise.all(both);
  const later = begin('d');
  calls[3]?.(null);
  await later;
  t.same(ended.sort(), ['a well', 'b EIO', 'c EIO', 'd EIO']);
});

t.test('an inline write that fails is recorded before it throws', async (t) => {
  const files = world();
  const failures = new Failures();
  const store = await open(files, failures);
  const replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  files.hook = (op) => (op === 'write' ? 'EIO' : null);
  const { bytes, sums } = blocksOf(1, 2);
  t.throws(() => replica.writeInline(0, blockBytes, bytes, 0, sums, 0), { code: 'DISK_FAILED' });
  t.equal(failures.all.length, 1);
  files.hook = () => null;
  await store.close();
});

t.test('a failed read fails the call only', async (t) => {
  const files = world();
  const failures = new Failures();
  const store = await open(files, failures);
  const replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  files.hook = (op, file) => (op === 'read' && file.endsWith('data') ? 'EIO' : null);
  t.notOk(replica.readInline(0, blockBytes, Buffer.alloc(blockBytes), 0));
  const details = { offset: '0' };
  await t.rejects(read(replica, 0, blockBytes), { code: 'CHECKSUM_MISMATCH', details });
  const valid = Uint8Array.of(1, 1);
  const target = Buffer.alloc(2 * blockBytes, 7);
  await call((done) => {
    replica.readUnverified(0, 2 * blockBytes, target, 0, valid, done);
  });
  t.same(valid, Uint8Array.of(2, 2), 'blocks that cannot be read are bad ones');
  files.hook = () => null;
  t.same(await read(replica, 0, blockBytes), Buffer.alloc(blockBytes, 1));
  t.same(failures.all, []);
  t.equal(replica.failure, null);
  await store.close();
});

t.test('lack of space fails a write, not for good; in a sync it is for good', async (t) => {
  const files = world();
  const failures = new Failures();
  let store = await open(files, failures);
  let replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  files.hook = (op, file) => (op === 'write' && file.endsWith('data') ? 'ENOSPC' : null);
  await t.rejects(write(replica, blockBytes, blockBytes, 1), { code: 'NO_SPACE' });
  await t.rejects(flush(replica), { code: 'NO_SPACE' });
  t.same(failures.all, []);
  files.hook = () => null;
  await store.close();
  store = await open(files, failures);
  replica = store.replica(identity.replicaId) ?? replica;
  t.equal(replica.failure, null);
  t.same(await read(replica, 0, blockBytes), Buffer.alloc(blockBytes, 1));
  await write(replica, blockBytes, blockBytes, 1);
  files.hook = (op, file) => (op === 'datasync' && file.endsWith('data') ? 'ENOSPC' : null);
  await t.rejects(flush(replica), { code: 'DISK_FAILED' });
  t.match(failures.all, [{ reason: /ENOSPC/ }]);
  files.hook = () => null;
  await store.close();
});

t.test('an unclean stop asks the disk for write-back errors at open', async (t) => {
  const files = world();
  const failures = new Failures();
  const first = await open(files, failures);
  await write(await first.createReplica(identity), 0, blockBytes, 1);
  files.kill();
  files.hook = (op, file) => (op === 'datasync' && file.endsWith('data') ? 'EIO' : null);
  const store = await open(files, failures);
  t.match(store.replica(identity.replicaId)?.failure, { code: 'DISK_FAILED' });
  t.match(failures.all, [{ replicaId: identity.replicaId, reason: /EIO/ }]);
  files.hook = () => null;
  await store.close();
});

/** Writes to a chunk that is new, in a region without mark, until the process is killed. */
async function killedWithin(at: number, seed: number): Promise<FaultyFiles> {
  const files = new FaultyFiles({ seed });
  const replica = await (await open(files)).createReplica({ ...identity, sizeBytes: 8 * mib });
  const crashed = crashOf(files);
  files.crashAfter(at, 'kill');
  const calls = [write(replica, 4 * mib, chunkBytes, 2), flush(replica)];
  await Promise.race([crashed, Promise.allSettled(calls)]);
  files.cancelCrash();
  files.kill();
  return files;
}

function crashOf(files: FaultyFiles): Promise<void> {
  return new Promise((resolve) => {
    files.onCrash = resolve;
  });
}

t.test('a kill, and a power cut while the disk is opened next', async (t) => {
  let cuts = 0;
  for (let seed = 1; seed <= 12; seed++) {
    const at = 1 + (seed % 5);
    for (let cut = 1; ; cut++) {
      const files = await killedWithin(at, seed);
      const crashed = crashOf(files);
      files.crashAfter(cut, 'power');
      const opened = open(files).then(() => 'opened');
      const first = await Promise.race([crashed, opened.catch(() => 'crashed')]);
      if (first === 'opened') break;
      cuts += 1;
      // what was lost then must not come back later, when its slot is used for something else
      for (const life of [1, 2]) {
        const failures = new Failures();
        const store = await open(files, failures);
        const replica = store.replica(identity.replicaId);
        if (!replica) throw new Error('the replica is gone');
        t.same(failures.all, [], `kill ${at}, cut ${cut}, life ${life}`);
        const valid = new Uint8Array(chunkBytes / blockBytes);
        const bytes = Buffer.alloc(chunkBytes);
        await call((done) => {
          replica.readUnverified(4 * mib, chunkBytes, bytes, 0, valid, done);
        });
        const untouched = valid.every((state) => state === 1) && bytes.every((byte) => byte === 0);
        const isMarked = replica.marks().includes(1);
        t.ok(untouched || isMarked, `kill ${at}, cut ${cut}, life ${life}: unmarked`);
        if (life === 1 && !isMarked) await write(replica, 2 * mib, chunkBytes, 3);
        files.kill();
      }
    }
  }
  t.ok(cuts > 30, `${cuts} cuts`);
});

t.test('a rotten block is found, inline and not, and named', async (t) => {
  const files = world();
  const store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, 4 * blockBytes, 1);
  files.content(`${lineagePath}/data`).corrupt(2 * blockBytes + 17, Uint8Array.of(0xff));
  const target = Buffer.alloc(4 * blockBytes);
  t.notOk(replica.readInline(0, 4 * blockBytes, target, 0));
  await t.rejects(read(replica, 0, 4 * blockBytes), {
    code: 'CHECKSUM_MISMATCH',
    details: { offset: String(2 * blockBytes) },
  });
  const valid = new Uint8Array(4);
  await call((done) => {
    replica.readUnverified(0, 4 * blockBytes, target, 0, valid, done);
  });
  t.same([...valid], [1, 1, 0, 1]);
  t.equal(replica.failure, null);
  await write(replica, 2 * blockBytes, blockBytes, 5);
  t.same(await read(replica, 2 * blockBytes, blockBytes), Buffer.alloc(blockBytes, 5));
  await store.close();
});

async function filled(files: FaultyFiles): Promise<void> {
  const store = await open(files);
  const replica = await store.createReplica(identity);
  for (let chunk = 0; chunk < 4; chunk++) await write(replica, chunk * chunkBytes, blockBytes, 7);
  await flush(replica);
  await store.close();
}

t.test('one bad copy of a page or of the image loses nothing', async (t) => {
  for (const [file, position] of [
    [`${lineagePath}/slots`, 0],
    [`${lineagePath}/slots`, 4096],
    [`${lineagePath}/layers`, 0],
    [`${lineagePath}/layers`, 4096],
    [`${replicaPath}/regions`, 0],
    [`${replicaPath}/regions`, 4096],
  ] as const) {
    const files = world();
    await filled(files);
    files.content(file).corrupt(position + 40, Uint8Array.of(1, 2, 3));
    const store = await open(files);
    const replica = store.replica(identity.replicaId);
    t.equal(replica?.failure, null, `${file} at ${position}`);
    t.same(replica?.marks(), [0]);
    t.same(replica && (await read(replica, 3 * chunkBytes, blockBytes))[0], 7);
    await store.close();
    // and the bad copy was written again: now the other one may go
    files.content(file).corrupt(4096 - position + 40, Uint8Array.of(1, 2, 3));
    const again = await open(files);
    t.equal(again.replica(identity.replicaId)?.failure, null, `${file} other copy`);
    await again.close();
  }
  for (const name of ['image.a', 'image.b']) {
    const files = world();
    await filled(files);
    files.content(`/disk/${name}`).corrupt(70, Uint8Array.of(1, 2, 3));
    const store = await open(files);
    t.ok(store.replica(identity.replicaId)?.keptMemory, name);
    t.same(store.replica(identity.replicaId)?.allocatedBytes, 4 * chunkBytes);
    await store.close();
  }
});

t.test('damage that nothing makes good is a failure, not a guess', async (t) => {
  for (const file of [`${lineagePath}/slots`, `${lineagePath}/layers`, `${replicaPath}/regions`]) {
    const files = world();
    await filled(files);
    const content = files.content(file);
    content.corrupt(40, Uint8Array.of(1, 2, 3));
    content.corrupt(4096 + 40, Uint8Array.of(1, 2, 3));
    const failures = new Failures();
    const store = await open(files, failures);
    t.match(store.replica(identity.replicaId)?.failure, {
      code: 'DISK_FAILED',
      message: /1 of 1 pages are damaged in both copies; it must be rebuilt/,
    });
    t.match(failures.all, [{ replicaId: identity.replicaId }]);
    const other = await store.createReplica({ ...identity, replicaId: 'r-2' });
    await write(other, 0, blockBytes, 1);
    await store.close();
    const again = await open(files, new Failures());
    t.match(again.replica(identity.replicaId)?.failure, { code: 'DISK_FAILED' }, 'remembered');
    t.equal(again.replica('r-2')?.failure, null);
    await again.deleteReplica(identity.replicaId);
    await again.close();
  }
  const files = world();
  await filled(files);
  for (const name of ['image.a', 'image.b']) {
    files.content(`/disk/${name}`).corrupt(70, Uint8Array.of(1, 2, 3));
  }
  await t.rejects(open(files), { code: 'DISK_FAILED', message: /both copies of its metadata/ });
});

t.test('a bad record before good ones fails the replicas; a torn tail does not', async (t) => {
  const prepare = async (): Promise<FaultyFiles> => {
    const files = world();
    const store = await open(files);
    const replica = await store.createReplica(identity);
    for (let chunk = 0; chunk < 4; chunk++) await write(replica, chunk * chunkBytes, blockBytes, 7);
    files.kill();
    return files;
  };
  // header, creation, then one frame for each chunk
  const middle = await prepare();
  middle.content('/disk/journal.0').corrupt(3 * 4096 + 50, Uint8Array.of(0xff));
  const failures = new Failures();
  const store = await open(middle, failures);
  t.match(store.replica(identity.replicaId)?.failure, {
    code: 'DISK_FAILED',
    message: /journal\.0 is damaged at byte 12288: valid records follow/,
  });
  t.equal(failures.all.length, 1);
  await store.close();

  const tail = await prepare();
  tail.content('/disk/journal.0').corrupt(5 * 4096 + 50, Uint8Array.of(0xff));
  const torn = await open(tail);
  const replica = torn.replica(identity.replicaId);
  t.equal(replica?.failure, null);
  t.equal(replica?.allocatedBytes, 3 * chunkBytes);
  await torn.close();
});

t.test('a journal file that was cut short is told, not written over', async (t) => {
  for (const [name, sizeBytes] of [
    ['journal.0', 0],
    ['journal.0', 4096],
    ['journal.1', 8 * 4096],
  ] as const) {
    const files = world();
    const store = await open(files);
    const replica = await store.createReplica(identity);
    await write(replica, 0, blockBytes, 7);
    files.kill();
    files.content(`/disk/${name}`).truncate(sizeBytes);
    await t.rejects(open(files), {
      code: 'DISK_FAILED',
      message: /journal files have .* cut short/,
    });
    t.equal(files.content(`/disk/${name}`).sizeBytes, sizeBytes);
  }
});

t.test('replicas come and go while crashes happen, and none is half there', async (t) => {
  const problems: string[] = [];
  for (let after = 1; after < 120; after += 1) {
    const files = new FaultyFiles({ seed: after, punches: after % 2 === 0 });
    await (await open(files)).close();
    const made = await open(files);
    await made.createReplica(identity);
    files.crashAfter(after, after % 2 === 0 ? 'kill' : 'power');
    const crashed = new Promise<string>((resolve) => {
      files.onCrash = () => {
        resolve('crashed');
      };
    });
    const acked: string[] = [];
    const work = (async () => {
      await made.createReplica({ ...identity, replicaId: 'r-2' });
      acked.push('create r-2');
      await made.deleteReplica(identity.replicaId);
      acked.push('delete');
      await made.createReplica(identity);
      acked.push('create again');
      await made.deleteReplica('r-2');
      acked.push('delete r-2');
      return 'done';
    })().catch(() => 'crashed');
    await Promise.race([work, crashed]);
    if (files.crashPending) {
      files.cancelCrash();
      files.kill();
    }
    const failures = new Failures();
    const store = await open(files, failures);
    const ids = store.replicas().map((replica) => replica.replicaId);
    const names = files.process().list('/disk/replicas');
    const first = ids.includes(identity.replicaId);
    const second = ids.includes('r-2');
    const ok =
      failures.all.length === 0 &&
      names.join() === [...ids].sort().join() &&
      (acked.length !== 0 || first) &&
      (acked.length !== 1 || second) &&
      (acked.length !== 2 || second) &&
      (acked.length !== 3 || first) &&
      (acked.length !== 4 || (first && !second));
    if (!ok) problems.push(`after ${after} (${acked.join()}): ${ids.join()} / ${names.join()}`);
    for (const id of ids) {
      const replica = store.replica(id);
      if (replica) await write(replica, 0, blockBytes, 1);
    }
    await store.close();
  }
  t.same(problems, []);
});

t.test('an initialisation that was interrupted anywhere is finished', async (t) => {
  for (let after = 1; after < 60; after++) {
    const files = new FaultyFiles({ seed: after, punches: after % 2 === 0 });
    files.crashAfter(after, after % 2 === 0 ? 'kill' : 'power');
    const crashed = new Promise((resolve) => {
      files.onCrash = () => {
        resolve(null);
      };
    });
    await Promise.race([open(files).catch(() => null), crashed]);
    files.cancelCrash();
    files.kill();
    const store = await open(files);
    await store.createReplica(identity);
    await store.close();
  }
  t.pass('every time');
});

t.test('calls that overlap keep their order, and no other waits', async (t) => {
  const callArb = fc.record({
    from: fc.nat(20),
    length: fc.integer({ min: 1, max: 8 }),
    writes: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(callArb, { maxLength: 20 }), fc.array(fc.nat(19)), (specs, finishes) => {
      const order = new CallOrder();
      const started: number[] = [];
      const calls: OrderedCall[] = specs.map(({ from, length, writes }, index) => ({
        from,
        to: from + length,
        writes,
        id: 0,
        blockers: 0,
        start: () => started.push(index),
      }));
      const done = new Set<number>();
      const added: number[] = [];
      const conflicts = (a: number, b: number): boolean => {
        const [x, y] = [calls[a], calls[b]];
        if (!x || !y) return false;
        return x.from < y.to && y.from < x.to && (x.writes || y.writes);
      };
      const check = (): void => {
        for (const index of added) {
          const blocked = added.some(
            (other) => other < index && !done.has(other) && conflicts(index, other),
          );
          if (started.includes(index) === blocked && !done.has(index)) {
            throw new Error(`call ${index} ${blocked ? 'overtook' : 'waits for nothing'}`);
          }
        }
      };
      for (const [index, one] of calls.entries()) {
        order.add(one);
        added.push(index);
        check();
        const finish = finishes[index];
        const victim = finish === undefined ? undefined : calls[finish];
        if (finish !== undefined && victim && started.includes(finish) && !done.has(finish)) {
          done.add(finish);
          order.finish(victim);
          check();
        }
      }
    }),
  );
  t.pass('as the stupid version');
});

t.test('runs cover the request and follow the slots', async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -3, max: 6 }), { minLength: 4, maxLength: 8 }),
      fc.nat(3 * 64),
      fc.integer({ min: 1, max: 64 }),
      (slots, first, count) => {
        const map = new PagedNumbers(slots.length);
        for (const [chunk, slot] of slots.entries()) map.put(chunk, slot);
        const runs = runsOf(map, first * blockBytes, count * blockBytes);
        const flat: number[] = [];
        for (const run of runs) {
          if (run.at !== flat.length) throw new Error('gap');
          for (let i = 0; i < run.count; i++) flat.push(run.linear < 0 ? -1 : run.linear + i);
        }
        const naive = Array.from({ length: count }, (_, i) => {
          const slot = slots[Math.floor((first + i) / 64)] ?? 0;
          return slot <= 0 ? -1 : (slot - 1) * 64 + ((first + i) % 64);
        });
        return flat.join() === naive.join();
      },
    ),
  );
  t.pass('as the stupid version');
});

t.test('hot blocks are forgotten, never invented', async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(9), fc.nat(1020), fc.integer({ min: 1, max: 4 }))),
      fc.tuple(fc.nat(9), fc.nat(1023), fc.integer({ min: 1, max: 40 })),
      (adds, [dropRegion, dropBlock, dropCount]) => {
        const hot = new HotBlocks(10, 4);
        const ever = new Set<number>();
        for (const [region, block, count] of adds) {
          const first = region * 1024 + block;
          hot.add(first, count);
          for (let i = 0; i < count; i++) {
            ever.add(first + i);
            if (!hot.has(first + i)) return false;
          }
        }
        for (let block = 0; block < 10 * 1024; block++) {
          if (hot.has(block) && !ever.has(block)) return false;
        }
        const before = Array.from({ length: 10 * 1024 }, (_, block) => hot.has(block));
        const first = dropRegion * 1024 + dropBlock;
        const last = Math.min(first + dropCount, 10 * 1024) - 1;
        hot.drop(first, last - first + 1);
        for (const [block, was] of before.entries()) {
          const isNear = block >> 4 >= first >> 4 && block >> 4 <= last >> 4;
          if (hot.has(block) !== (was && !isNear)) return false;
        }
        hot.clear();
        return !hot.has(0);
      },
    ),
  );
  t.pass('always');
});

t.test(
  'one cold read makes its neighbours suspect, many close together the whole cache',
  async (t) => {
    const reads = new ColdReads(() => null);
    const notes = Array.from({ length: 64 }, (_, i) => reads.note(i % 6 === 5 ? 0.3 : 0.1));
    t.equal(notes.filter((note) => note === 'cold').length, 10);
    t.equal(notes.filter((note) => note === 'warm').length, 54);
    t.equal(reads.note(0.3), 'cold', 'the next window begins anew');
    const close = Array.from({ length: 12 }, (_, i) => reads.note(i === 1 ? 0.1 : 0.3));
    t.equal(close.filter((note) => note === 'cold').length, 10);
    t.same([close[1], close[11]], ['warm', 'all cold']);
  },
);

t.test('a slow read that fetched nothing from the disk only waited for a core', async (t) => {
  let readBytes = 8192;
  let asked = 0;
  const reads = new ColdReads(() => {
    asked += 1;
    return readBytes;
  });
  t.equal(asked, 1, 'where it begins');
  for (let i = 0; i < 100; i++) t.equal(reads.note(0.1), 'warm');
  t.equal(asked, 1, 'quick reads do not ask');
  for (let i = 0; i < 10; i++) t.equal(reads.note(5), 'warm');
  readBytes += 4096;
  t.equal(reads.note(0.3), 'cold');
  t.equal(reads.note(0.3), 'warm', 'what was fetched counts once');
  t.equal(reads.note(25), 'cold', 'too long for a thread that waits for a core');
});

const u32 = fc.nat(2 ** 31 - 1);
const numbers = fc.array(u32, { maxLength: 20 }).map((list) => Uint32Array.from(list));
const generation = fc.record({ epoch: fc.maxSafeNat(), n: fc.maxSafeNat() });
const layerArb: fc.Arbitrary<Layer> = fc.record({
  place: fc.integer({ min: 1, max: 2 ** 24 - 1 }),
  kind: fc.constantFrom('head', 'snapshot', 'hidden'),
  parent: u32,
  replica: u32,
  snapshotId: fc.constantFrom('', 's-0123456789abcdef', 's-with-24-characters-abc'),
  state: fc.constantFrom('prepared', 'ready', 'incomplete'),
  epoch: fc.maxSafeNat(),
  sizeBytes: fc.maxSafeNat(),
  serial: fc.maxSafeNat(),
});
const recordArb: fc.Arbitrary<JournalRecord> = fc.oneof(
  fc.record({
    type: fc.constant('create' as const),
    replica: u32,
    identity: fc.constant(identity),
    lineage: u32,
    folder: fc.string(),
    head: layerArb,
  }),
  fc.record({
    type: fc.constant('create1' as const),
    replica: u32,
    identity: fc.constant(identity),
  }),
  fc.record({ type: fc.constant('slots' as const), lineage: u32, entries: numbers }),
  fc.record({
    type: fc.constant('layers' as const),
    lineage: u32,
    changes: fc.array(
      fc.oneof(
        layerArb.map((layer) => ({ place: layer.place, layer })),
        u32.map((place) => ({ place, layer: null })),
      ),
      { maxLength: 5 },
    ),
  }),
  fc.record({ type: fc.constant('resize' as const), replica: u32, sizeBytes: fc.maxSafeNat() }),
  fc.record({ type: fc.constant('delete' as const), replica: u32 }),
  fc.record({ type: fc.constant('chunks' as const), replica: u32, entries: numbers }),
  fc.record({ type: fc.constant('mark' as const), replica: u32, regions: numbers }),
  fc.record({ type: fc.constant('retire' as const), replica: u32, generation, regions: numbers }),
  fc.record({ type: fc.constant('generation' as const), replica: u32, generation }),
  fc.record({ type: fc.constant('adopt' as const), replica: u32, generation, after: generation }),
  fc.record({ type: fc.constant('stamp' as const), replica: u32, generation, regions: numbers }),
  fc.record({ type: fc.constant('fence' as const), replica: u32, epoch: fc.maxSafeNat() }),
  fc.record({
    type: fc.constant('view' as const),
    replica: u32,
    view: fc.record({
      epoch: fc.maxSafeNat(),
      setRevision: fc.maxSafeNat(),
      members: fc.array(fc.string(), { maxLength: 5 }),
    }),
  }),
);

t.test('records come back as they went in; a journal cut anywhere is a prefix', async (t) => {
  fc.assert(
    fc.property(recordArb, fc.nat(40), (record, at) => {
      const bytes = new Uint8Array(at + encodedRecordBytes(record));
      const end = encodeRecord(record, bytes, at);
      const { record: back, next } = decodeRecord(bytes, at);
      t.same(back, record);
      return next === end && end === bytes.length;
    }),
    { numRuns: 60 },
  );
  fc.assert(
    fc.property(
      fc.array(fc.array(recordArb, { minLength: 1, maxLength: 3 }), { maxLength: 8 }),
      fc.nat(12 * 4096),
      fc.nat(20),
      (frames, cut, applied) => {
        const file = new Uint8Array(16 * 4096);
        file.set(encodeJournalHeader({ generation: 3, firstLsn: 1 }, crc32));
        let at = 4096;
        let lsn = 1;
        const ends: { at: number; lsn: number }[] = [{ at, lsn }];
        for (const records of frames) {
          const frame = encodeFrame(3, lsn, records, crc32);
          file.set(frame, at);
          at += frame.length;
          lsn += records.length;
          ends.push({ at, lsn });
        }
        file.fill(0, Math.max(4096, cut));
        const whole = ends.filter((end) => end.at <= Math.max(4096, cut)).at(-1)?.lsn ?? 1;
        const replay = replayJournal([file, new Uint8Array(16 * 4096)], applied, crc32);
        // a frame whose tail was zeros anyway survives the cut
        const extra = replay.lastLsn - Math.max(applied, whole - 1);
        return (
          replay.damage === null &&
          extra >= 0 &&
          replay.records.length === Math.max(0, replay.lastLsn - applied)
        );
      },
    ),
  );
  t.throws(() => decodeRecord(Uint8Array.of(99, ...new Uint8Array(15)), 0), StorError);
});

t.test('changes after a generation that is not known are not guessed', async (t) => {
  const files = world();
  const store = await open(files);
  const replica = await store.createReplica(identity);
  t.equal(replica.regionsChangedSince({ epoch: 0, n: 0 }), null);
  await write(replica, 0, blockBytes, 1);
  await write(replica, regionBytes, blockBytes, 1);
  replica.cutMarks();
  const retire = (epoch: number, n: number): Promise<void> =>
    call((done) => {
      replica.retireMarks({ epoch, n }, done);
    });
  await retire(1, 1);
  t.same(replica.regionsChangedSince({ epoch: 1, n: 1 }), []);
  await write(replica, regionBytes, blockBytes, 2);
  t.same(replica.regionsChangedSince({ epoch: 1, n: 1 }), [1]);
  t.same(replica.regionsChangedSince({ epoch: 1, n: 2 }), [1], 'one behind is safe');
  t.equal(replica.regionsChangedSince({ epoch: 1, n: 3 }), null, 'two behind is not');
  replica.cutMarks();
  await retire(1, 2);
  t.same(replica.marks(), []);
  t.same(replica.regionsChangedSince({ epoch: 1, n: 1 }), [1]);
  await t.rejects(retire(1, 1), { code: 'FAILED_PRECONDITION' });
  await call((done) => {
    replica.adoptGeneration({ epoch: 2, n: 5 }, null, done);
  });
  t.equal(replica.regionsChangedSince({ epoch: 1, n: 2 }), null);
  t.equal(replica.regionsChangedSince({ epoch: 2, n: 5 }), null, 'what came before is not known');
  await write(replica, 2 * regionBytes, blockBytes, 2);
  replica.cutMarks();
  await retire(2, 6);
  t.same(replica.regionsChangedSince({ epoch: 2, n: 6 }), []);
  t.equal(chunksPerRegion, 16);
  await store.close();
});

t.test('a cut that comes while marks are retired belongs to the next retire', async (t) => {
  const files = world();
  const store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  const first = call((done) => {
    replica.retireMarks({ epoch: 1, n: 1 }, done);
  });
  replica.cutMarks();
  await first;
  t.same(replica.marks(), [0]);
  await call((done) => {
    replica.retireMarks({ epoch: 1, n: 2 }, done);
  });
  t.same(replica.marks(), []);
  await store.close();
});

t.test('changes of the generation take effect in the order of the calls', async (t) => {
  const files = world();
  const store = await open(files);
  const replica = await store.createReplica(identity);
  await write(replica, 0, blockBytes, 1);
  replica.cutMarks();
  await Promise.all([
    call((done) => {
      replica.retireMarks({ epoch: 1, n: 1 }, done);
    }),
    call((done) => {
      replica.adoptGeneration({ epoch: 1, n: 2 }, null, done);
    }),
    call((done) => {
      replica.retireMarks({ epoch: 1, n: 3 }, done);
    }),
  ]);
  t.same(replica.generation, { epoch: 1, n: 3 });
  t.same(replica.marks(), []);
  await store.close();
});
