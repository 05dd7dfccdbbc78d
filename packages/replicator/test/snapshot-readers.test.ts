import { StorError, blockBytes, chunkBytes, type ErrorCode } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import {
  FailoverSnapshotReader,
  LocalSnapshotReader,
  SegmentedSnapshotReader,
  dirtyExtents,
  dirtyWithin,
  type Extent,
  type ReplicaSnapshotReader,
  type ReplicaView,
  type SnapshotReader,
  type SnapshotReplica,
  type StoreDone,
} from '@stor/replicator';
import fc from 'fast-check';
import t from 'tap';
import { Bitmap } from '../src/core/replication/bitmap.ts';

const blocks = 16;
const sizeBytes = blocks * blockBytes;

/** A replica's copy of one content; it may lack blocks, or be away, or have dropped the snapshot. */
class FakeReader implements ReplicaSnapshotReader {
  readonly sizeBytes = sizeBytes;
  readonly bad = new Set<number>();
  readonly repairs: number[] = [];
  readonly replicaId: string;
  readonly #truth: Buffer;
  failure: ErrorCode | null = null;
  opens = 0;
  closes = 0;
  readonly noted: string[] = [];

  constructor(replicaId: string, truth: Buffer) {
    this.replicaId = replicaId;
    this.#truth = truth;
  }

