import fc from 'fast-check';
import t from 'tap';
import {
  decodeMessages,
  encodeMessages,
  membershipOf,
  RaftError,
  type RaftMessage,
} from '../src/index.ts';

const number = fc.oneof(fc.nat(3), fc.maxSafeNat());
const id = fc.string({ maxLength: 6, unit: 'grapheme' });
const data = fc.uint8Array({ maxLength: 60 });
const envelope = { from: id, to: id, term: number };
const members = fc.array(id, { maxLength: 3 });
const membership = fc.oneof(
  members.map((voters) => ({ ...membershipOf([]), voters })),
  fc.record({
    voters: members,
    outgoing: members,
    learners: members,
    learnersNext: members,
    autoLeave: fc.boolean(),
  }),
);
const entryContent = fc.record({
  type: fc.constantFrom('normal' as const, 'empty' as const, 'config' as const),
  data,
});

const append = fc
  .record({
    ...envelope,
    previousIndex: fc.nat(2 ** 40),
    commit: number,
    contents: fc.array(entryContent, { maxLength: 5 }),
    terms: fc.array(fc.nat(2 ** 40), { minLength: 6, maxLength: 6 }),
  })
  .map(({ contents, terms, ...rest }): RaftMessage => {
    const rising = terms.sort((a, b) => a - b);
    const entries = contents.map((content, i) => ({
      ...content,
      index: rest.previousIndex + 1 + i,
      term: rising[i + 1] ?? 0,
    }));
    const term = 2 ** 41;
    return { ...rest, type: 'append', term, previousTerm: rising[0] ?? 0, entries };
  });

const message: fc.Arbitrary<RaftMessage> = fc.oneof(
  append,
  fc.record({
    ...envelope,
    type: fc.constantFrom('vote' as const, 'preVote' as const),
    lastIndex: number,
    lastTerm: number,
    isTransfer: fc.constant(false),
  }),
  fc.record({
    ...envelope,
    type: fc.constant('vote' as const),
    lastIndex: number,
    lastTerm: number,
    isTransfer: fc.constant(true),
  }),
  fc.record({ ...envelope, type: fc.constant('timeoutNow' as const) }),
  fc.record({
    ...envelope,
    type: fc.constant('snapshotChunk' as const),
    snapshotIndex: number,
    snapshotTerm: number,
    membership: fc.record({
      voters: members,
      outgoing: members,
      learners: members,
      learnersNext: members,
      autoLeave: fc.boolean(),
    }),
    totalBytes: number,
    offset: number,
    data,
    checksum: fc.nat(0xffff_ffff),
  }),
  fc.record({
    ...envelope,
    type: fc.constant('snapshotChunkResponse' as const),
    snapshotIndex: number,
    snapshotTerm: number,
    nextOffset: number,
  }),
  fc.record({
    ...envelope,
    type: fc.constantFrom('voteResponse' as const, 'preVoteResponse' as const),
    rejected: fc.boolean(),
  }),
  fc.record({
    ...envelope,
    type: fc.constant('appendResponse' as const),
    rejected: fc.boolean(),
    index: number,
    hintIndex: number,
    hintTerm: number,
    isRecovering: fc.constant(false),
  }),
  fc.record({
    ...envelope,
    type: fc.constant('appendResponse' as const),
    rejected: fc.constant(true),
    index: number,
    hintIndex: number,
    hintTerm: number,
    isRecovering: fc.constant(true),
  }),
  fc.record({
    ...envelope,
    type: fc.constant('heartbeat' as const),
    commit: number,
    readContext: number,
  }),
  fc.record({ ...envelope, type: fc.constant('heartbeatResponse' as const), readContext: number }),
  fc.record({
    ...envelope,
    type: fc.constant('snapshot' as const),
    snapshot: fc.record({
      index: number,
      term: number,
      membership,
      data,
    }),
  }),
);
const messages = fc.array(message, { maxLength: 5 });

function isRefused(bytes: Uint8Array): boolean {
  try {
    decodeMessages(bytes);
    return false;
  } catch (error) {
    return error instanceof RaftError && error.code === 'CORRUPT';
  }
}

t.test('what is encoded is decoded', async (t) => {
  fc.assert(
    fc.property(messages, (list) => {
      // a view into a larger buffer, as from a socket
      const encoded = encodeMessages(list);
      const buffer = Buffer.concat([Buffer.from('xyz'), encoded, Buffer.from('xyz')]);
      const decoded = decodeMessages(buffer.subarray(3, 3 + encoded.length));
      buffer.fill(0xff);
      t.strictSame(JSON.stringify(decoded, keepBytes), JSON.stringify(list, keepBytes));
    }),
    { numRuns: 300 },
  );
});

/** key order apart, as both sides come from the same shapes */
function keepBytes(_key: string, value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

t.test('cut anywhere, or with a byte too many, it is refused', async () => {
  fc.assert(
    fc.property(messages, fc.nat(), (list, at) => {
      const bytes = encodeMessages(list);
      const longer = Buffer.concat([bytes, Buffer.from([0])]);
      return isRefused(bytes.subarray(0, at % bytes.length)) && isRefused(longer);
    }),
    { numRuns: 500 },
  );
});

t.test('random and damaged bytes are refused or decoded, never anything else', async () => {
  const holds = (bytes: Uint8Array) => {
    try {
      // what is accepted is exactly what would be sent
      return Buffer.from(encodeMessages(decodeMessages(bytes))).equals(bytes);
    } catch (error) {
      return error instanceof RaftError && error.code === 'CORRUPT';
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), holds), { numRuns: 1000 });
  fc.assert(
    fc.property(messages, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, at, change) => {
      const bytes = Uint8Array.from(encodeMessages(list));
      const i = at % bytes.length;
      bytes[i] = (bytes[i] ?? 0) ^ change;
      return holds(bytes);
    }),
    { numRuns: 1000 },
  );
});

t.test('a length is checked before anything is allocated', async (t) => {
  const bytes = encodeMessages([
    {
      type: 'snapshot',
      from: 'a',
      to: 'b',
      term: 1,
      snapshot: { index: 1, term: 1, membership: membershipOf([]), data: Buffer.from('x') },
    },
  ]);
  // the length of the data is in front of its only byte
  bytes.fill(0xff, bytes.length - 5, bytes.length - 1);
  t.throws(() => decodeMessages(bytes), { code: 'CORRUPT', message: /ends too early/ });
});

t.test('limits are the same on both sides', async (t) => {
  const heartbeat: RaftMessage = {
    type: 'heartbeat',
    from: 'a',
    to: 'x'.repeat(256),
    term: 1,
    commit: 0,
    readContext: 0,
  };
  t.throws(() => encodeMessages([heartbeat]), { code: 'INVALID_ARGUMENT' });
  const many = Array<RaftMessage>(65_536).fill({ ...heartbeat, to: 'b' });
  t.throws(() => encodeMessages(many), { code: 'INVALID_ARGUMENT' });
  t.throws(() => decodeMessages(new Uint8Array((96 << 20) + 1)), { code: 'CORRUPT' });
});
