import fc from 'fast-check';
import t from 'tap';
import { committedIndex, voteResult } from '../src/core/quorum.ts';
import { RaftLog } from '../src/core/raft-log.ts';
import { Inflights } from '../src/core/inflights.ts';
import {
  defaultLimits,
  membershipOf,
  RawNode,
  type Entry,
  type RaftMessage,
} from '../src/index.ts';

const ids = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];

t.test('committed index: as one that tries every index', async () => {
  fc.assert(
    fc.property(fc.array(fc.nat(12), { maxLength: 7 }), (indexes) => {
      const voters = new Set(ids.slice(0, indexes.length));
      const byId = new Map(ids.map((id, i) => [id, indexes[i] ?? 0]));
      let stupid = 0;
      for (let index = 1; index <= 12; index++) {
        const holders = indexes.filter((held) => held >= index);
        if (holders.length > indexes.length / 2) stupid = index;
      }
      return committedIndex(voters, (id) => byId.get(id) ?? 0) === stupid;
    }),
    { numRuns: 5000 },
  );
});

t.test('votes: as one that plays every way in which the missing could vote', async () => {
  const vote = fc.constantFrom(true, false, null);
  fc.assert(
    fc.property(fc.array(vote, { minLength: 1, maxLength: 5 }), (votes) => {
      const voters = new Set(ids.slice(0, votes.length));
      const given = new Map(
        votes.flatMap((each, i) => (each === null ? [] : [[ids[i] ?? '', each] as const])),
      );
      const missing = votes.filter((each) => each === null).length;
      const yes = votes.filter((each) => each === true).length;
      const ends = Array.from({ length: missing + 1 }, (_, more) => {
        return yes + more > votes.length / 2;
      });
      const stupid = ends.every(Boolean) ? 'won' : ends.some(Boolean) ? 'pending' : 'lost';
      return voteResult(voters, given) === stupid;
    }),
    { numRuns: 2000 },
  );
});

t.test('no voters: nothing is ever committed, and nobody ever wins', async (t) => {
  t.equal(
    committedIndex(new Set(), () => 5),
    0,
  );
  t.not(voteResult(new Set(), new Map([['a', true]])), 'won');
});

t.test('the window: as a plain list', async () => {
  const step = fc.oneof(fc.record({ add: fc.nat(50) }), fc.record({ free: fc.nat(40) }));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const inflights = new Inflights(5, 100);
      let model: { index: number; bytes: number }[] = [];
      let next = 1;
      for (const each of steps) {
        if ('add' in each) {
          if (inflights.full) continue;
          inflights.add(next, each.add);
          model.push({ index: next++, bytes: each.add });
        } else {
          inflights.freeThrough(each.free);
          model = model.filter(({ index }) => index > each.free);
        }
        const bytes = model.reduce((sum, sent) => sum + sent.bytes, 0);
        if (inflights.full !== (model.length >= 5 || bytes >= 100)) return false;
        if (inflights.count !== model.length) return false;
      }
      return true;
    }),
  );
});

/** Terms that never fall, as in every log. */
const terms = fc
  .array(fc.integer({ min: 1, max: 5 }), { maxLength: 12 })
  .map((list) => list.sort((a, b) => a - b));

function logOf(list: number[]): RaftLog {
  const snapshot = {
    index: 0,
    term: 0,
    membership: membershipOf(['a']),
    sizeBytes: 0,
    checksum: 0,
  };
  const entries = list.map((term, i): Entry => {
    return { index: i + 1, term, type: 'normal', data: new Uint8Array() };
  });
  return new RaftLog({ snapshot, start: { index: 0, term: 0 }, entries, commit: 0 });
}

t.test('a conflict hint never skips an index at which the logs agree', async () => {
  fc.assert(
    fc.property(terms, terms, (ours, theirs) => {
      const leader = logOf(ours);
      const follower = logOf(theirs);
      const agree = (index: number) => {
        return (
          index === 0 || (ours[index - 1] === theirs[index - 1] && ours[index - 1] !== undefined)
        );
      };
      let last = 0;
      while (agree(last + 1)) last++;
      // what the leader probes and the follower answers, until they meet
      let probe = leader.lastIndex;
      for (let round = 0; !follower.matches(probe, leader.termAt(probe) ?? 0); round++) {
        if (round > 12) return false;
        const hint = follower.findConflictByTerm(probe, leader.termAt(probe) ?? 0);
        const next = leader.findConflictByTerm(hint.index, hint.term).index;
        if (next >= probe || next < last) return false;
        probe = next;
      }
      return probe >= last;
    }),
    { numRuns: 5000 },
  );
});

