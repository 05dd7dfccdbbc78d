import { crc32 as zlibCrc32 } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import { crc32 } from '../src/core/crc32.ts';
import { SnapshotAssembly, SnapshotTransfer } from '../src/core/snapshot-transfer.ts';
import {
  defaultLimits,
  membershipOf,
  inOnePiece,
  RawNode,
  type ArrivingSnapshot,
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
  return inOnePiece({ index, term: 2, membership: membershipOf(['a', 'b']), data }).snapshot;
}

const envelope = { type: 'snapshotChunk', from: 'a', to: 'b', term: 2 } as const;

/** A transfer whose chunks come with what a store has of them. */
class Sender {
  readonly transfer: SnapshotTransfer;
  readonly #data: Uint8Array;

  constructor(data: Uint8Array, chunkBytes: number, window: number, index = 7) {
    const options = { chunkBytes, window, patienceTicks: 3 };
    this.transfer = new SnapshotTransfer(snapshotOf(data, index), options);
    this.#data = data;
  }

  take(): SnapshotChunk[] {
    const { index, term, membership, sizeBytes } = this.transfer.snapshot;
    return this.transfer.take().map(({ offset, length }) => ({
      ...envelope,
      snapshotIndex: index,
      snapshotTerm: term,
      membership,
      totalBytes: sizeBytes,
      offset,
      data: this.#data.subarray(offset, offset + length),
      checksum: crc32(this.#data.subarray(0, offset + length)),
    }));
  }
}

/** A follower: the assembly, and what it has put into the store, which outlives a restart. */
class Receiver {
  #assembly = new SnapshotAssembly();
  #stored: ArrivingSnapshot | null = null;
  content: number[] = [];

  add(chunk: SnapshotChunk): ReturnType<SnapshotAssembly['add']> {
    const answer = this.#assembly.add(chunk);
    if (answer.isTaken) {
      const { snapshotIndex: index, snapshotTerm: term, totalBytes, offset, checksum } = chunk;
      if (offset !== 0 && offset !== this.content.length) throw new Error('a gap');
      this.content.length = offset;
      this.content.push(...chunk.data);
      this.#stored = { index, term, totalBytes, bytes: this.content.length, checksum };
    }
    return answer;
  }

  restart(): void {
    this.#assembly = new SnapshotAssembly(this.#stored);
  }

  get text(): string {
    return Buffer.from(this.content).toString();
  }
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
    'restart',
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
        const sender = new Sender(data, chunkBytes, window);
        const { transfer } = sender;
        const assembly = new Receiver();
        let done: Snapshot | null = null;
        const chunks: SnapshotChunk[] = [];
        const answers: number[] = [];
        const send = () => {
          const taken = sender.take();
          const bytes = taken.reduce((sum, chunk) => sum + chunk.data.length, 0);
          if (bytes > chunkBytes * window) throw new Error('more than the window');
          chunks.push(...taken);
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
          if (what === 'restart') assembly.restart();
        }
        // then nothing fails any more
        for (let round = 0; round < 20_000 && !done; round++) {
          if (chunks.length > 0) deliver(chunks.shift());
          else if (answers.length > 0) answer(0);
          else tick();
        }
        const arrived = done as Snapshot | null;
        return (
          arrived !== null && Buffer.from(assembly.content).equals(data) && arrived.index === 7
        );
      },
    ),
    { numRuns: 1000 },
  );
});

t.test('a restart of the follower costs nothing that was answered', async (t) => {
  const sender = new Sender(Buffer.from('0123456789'), 2, 2);
  const follower = new Receiver();
  const deliver = (chunks: SnapshotChunk[]) =>
    chunks.map((chunk) => follower.add(chunk).nextOffset).at(-1) ?? 0;
  sender.transfer.acknowledge(deliver(sender.take()));
  follower.restart();
  const sent: number[] = [];
  for (let chunks = sender.take(); chunks.length > 0; chunks = sender.take()) {
    sent.push(...chunks.map(({ offset }) => offset));
    sender.transfer.acknowledge(deliver(chunks));
  }
  t.same(sent, [4, 6, 8], 'it goes on where it was');
  t.equal(follower.text, '0123456789');
});

t.test('another leader goes on with the same snapshot, if its bytes are the same', async (t) => {
  const follower = new Receiver();
  for (const chunk of new Sender(Buffer.from('0123456789'), 2, 2).take()) follower.add(chunk);
  follower.restart();
  const next = new Sender(Buffer.from('0123456789'), 3, 1);
  const answers: number[] = [];
  for (let chunks = next.take(); chunks.length > 0; chunks = next.take()) {
    for (const chunk of chunks) answers.push(follower.add({ ...chunk, term: 3 }).nextOffset);
    next.transfer.acknowledge(answers.at(-1) ?? 0);
  }
  t.same(answers, [4, 7, 10]);
  t.equal(follower.text, '0123456789');
});

