import fc from 'fast-check';
import t from 'tap';
import { entryOverheadBytes } from '../src/core/limits.ts';
import {
  defaultLimits,
  encodeMessages,
  membershipOf,
  RawNode,
  type Entry,
  type RaftLimits,
  type RaftMessage,
} from '../src/index.ts';
import { bytes, Cluster } from './cluster.ts';

/** What one side may do to the memory of the other, and a hung disk to that of its own member. */

function nodeOf(id: string, limits: Partial<RaftLimits>, entries: Entry[] = []): RawNode {
  const voters = ['a', 'b', 'c'];
  return new RawNode(
    {
      id,
      electionTicks: 10,
      heartbeatTicks: 1,
      random: () => 0,
      limits: { ...defaultLimits, ...limits },
    },
    {
      hardState: { term: entries.length > 0 ? 1 : 0, vote: null, commit: 0 },
      snapshot: { index: 0, term: 0, membership: membershipOf(voters), sizeBytes: 0, checksum: 0 },
      start: { index: 0, term: 0 },
      entries,
      commit: 0,
    },
  );
}

function save(raw: RawNode): RaftMessage[] {
  const sent: RaftMessage[] = [];
  while (raw.hasReady()) sent.push(...raw.saved(raw.ready()));
  sent.push(...raw.takeMessages());
  return sent;
}

function elect(raw: RawNode): void {
  raw.campaign();
  save(raw);
  const { term } = raw.status;
  raw.step({ type: 'preVoteResponse', from: 'b', to: 'a', term: term + 1, rejected: false });
  save(raw);
  raw.step({ type: 'voteResponse', from: 'b', to: 'a', term: term + 1, rejected: false });
}

const acknowledgement = (from: string, term: number, index: number): RaftMessage => {
  const hint = { hintIndex: 0, hintTerm: 0, isRecovering: false };
  return { type: 'appendResponse', from, to: 'a', term, rejected: false, index, ...hint };
};

t.test('a follower that does not answer is sent a window, however much is proposed', async (t) => {
  const limits = { appendBytes: 1_000, inflightMessages: 8, inflightBytes: 4_000 };
  const raw = nodeOf('a', limits);
  elect(raw);
  save(raw);
  const { term } = raw.status;
  for (const from of ['b', 'c']) raw.step(acknowledgement(from, term, 1));
  save(raw);
  let sentToC = 0;
  let messagesToC = 0;
  for (let i = 0; i < 2_000; i++) {
    raw.propose([new Uint8Array(300)]);
    for (const message of save(raw)) {
      if (message.type !== 'append' || message.to !== 'c') continue;
      sentToC += message.entries.reduce((sum, { data }) => sum + data.length, 0);
      if (message.entries.length > 0) messagesToC++;
    }
    // b is quick, so that everything is committed, and c says nothing
    raw.step(acknowledgement('b', term, raw.log.lastIndex));
    if (i % 10 === 0) raw.tick();
    raw.step({ type: 'heartbeatResponse', from: 'b', to: 'a', term, readContext: 0 });
  }
  t.equal(raw.status.role, 'leader');
  t.ok(messagesToC <= limits.inflightMessages, `${messagesToC} appends`);
  t.ok(sentToC <= limits.inflightBytes + limits.appendBytes, `${sentToC} bytes`);
});

t.test('proposals of one turn are one append and one write', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node, machine } = await cluster.untilLeader();
  const proposed = Promise.all(Array.from({ length: 500 }, (_, i) => node.propose(bytes(`${i}`))));
  await cluster.during(proposed);
  t.equal(Math.max(...machine.groups), 500);
});

t.test('reads of one turn share one round of heartbeats', async (t) => {
  const cluster = new Cluster(['a', 'b', 'c'], null);
  t.teardown(() => cluster.stopAll());
  await cluster.startAll();
  const { node } = await cluster.untilLeader();
  await cluster.during(node.readIndex());
  let rounds = 0;
  const follower = ['a', 'b', 'c'].find((id) => id !== node.id) ?? '';
  const { node: other } = cluster.get(follower);
  const contexts = new Set<number>();
  cluster.network.join(follower, (messages) => {
    for (const each of messages) {
      if (each.type === 'heartbeat' && each.readContext > 0) contexts.add(each.readContext);
    }
    rounds++;
    other.step(messages);
  });
  await cluster.during(Promise.all(Array.from({ length: 1_000 }, () => node.readIndex())));
  t.equal(contexts.size, 1, `${rounds} batches came`);
});

