import { crc32 as zlibCrc32 } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import { crc32 } from '../src/core/crc32.ts';
import { SnapshotAssembly, SnapshotTransfer } from '../src/core/snapshot-transfer.ts';
import {
  defaultLimits,
  membershipOf,
  RawNode,
  type Entry,
  type Snapshot,
  type SnapshotChunk,
} from '../src/index.ts';

t.test('the checksum is that of zlib, also in parts', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (bytes, at) => {
      const parts = crc32(bytes.subarray(at), crc32(bytes.subarray(0, at)));
      return crc32(bytes) === zlibCrc32(bytes) && parts === zlibCrc32(bytes);
    }),
  );
});

function snapshotOf(data: Uint8Array, index = 7): Snapshot {
  return { index, term: 2, membership: membershipOf(['a', 'b']), data };
}

const envelope = { type: 'snapshotChunk', from: 'a', to: 'b', term: 2 } as const;

function transferOf(snapshot: Snapshot, chunkBytes: number, window: number): SnapshotTransfer {
  return new SnapshotTransfer(snapshot, { chunkBytes, window, patienceTicks: 3 });
}

/** What may happen to a message, or to the follower. */
const event = fc.record({
  what: fc.constantFrom(
    'deliver',
    'deliver',
    'deliver',
    'answer',
    'answer',
    'lose',
    'tick',
    'repeat',
  ),
  at: fc.nat(20),
});

t.test('whatever is lost, repeated or reordered, it arrives as it was', async () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 60 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 4 }),
      fc.array(event, { maxLength: 120 }),
      (data, chunkBytes, window, events) => {
        const transfer = transferOf(snapshotOf(data), chunkBytes, window);
        const assembly = new SnapshotAssembly();
        let done: Snapshot | null = null;
        const chunks: SnapshotChunk[] = [];
        const answers: number[] = [];
        const send = () => {
          const taken = transfer.take();
          const bytes = taken.reduce((sum, chunk) => sum + chunk.data.length, 0);
          if (bytes > chunkBytes * window) throw new Error('more than the window');
          chunks.push(...taken.map((chunk) => ({ ...envelope, ...chunk })));
        };
        const deliver = (chunk: SnapshotChunk | undefined) => {
          if (!chunk || done) return;
          const { nextOffset, snapshot } = assembly.add(chunk);
          done = snapshot;
          answers.push(nextOffset);
        };
        const answer = (at: number) => {
          const [bytes] = answers.splice(at % Math.max(1, answers.length), 1);
          if (bytes !== undefined && transfer.acknowledge(bytes)) send();
        };
        const tick = () => {
          if (transfer.tick()) send();
        };
        send();
        for (const { what, at } of events) {
          const i = at % Math.max(1, chunks.length);
          if (what === 'deliver') deliver(chunks.splice(i, 1)[0]);
          if (what === 'repeat') deliver(chunks[i]);
          if (what === 'answer') answer(at);
          if (what === 'lose') chunks.splice(i, 1);
          if (what === 'tick') tick();
        }
        // then nothing fails any more
        for (let round = 0; round < 20_000 && !done; round++) {
          if (chunks.length > 0) deliver(chunks.shift());
          else if (answers.length > 0) answer(0);
          else tick();
        }
        const arrived = done as Snapshot | null;
        return arrived !== null && Buffer.from(arrived.data).equals(data) && arrived.index === 7;
      },
    ),
    { numRuns: 1000 },
  );
});

t.test('chunks of different bytes are never mixed', async (t) => {
  const ours = transferOf(snapshotOf(Buffer.from('0123456789')), 4, 9).take();
  const theirs = transferOf(snapshotOf(Buffer.from('abcdefghij')), 4, 9).take();
  const assembly = new SnapshotAssembly();
  const add = (chunk: (typeof ours)[number] | undefined) => {
    if (!chunk) throw new Error('no such chunk');
    return assembly.add({ ...envelope, ...chunk });
  };
  t.equal(add(ours[0]).nextOffset, 4);
  t.equal(add(theirs[1]).nextOffset, 0, 'it begins anew');
  theirs.slice(0, 2).forEach((chunk) => add(chunk));
  const end = add(theirs[2]);
  t.equal(Buffer.from(end.snapshot?.data ?? []).toString(), 'abcdefghij');
});

t.test(
  'one that began is finished though newer ones are there, and a late old one is ignored',
  async (t) => {
    const assembly = new SnapshotAssembly();
    const old = transferOf(snapshotOf(Buffer.from('old!'), 3), 2, 9).take();
    const newer = transferOf(snapshotOf(Buffer.from('newer!'), 9), 2, 9).take();
    for (const chunk of newer.slice(0, 2)) assembly.add({ ...envelope, ...chunk });
    for (const chunk of old) {
      t.same(assembly.add({ ...envelope, ...chunk }), { nextOffset: 0, snapshot: null });
    }
    const end = newer.slice(2).map((chunk) => assembly.add({ ...envelope, ...chunk }).snapshot);
    t.equal(Buffer.from(end.at(-1)?.data ?? []).toString(), 'newer!');
  },
);

t.test('what a former leader began does not keep out an older one of the next', async (t) => {
  const assembly = new SnapshotAssembly();
  const [begun] = transferOf(snapshotOf(Buffer.from('newer!'), 9), 2, 9).take();
  if (!begun) throw new Error('no chunk');
  assembly.add({ ...envelope, ...begun });
  const next = transferOf(snapshotOf(Buffer.from('old!'), 3), 2, 9).take();
  const ends = next.map((chunk) => assembly.add({ ...envelope, ...chunk, term: 3 }).snapshot);
  t.equal(Buffer.from(ends.at(-1)?.data ?? []).toString(), 'old!');
});

t.test('a size over the limit is not begun', async (t) => {
  const [chunk] = transferOf(snapshotOf(Buffer.from('x')), 1, 1).take();
  if (!chunk) throw new Error('no chunk');
  const answer = new SnapshotAssembly().add({ ...envelope, ...chunk, totalBytes: 2 ** 40 });
  t.same(answer, { nextOffset: 0, snapshot: null });
});

t.test('a snapshot takes nothing away from a log that has all of it and more', async (t) => {
  const entry = (index: number): Entry => {
    return { index, term: 1, type: 'normal', data: new Uint8Array(1) };
  };
  const empty = { ...snapshotOf(new Uint8Array(), 0), term: 0 };
  const raw = new RawNode(
    { id: 'b', electionTicks: 5, heartbeatTicks: 1, random: () => 0, limits: defaultLimits },
    {
      hardState: { term: 1, vote: null, commit: 1 },
      snapshot: empty,
      start: { index: 0, term: 0 },
      // all five are acknowledged: the leader may count on them
      entries: [1, 2, 3, 4, 5].map(entry),
      commit: 1,
    },
  );
  const snapshot = { ...snapshotOf(Buffer.from('state'), 3), term: 1 };
  const [chunk] = transferOf(snapshot, 64, 1).take();
  if (!chunk) throw new Error('no chunk');
  raw.step({ ...envelope, ...chunk, term: 1 });
  t.equal(raw.log.lastIndex, 5);
  t.equal(raw.status.commitIndex, 3, 'what it tells is that three are committed');
  t.equal(raw.ready().snapshot, null);
});
