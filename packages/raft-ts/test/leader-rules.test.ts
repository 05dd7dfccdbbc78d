import t from 'tap';
import {
  defaultLimits,
  membershipOf,
  RawNode,
  type Entry,
  type RaftMessage,
} from '../src/index.ts';

/** Rules for which a run of chance hardly ever finds the few moments in which they matter. */

const voters = ['a', 'b', 'c'];

/** A leader of term 3 whose log holds two entries of older terms, and none of its own that b has. */
function newLeader(): RawNode {
  const entry = (index: number, term: number): Entry => {
    return { index, term, type: 'normal', data: new Uint8Array(1) };
  };
  const raw = new RawNode(
    { id: 'a', electionTicks: 5, heartbeatTicks: 1, random: () => 0, limits: defaultLimits },
    {
      hardState: { term: 2, vote: null, commit: 0 },
      snapshot: { index: 0, term: 0, membership: membershipOf(voters), sizeBytes: 0, checksum: 0 },
      start: { index: 0, term: 0 },
      entries: [entry(1, 1), entry(2, 2)],
      commit: 0,
    },
  );
  raw.campaign();
  save(raw);
  const vote = { from: 'b', to: 'a', term: 3, rejected: false };
  raw.step({ ...vote, type: 'preVoteResponse' });
  save(raw);
  raw.step({ ...vote, type: 'voteResponse' });
  save(raw);
  return raw;
}

function save(raw: RawNode): void {
  while (raw.hasReady()) raw.saved(raw.ready());
  raw.takeMessages();
}

function acknowledge(index: number): RaftMessage {
  const hint = { hintIndex: 0, hintTerm: 0, isRecovering: false };
  return { type: 'appendResponse', from: 'b', to: 'a', term: 3, rejected: false, index, ...hint };
}

t.test('entries of older terms are not committed by counting (figure 8)', async (t) => {
  const raw = newLeader();
  t.equal(raw.status.role, 'leader');
  t.equal(raw.log.lastIndex, 3, 'its own term begins with an empty entry');
  raw.step(acknowledge(2));
  t.equal(raw.status.commitIndex, 0, 'a majority has entry 2, and another may still replace it');
  raw.step(acknowledge(3));
  t.equal(raw.status.commitIndex, 3, 'with an entry of its own term all before it are committed');
});

t.test('no change of members before an entry of the own term is committed', async (t) => {
  const raw = newLeader();
  raw.step(acknowledge(2));
  t.throws(() => raw.proposeChange([{ type: 'remove', id: 'c' }]), { code: 'CHANGE_PENDING' });
  t.equal(raw.log.lastIndex, 3, 'nothing happened');
  raw.step(acknowledge(3));
  t.equal(raw.proposeChange([{ type: 'remove', id: 'c' }]), 4);
});
