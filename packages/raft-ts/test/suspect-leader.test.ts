import t from 'tap';
import { defaultLimits } from '../src/core/limits.ts';
import { membershipOf } from '../src/core/membership.ts';
import { RawNode } from '../src/core/raw-node.ts';
import type { RaftMessage } from '../src/core/types.ts';

const electionTicks = 10;

/** Member 2 of three, which follows 1; `random` near 1 gives it the longest election timeout. */
function follower(options: { id?: string; voteHoldTicks?: number } = {}): RawNode {
  const node = new RawNode(
    {
      id: '2',
      electionTicks,
      heartbeatTicks: 1,
      limits: defaultLimits,
      random: () => 0.99,
      ...options,
    },
    {
      snapshot: {
        index: 0,
        term: 0,
        membership: membershipOf(['1', '2', '3']),
        sizeBytes: 0,
        checksum: 0,
      },
      start: { index: 0, term: 0 },
      entries: [],
      commit: 0,
      hardState: { term: 1, vote: null, commit: 0 },
    },
  );
  hear(node, options.id);
  node.takeMessages();
  return node;
}

function hear(node: RawNode, to = '2'): void {
  node.step({ type: 'heartbeat', from: '1', to, term: 1, commit: 0, readContext: 0 });
}

/** Ticks until it asks for votes, at most `limit`. */
function ticksToElection(node: RawNode, limit = 3 * electionTicks): number | null {
  for (let ticks = 1; ticks <= limit; ticks += 1) {
    node.tick();
    if (node.status.role === 'preCandidate') return ticks;
  }
  return null;
}

const preVote: RaftMessage = {
  type: 'preVote',
  from: '3',
  to: '2',
  term: 2,
  lastIndex: 0,
  lastTerm: 0,
  isTransfer: false,
};

/** What it answers to a pre-vote of 3. */
function answer(node: RawNode): boolean | null {
  node.step(preVote);
  const messages = [
    ...node.takeMessages(),
    ...(node.hasReady() ? node.saved(node.ready(false)) : []),
  ];
  const found = messages.find(({ type }) => type === 'preVoteResponse');
  return found?.type === 'preVoteResponse' ? !found.rejected : null;
}

t.test('whose connection to its leader broke stands after a few ticks', async (t) => {
  t.equal(ticksToElection(follower()), 2 * electionTicks - 1);
  const node = follower();
  node.suspectLeader('1');
  t.equal(ticksToElection(node), 2);
  const next = follower({ id: '3' });
  next.suspectLeader('1');
  t.equal(ticksToElection(next), 6, 'the next one gives it time to be elected');
});

t.test('and gives its vote at once, which it holds back for a leader it trusts', async (t) => {
  t.equal(answer(follower()), null, 'no answer while the leader is heard');
  const node = follower();
  node.suspectLeader('1');
  t.equal(answer(node), true);
});

t.test('a leader that is heard again is followed on', async (t) => {
  const node = follower();
  node.suspectLeader('1');
  for (let ticks = 0; ticks < 5 * electionTicks; ticks += 1) {
    hear(node);
    node.tick();
  }
  t.match(node.status, { role: 'follower', leaderId: '1' });
  t.equal(answer(node), null, 'and keeps its votes');
});

t.test('another peer than the leader is no reason', async (t) => {
  const node = follower();
  node.suspectLeader('3');
  t.equal(answer(node), null);
  t.equal(ticksToElection(node), 2 * electionTicks - 1);
});

t.test('where lease reads are allowed votes are held back all the same', async (t) => {
  const node = follower({ voteHoldTicks: electionTicks });
  for (let ticks = 0; ticks < electionTicks; ticks += 1) {
    hear(node);
    node.tick();
  }
  hear(node);
  node.takeMessages();
  node.suspectLeader('1');
  t.equal(answer(node), null);
  t.equal(ticksToElection(node), 2 * electionTicks - 1);
});