  async open(): Promise<ReplicaSnapshotReader> {
    this.opens += 1;
    if (this.failure) throw this.#error(this.failure);
    return this;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    setImmediate(() => {
      if (this.failure) {
        done(this.#error(this.failure));
        return;
      }
      // what a failed read leaves behind must reach nobody
      target.fill(0xee, start, start + length);
      for (let at = 0; at < length; at += blockBytes) {
        if (this.bad.has((offset + at) / blockBytes)) {
          done(this.#error('CHECKSUM_MISMATCH'));
          return;
        }
      }
      target.set(this.#truth.subarray(offset, offset + length), start);
      done(null);
    });
  }

  extents(
    offset: number,
    length: number,
    _limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    if (this.failure) done(this.#error(this.failure), []);
    else done(null, [{ offset, length, allocated: true }]);
  }

  changedSince(
    since: string,
    offset: number,
    length: number,
    _limit: number,
    done: Parameters<SnapshotReader['changedSince']>[4],
  ): void {
    if (this.failure) done(this.#error(this.failure), []);
    else if (since !== 's-a') done(this.#error('NOT_FOUND'), []);
    else done(null, [{ offset, length, dirty: true }]);
  }

  repair(offset: number, bytes: Uint8Array, done: StoreDone): void {
    this.repairs.push(offset / blockBytes);
    this.bad.delete(offset / blockBytes);
    if (!this.#truth.subarray(offset, offset + blockBytes).equals(bytes)) {
      throw new Error('a block was repaired with other bytes');
    }
    done(null);
  }

  close(): void {
    this.closes += 1;
  }

  noteFound(offset: number): void {
    this.noted.push(`found ${offset}`);
  }

  noteRepaired(offset: number, from: string): void {
    this.noted.push(`repaired ${offset} from ${from}`);
  }

  #error(code: ErrorCode): StorError {
    return new StorError(code, `${this.replicaId} says ${code}`);
  }
}

const truth = Buffer.alloc(sizeBytes);
for (let at = 0; at < sizeBytes; at++) truth[at] = Math.floor(at / blockBytes) + 1;

function rig(replicas = 3): {
  fakes: FakeReader[];
  reader: FailoverSnapshotReader;
  clock: FakeClock;
} {
  const clock = new FakeClock();
  const fakes = Array.from({ length: replicas }, (_, at) => new FakeReader(`r-${at}`, truth));
  const logger = silentLogger;
  const reader = new FailoverSnapshotReader({ sources: fakes, sizeBytes, clock, logger });
  return { fakes, reader, clock };
}

function read(reader: SnapshotReader, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.alloc(length);
  return new Promise((resolve, reject) => {
    reader.read(offset, length, target, 0, (error) => {
      if (error) reject(error);
      else resolve(target);
    });
  });
}

t.test('blocks come from whichever replica has them, and are repaired elsewhere', async (t) => {
  const badOn = fc.array(fc.uniqueArray(fc.nat(blocks - 1)), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(badOn, fc.nat(blocks - 1), fc.nat(blocks), async (bad, first, count) => {
      const { fakes, reader } = rig(bad.length);
      for (const [at, list] of bad.entries()) for (const block of list) fakes[at]!.bad.add(block);
      const length = Math.max(1, Math.min(count, blocks - first)) * blockBytes;
      const offset = first * blockBytes;
      const lost = bad.reduce(
        (all, list) => all.filter((block) => list.includes(block)),
        Array.from({ length: length / blockBytes }, (_, at) => first + at),
      );
      const outcome = await read(reader, offset, length).catch((error: unknown) => error);
      if (lost.length > 0) {
        t.match(outcome, { code: 'CHECKSUM_MISMATCH' });
        return;
      }
      t.ok(truth.subarray(offset, offset + length).equals(outcome as Buffer));
      const again = await read(reader, offset, length);
      t.ok(truth.subarray(offset, offset + length).equals(again));
      t.equal(reader.repaired, reader.found, 'each was written anew');
      const noted = fakes.flatMap((fake) => fake.noted);
      t.equal(noted.filter((note) => note.startsWith('found')).length, reader.found);
      t.equal(noted.filter((note) => note.startsWith('repaired')).length, reader.repaired);
      const asked = fakes[0]!;
      for (let block = first; block < first + length / blockBytes; block++) {
        t.notOk(asked.bad.has(block), 'the replica that is asked first is whole there');
      }
    }),
    { numRuns: 100 },
  );
});

t.test('a replica that is lost is left for another, and tried again later', async (t) => {
  const { fakes, reader, clock } = rig(2);
  const [first, second] = fakes as [FakeReader, FakeReader];
  await reader.ready();
  t.same([first.opens, second.opens], [1, 0], 'one is enough');
  first.failure = 'UNAVAILABLE';
  t.ok((await read(reader, 0, sizeBytes)).equals(truth));
  t.same([first.closes, second.opens], [1, 1]);
  first.failure = null;
  await read(reader, 0, blockBytes);
  t.equal(first.opens, 1, 'not at once');
  clock.advance(10_000);
  await read(reader, 0, blockBytes);
  t.equal(first.opens, 2);
  first.failure = 'UNAVAILABLE';
  second.failure = 'TIMEOUT';
  await t.rejects(read(reader, 0, blockBytes), { code: /UNAVAILABLE|TIMEOUT/ });
  second.failure = null;
  t.ok((await read(reader, 0, sizeBytes)).equals(truth), 'what is left is tried at once');
});

t.test('a snapshot that no replica has any more is gone for good', async (t) => {
  const { fakes, reader } = rig(2);
  const [first, second] = fakes as [FakeReader, FakeReader];
  await reader.ready();
  first.failure = 'NOT_FOUND';
  t.ok((await read(reader, 0, blockBytes)).equals(truth.subarray(0, blockBytes)));
  second.failure = 'NOT_FOUND';
  await t.rejects(read(reader, 0, blockBytes), { code: 'NOT_FOUND', message: /deleted/ });
  // even when another one of that id came to be: it may be a different one
  first.failure = null;
  second.failure = null;
  await t.rejects(read(reader, 0, blockBytes), { code: 'NOT_FOUND' });
  const { fakes: others, reader: fresh } = rig(1);
  others[0]!.failure = 'NOT_FOUND';
  await t.rejects(fresh.ready(), { code: 'NOT_FOUND' });
});

t.test('changes since a snapshot that is not known do not cost the replica', async (t) => {
  const { fakes, reader } = rig(2);
  const changed = (since: string): Promise<unknown> =>
    new Promise((resolve, reject) => {
      reader.changedSince(since, 0, sizeBytes, 10, (error, extents) => {
        if (error) reject(error);
        else resolve(extents);
      });
    });
  await t.rejects(changed('s-x'), { code: 'NOT_FOUND' });
  t.same(await changed('s-a'), [{ offset: 0, length: sizeBytes, dirty: true }]);
  fakes[0]!.failure = 'UNAVAILABLE';
  t.same(await changed('s-a'), [{ offset: 0, length: sizeBytes, dirty: true }]);
  reader.close();
  await t.rejects(changed('s-a'), { code: 'ABORTED' });
});

t.test('ranges that changed and a map of chunks tell the same', async (t) => {
  const chunkList = fc.uniqueArray(fc.nat(11));
  fc.assert(
    fc.property(chunkList, fc.nat(10), fc.integer({ min: 1, max: 12 }), (list, first, count) => {
      const map = new Bitmap(12);
      for (const chunk of list) map.add(chunk);
      const changed: { offset: number; length: number }[] = [];
      for (const chunk of map.list()) {
        const last = changed.at(-1);
        const offset = chunk * chunkBytes;
        if (last && last.offset + last.length === offset) last.length += chunkBytes;
        else changed.push({ offset, length: chunkBytes });
      }
      const offset = first * chunkBytes + 17;
      const length = Math.min(count * chunkBytes, 12 * chunkBytes - offset);
      for (const limit of [1, 2, 3, 100]) {
        const expected = dirtyExtents(map, offset, length, limit);
        t.same(dirtyWithin(changed, offset, length, limit), expected);
      }
    }),
    { numRuns: 100 },
  );
});

t.test('a volume of several segments is read over their boundaries', async (t) => {
  const segments = [0, 1].map(() => new FakeReader('r-0', truth));
  const total = sizeBytes + 3 * blockBytes;
  const reader = new SegmentedSnapshotReader(segments, sizeBytes, total);
  const whole = Buffer.concat([truth, truth.subarray(0, 3 * blockBytes)]);
  t.ok((await read(reader, 0, total)).equals(whole));
  const over = [sizeBytes - blockBytes, 2 * blockBytes] as const;
  t.ok((await read(reader, ...over)).equals(whole.subarray(over[0], over[0] + over[1])));
  const told = await new Promise((resolve) => {
    reader.extents(sizeBytes, 2 * blockBytes, 10, (_error, extents) => {
      resolve(extents);
    });
  });
  t.same(told, [{ offset: sizeBytes, length: 2 * blockBytes, allocated: true }]);
});

t.test('a local snapshot tells changes only of snapshots that are ready', async (t) => {
  const states = new Map<string, 'ready' | 'incomplete' | 'prepared'>([
    ['s-a', 'ready'],
    ['s-b', 'ready'],
    ['s-c', 'incomplete'],
  ]);
  const changedChunks = new Bitmap(4);
  changedChunks.add(2);
  const replica: SnapshotReplica = {
    replicaId: 'r-0',
    failure: null,
    snapshots: () =>
      [...states].map(([snapshotId, state]) => ({
        snapshotId,
        state,
        epoch: 1,
        sizeBytes: 4 * chunkBytes,
        parent: null,
        ownBytes: 0,
      })),
    view: (snapshotId) => ({ snapshotId, sizeBytes: 4 * chunkBytes }) as unknown as ReplicaView,
    changedChunks: () => changedChunks,
  };
  t.throws(() => LocalSnapshotReader.open(replica, 's-x'), { code: 'NOT_FOUND' });
  t.throws(() => LocalSnapshotReader.open(replica, 's-c'), { code: 'UNAVAILABLE' });
  const reader = LocalSnapshotReader.open(replica, 's-b');
  const changed = (since: string, limit = 10): Promise<unknown> =>
    new Promise((resolve, reject) => {
      reader.changedSince(since, chunkBytes / 2, 3 * chunkBytes, limit, (error, extents) => {
        if (error) reject(error);
        else resolve(extents);
      });
    });
  const extents = [
    { offset: chunkBytes / 2, length: 1.5 * chunkBytes, dirty: false },
    { offset: 2 * chunkBytes, length: chunkBytes, dirty: true },
    { offset: 3 * chunkBytes, length: chunkBytes / 2, dirty: false },
  ];
  t.same(await changed('s-a'), extents);
  t.same(await changed('s-a', 2), extents.slice(0, 2));
  await t.rejects(changed('s-c'), { code: 'UNAVAILABLE' });
  await t.rejects(changed('s-x'), { code: 'NOT_FOUND' });
  states.delete('s-b');
  await t.rejects(changed('s-a'), { code: 'NOT_FOUND' });
});

t.test('a replica that has failed is no reason to call each block bad', async (t) => {
  const error = new StorError('DISK_FAILED', 'its disk has failed');
  const replica = {
    replicaId: 'r-0',
    failure: null as StorError | null,
    snapshots: () => [{ snapshotId: 's-a', state: 'ready' }],
    view: () => ({
      snapshotId: 's-a',
      sizeBytes,
      read: (_at: number, _length: number, _target: unknown, _start: number, done: StoreDone) => {
        done(error);
      },
    }),
  };
  const reader = LocalSnapshotReader.open(replica as unknown as SnapshotReplica, 's-a');
  await t.rejects(read(reader, 0, blockBytes), { code: 'DISK_FAILED' });
  replica.failure = error;
  await t.rejects(read(reader, 0, blockBytes), { code: 'UNAVAILABLE' });
});