t.test('up to date: a higher last term, or the same and at least as long', async (t) => {
  const log = logOf([1, 1, 3]);
  t.ok(log.isUpToDate(1, 4));
  t.ok(log.isUpToDate(3, 3));
  t.ok(log.isUpToDate(4, 3));
  t.notOk(log.isUpToDate(2, 3));
  t.notOk(log.isUpToDate(9, 2));
});

t.test('a leader cannot replace what is committed', async (t) => {
  const log = logOf([1, 1, 1]);
  log.commitTo(2);
  const entry: Entry = { index: 2, term: 2, type: 'normal', data: new Uint8Array() };
  t.throws(() => log.appendAfter(1, 1, [entry]), { code: 'INTERNAL', message: /is committed/ });
  t.throws(
    () => {
      log.commitTo(9);
    },
    { code: 'INTERNAL', message: /entries that were acknowledged are lost/ },
  );
});

/** A member in term 3 whose log has these terms, and what it answers to a message, once saved. */
function answers(list: number[], commit: number, message: RaftMessage): RaftMessage[] {
  const entries = list.map((term, i): Entry => {
    return { index: i + 1, term, type: 'normal', data: new Uint8Array() };
  });
  const raw = new RawNode(
    {
      id: 'b',
      electionTicks: 3,
      heartbeatTicks: 1,
      random: () => 0,
      limits: defaultLimits,
    },
    {
      hardState: { term: 3, vote: null, commit },
      snapshot: {
        index: 0,
        term: 0,
        membership: membershipOf(['a', 'b', 'c']),
        sizeBytes: 0,
        checksum: 0,
      },
      start: { index: 0, term: 0 },
      entries,
      commit,
    },
  );
  raw.step(message);
  const early = raw.takeMessages();
  return [...early, ...raw.saved(raw.ready())];
}

const fromLeader = { from: 'a', to: 'b', term: 3 };

t.test('an append acknowledges what it carried, not what else the log holds', async (t) => {
  // entries 3 and 4 are of another leader: counting them would commit what is not there
  const entry: Entry = { index: 2, term: 1, type: 'normal', data: new Uint8Array() };
  const append = { ...fromLeader, type: 'append', previousIndex: 1, previousTerm: 1 } as const;
  t.match(answers([1, 1, 2, 2], 1, { ...append, commit: 4, entries: [entry] }), [
    { type: 'appendResponse', rejected: false, index: 2 },
  ]);
});

t.test('an old, empty append cuts nothing', async (t) => {
  const log = logOf([1, 1, 2, 2]);
  t.equal(log.appendAfter(1, 1, []), 1);
  t.equal(log.lastIndex, 4);
});

t.test('an append that overlaps the committed part is answered with it', async (t) => {
  const append = { ...fromLeader, type: 'append', previousIndex: 0, previousTerm: 0 } as const;
  t.match(answers([1, 1, 1], 2, { ...append, commit: 0, entries: [] }), [
    { type: 'appendResponse', rejected: false, index: 2 },
  ]);
});

t.test('a snapshot of what the log holds already only moves the commit index', async (t) => {
  const snapshot = {
    index: 3,
    term: 1,
    membership: membershipOf(['a', 'b', 'c']),
    data: new Uint8Array(),
  };
  t.match(answers([1, 1, 1, 1], 1, { ...fromLeader, type: 'snapshot', snapshot }), [
    { type: 'appendResponse', rejected: false, index: 3 },
  ]);
});

t.test('a snapshot of before this member was added is taken', async (t) => {
  const membership = membershipOf(['a', 'c']);
  const snapshot = { index: 9, term: 2, membership, data: new Uint8Array() };
  t.match(answers([1, 1, 1, 1], 1, { ...fromLeader, type: 'snapshot', snapshot }), [
    { type: 'appendResponse', rejected: false, index: 9 },
  ]);
});

t.test('two leaders of one term stop who notices', async (t) => {
  const heartbeat = { type: 'heartbeat', to: 'b', term: 3, commit: 0, readContext: 0 } as const;
  const raw = new RawNode(
    {
      id: 'b',
      electionTicks: 3,
      heartbeatTicks: 1,
      random: () => 0,
      limits: defaultLimits,
    },
    {
      hardState: { term: 3, vote: null, commit: 0 },
      snapshot: {
        index: 0,
        term: 0,
        membership: membershipOf(['a', 'b', 'c']),
        sizeBytes: 0,
        checksum: 0,
      },
      start: { index: 0, term: 0 },
      entries: [],
      commit: 0,
    },
  );
  raw.step({ ...heartbeat, from: 'a' });
  t.throws(
    () => {
      raw.step({ ...heartbeat, from: 'c' });
    },
    { code: 'INTERNAL', message: /c and a both lead term 3/ },
  );
});