t.test('chunks of different bytes are never mixed', async (t) => {
  const ours = new Sender(Buffer.from('0123456789'), 4, 9).take();
  const theirs = new Sender(Buffer.from('abcdefghij'), 4, 9).take();
  const follower = new Receiver();
  const add = (chunk: SnapshotChunk | undefined) => {
    if (!chunk) throw new Error('no such chunk');
    return follower.add(chunk);
  };
  t.equal(add(ours[0]).nextOffset, 4);
  t.equal(add(theirs[1]).nextOffset, 0, 'it begins anew');
  theirs.slice(0, 2).forEach((chunk) => add(chunk));
  const end = add(theirs[2]);
  t.ok(end.snapshot);
  t.equal(follower.text, 'abcdefghij');
});

t.test(
  'one that began is finished though newer ones are there, and a late old one is ignored',
  async (t) => {
    const follower = new Receiver();
    const old = new Sender(Buffer.from('old!'), 2, 9, 3).take();
    const newer = new Sender(Buffer.from('newer!'), 2, 9, 9).take();
    for (const chunk of newer.slice(0, 2)) follower.add(chunk);
    for (const chunk of old) {
      t.same(follower.add(chunk), { nextOffset: 0, isTaken: false, snapshot: null });
    }
    const end = newer.slice(2).map((chunk) => follower.add(chunk).snapshot);
    t.equal(end.at(-1)?.index, 9);
    t.equal(follower.text, 'newer!');
  },
);

t.test('what a former leader began does not keep out an older one of the next', async (t) => {
  const follower = new Receiver();
  const [begun] = new Sender(Buffer.from('newer!'), 2, 9, 9).take();
  if (!begun) throw new Error('no chunk');
  follower.add(begun);
  const next = new Sender(Buffer.from('old!'), 2, 9, 3).take();
  const ends = next.map((chunk) => follower.add({ ...chunk, term: 3 }).snapshot);
  t.equal(ends.at(-1)?.index, 3);
  t.equal(follower.text, 'old!');
});

t.test('a size over the limit is not begun', async (t) => {
  const [chunk] = new Sender(Buffer.from('x'), 1, 1).take();
  if (!chunk) throw new Error('no chunk');
  const answer = new Receiver().add({ ...chunk, totalBytes: 2 ** 40 });
  t.same(answer, { nextOffset: 0, isTaken: false, snapshot: null });
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
  const [chunk] = new Sender(Buffer.from('state'), 64, 1, 3).take();
  if (!chunk) throw new Error('no chunk');
  raw.step({ ...chunk, snapshotTerm: 1, term: 1 });
  t.equal(raw.log.lastIndex, 5);
  t.equal(raw.status.commitIndex, 3, 'what it tells is that three are committed');
  t.equal(raw.ready().snapshot, null);
});

t.test('a follower goes on with what it had when it stopped', async (t) => {
  const [, chunk] = new Sender(Buffer.from('0123456789'), 4, 2).take();
  if (!chunk) throw new Error('no chunk');
  const first = Buffer.from('0123');
  const raw = new RawNode(
    { id: 'b', electionTicks: 5, heartbeatTicks: 1, random: () => 0, limits: defaultLimits },
    {
      hardState: { term: 2, vote: null, commit: 0 },
      snapshot: { ...snapshotOf(new Uint8Array(), 0), term: 0 },
      start: { index: 0, term: 0 },
      entries: [],
      commit: 0,
      arriving: { index: 7, term: 2, totalBytes: 10, bytes: 4, checksum: crc32(first) },
    },
  );
  raw.step(chunk);
  t.same(raw.takeMessages(), [], 'it is answered when it is in the store');
  const ready = raw.ready();
  t.match(ready.pieces, [{ index: 7, offset: 4, source: 'arriving' }]);
  t.match(raw.saved(ready), [{ type: 'snapshotChunkResponse', nextOffset: 8 }]);
});

t.test('the log behind a snapshot that is being sent is kept, up to a limit', async (t) => {
  const entry = (index: number): Entry => {
    return { index, term: 1, type: 'normal', data: new Uint8Array(100) };
  };
  for (const transferLogBytes of [10_000, 500]) {
    const limits = { ...defaultLimits, transferLogBytes };
    const raw = new RawNode(
      { id: 'a', electionTicks: 5, heartbeatTicks: 1, random: () => 0, limits },
      {
        hardState: { term: 1, vote: null, commit: 3 },
        snapshot: { ...snapshotOf(Buffer.from('state'), 3), term: 1 },
        start: { index: 3, term: 1 },
        entries: [4, 5, 6, 7, 8, 9, 10].map(entry),
        commit: 3,
      },
    );
    const answer = { from: 'b', to: 'a', term: 2 } as const;
    const save = () => raw.saved(raw.ready());
    raw.campaign();
    raw.step({ ...answer, type: 'preVoteResponse', rejected: false });
    save();
    raw.step({ ...answer, type: 'voteResponse', rejected: false });
    save();
    // it has nothing
    const rejected = { rejected: true, index: 10, hintIndex: 0, hintTerm: 0, isRecovering: false };
    raw.step({ ...answer, type: 'appendResponse', ...rejected });
    t.match(raw.takeChunkOrder(), { to: 'b', offset: 0, length: 5, snapshot: { index: 3 } });
    t.same(raw.snapshotsInUse(), [{ index: 3, term: 1 }]);
    const { index } = raw.compactionPoint(0, 10);
    t.equal(index, transferLogBytes === 500 ? 10 : 3);
  }
});