t.test('a follower whose disk hangs keeps a bounded number of answers', async (t) => {
  const waitingMessages = 50;
  const raw = nodeOf('b', { waitingMessages });
  const envelope = { from: 'a', to: 'b', term: 1 };
  raw.step({ ...envelope, type: 'heartbeat', commit: 0, readContext: 0 });
  // the write of the new term is under way, and never ends
  const ready = raw.ready();
  const at = { previousIndex: 0, previousTerm: 0, commit: 0 };
  const entry: Entry = { index: 1, term: 1, type: 'normal', data: new Uint8Array(10) };
  for (let i = 0; i < 10_000; i++) {
    raw.step({ ...envelope, type: 'heartbeat', commit: 0, readContext: i });
    raw.step({ ...envelope, ...at, type: 'append', entries: i % 2 === 0 ? [] : [entry] });
    // refused, so it cannot be told in one answer with the others
    const far = { previousIndex: 90, previousTerm: 1, commit: 0 };
    if (i % 7 === 0) raw.step({ ...envelope, ...far, type: 'append', entries: [] });
  }
  const before = raw.saved(ready);
  const after = [...before, ...save(raw)];
  t.ok(after.length <= 2 * waitingMessages + 2, `${after.length} answers`);
  const newest = after.filter((each) => each.type === 'appendResponse' && !each.rejected).at(-1);
  t.match(newest, { index: 1 }, 'the newest acknowledgement is among them');
  t.ok(encodeMessages(after).length < 50_000);
});

t.test('a log that cannot be compacted takes no more proposals, and goes on later', async (t) => {
  const raw = nodeOf('a', { logBytes: 2_000 });
  elect(raw);
  save(raw);
  const { term } = raw.status;
  const propose = () => {
    raw.propose([new Uint8Array(300)]);
    save(raw);
    raw.step(acknowledgement('b', term, raw.log.lastIndex));
  };
  for (let i = 0; i < 6; i++) propose();
  t.throws(propose, { code: 'TOO_BUSY' });
  t.equal(raw.status.commitIndex, 7, 'nothing happened');
  while (raw.takeCommitted().length > 0);
  const start = { index: 7, term };
  raw.compacted({ ...start, membership: raw.membership, sizeBytes: 0, checksum: 0 }, start);
  t.equal(raw.log.bytes, 0);
  propose();
  t.equal(raw.status.commitIndex, 8);
});

t.test('the log knows how much it holds, whatever is added, cut or compacted', async () => {
  const step = fc.record({
    what: fc.constantFrom('append', 'append', 'append', 'replace', 'compact'),
    count: fc.integer({ min: 1, max: 4 }),
    size: fc.nat(20),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const raw = nodeOf('b', {});
      let term = 1;
      for (const { what, count, size } of steps) {
        const { log } = raw;
        if (what === 'compact') {
          while (raw.takeCommitted().length > 0);
          const index = Math.min(log.applied, log.firstIndex - 1 + count);
          const start = { index, term: log.termAt(index) ?? 0 };
          const snapshot = { index: log.applied, term: log.termAt(log.applied) ?? 0 };
          const empty = { membership: raw.membership, sizeBytes: 0, checksum: 0 };
          raw.compacted({ ...snapshot, ...empty }, start);
        } else {
          if (what === 'replace') term++;
          const previousIndex = what === 'replace' ? log.committed : log.lastIndex;
          const entries = Array.from({ length: count }, (_, i): Entry => {
            return {
              index: previousIndex + 1 + i,
              term,
              type: 'normal',
              data: new Uint8Array(size),
            };
          });
          const commit = previousIndex + Math.floor(count / 2);
          const previousTerm = log.termAt(previousIndex) ?? 0;
          const envelope = { type: 'append', from: 'a', to: 'b', term } as const;
          raw.step({ ...envelope, previousIndex, previousTerm, commit, entries });
          save(raw);
        }
        const entries = log.entriesFrom(log.firstIndex, Infinity);
        const sum = entries.reduce((all, { data }) => all + data.length + entryOverheadBytes, 0);
        if (sum !== log.bytes) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
});
