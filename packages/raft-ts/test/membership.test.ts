import fc from 'fast-check';
import t from 'tap';
import {
  changed,
  decodeMembership,
  encodeMembership,
  everyMember,
  isJoint,
  left,
  type MemberChange,
  type Membership,
} from '../src/core/membership.ts';
import { jointCommittedIndex, jointVoteResult } from '../src/core/quorum.ts';
import { membershipOf } from '../src/index.ts';

const ids = ['a', 'b', 'c', 'd', 'e'];
const someIds = fc.subarray(ids, { minLength: 1 });
const change = fc.record({
  type: fc.constantFrom<MemberChange['type']>('addVoter', 'addLearner', 'remove'),
  id: fc.constantFrom(...ids),
});
const changes = fc.uniqueArray(change, { minLength: 1, maxLength: 4, selector: ({ id }) => id });
const simple = fc.tuple(someIds, fc.subarray(ids)).map(([voters, learners]): Membership => {
  return { ...membershipOf(voters), learners: learners.filter((id) => !voters.includes(id)) };
});

function subsets(): Set<string>[] {
  return Array.from({ length: 2 ** ids.length }, (_, bits) => {
    return new Set(ids.filter((_id, i) => (bits >> i) % 2 === 1));
  });
}

/** By its definition, not by the code: more than half of each half. */
function isQuorum({ voters, outgoing }: Membership, group: Set<string>): boolean {
  const hasMost = (half: string[]) => half.filter((id) => group.has(id)).length > half.length / 2;
  return hasMost(voters) && (outgoing.length === 0 || hasMost(outgoing));
}

/** The steps that a change makes; null when it is refused. */
function steps(current: Membership, wanted: MemberChange[]): Membership[] | null {
  try {
    const next = changed(current, wanted);
    return isJoint(next) ? [current, next, left(next)] : [current, next];
  } catch {
    return null;
  }
}

t.test('memberships that follow each other never have disjoint majorities', async (t) => {
  let joint = 0;
  fc.assert(
    fc.property(simple, changes, (current, wanted) => {
      const made = steps(current, wanted);
      if (!made) return true;
      if (made.length === 3) joint++;
      return made.slice(1).every((after, i) => {
        const before = made[i] ?? after;
        const ones = subsets().filter((group) => isQuorum(before, group));
        const others = subsets().filter((group) => isQuorum(after, group));
        return ones.every((one) => others.every((other) => [...one].some((id) => other.has(id))));
      });
    }),
    { numRuns: 500 },
  );
  t.ok(joint > 50, 'joint memberships were among them');
});

t.test('a change ends in what was wished, whatever the way', async () => {
  fc.assert(
    fc.property(simple, changes, fc.boolean(), (current, wanted, asJoint) => {
      const expected = { voters: new Set(current.voters), learners: new Set(current.learners) };
      for (const { type, id } of wanted) {
        expected.voters.delete(id);
        expected.learners.delete(id);
        if (type !== 'remove') expected[type === 'addVoter' ? 'voters' : 'learners'].add(id);
      }
      let next: Membership;
      try {
        next = changed(current, wanted, asJoint);
      } catch {
        return expected.voters.size === 0;
      }
      const end = isJoint(next) ? left(next) : next;
      const bothLists = next.learners.some((id) => [...next.voters, ...next.outgoing].includes(id));
      return (
        !bothLists &&
        end.voters.join() === [...expected.voters].sort().join() &&
        end.learners.join() === [...expected.learners].sort().join() &&
        everyMember(end).every((id) => everyMember(next).includes(id))
      );
    }),
    { numRuns: 2000 },
  );
});

t.test('joint majorities: as the definition over all subsets', async () => {
  const joint = fc
    .tuple(someIds, fc.subarray(ids))
    .map(([voters, outgoing]) => ({ ...membershipOf(voters), outgoing }));
  const group = fc.subarray(ids).map((list) => new Set(list));
  fc.assert(
    fc.property(joint, group, group, (membership, yes, asked) => {
      const votes = new Map([...yes].map((id) => [id, true]));
      for (const id of asked) if (!yes.has(id)) votes.set(id, false);
      const ends = subsets()
        .filter((all) => [...yes].every((id) => all.has(id)))
        .filter((all) => [...asked].every((id) => yes.has(id) || !all.has(id)))
        .map((all) => isQuorum(membership, all));
      const stupid = ends.every(Boolean) ? 'won' : ends.some(Boolean) ? 'pending' : 'lost';
      return jointVoteResult(membership, votes) === stupid;
    }),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(joint, fc.array(fc.nat(9), { minLength: 5, maxLength: 5 }), (membership, at) => {
      const holds = (index: number) => new Set(ids.filter((_, i) => (at[i] ?? 0) >= index));
      let stupid = 0;
      for (let index = 1; index <= 9; index++)
        if (isQuorum(membership, holds(index))) stupid = index;
      return jointCommittedIndex(membership, (id) => at[ids.indexOf(id)] ?? 0) === stupid;
    }),
    { numRuns: 2000 },
  );
});

t.test(
  'refused: nobody left, a name twice, an empty name, too many, one inside another',
  async (t) => {
    const two = membershipOf(['a', 'b']);
    const remove = (id: string) => ({ type: 'remove', id }) as const;
    const add = (id: string) => ({ type: 'addVoter', id }) as const;
    const invalid = { code: 'INVALID_ARGUMENT' };
    t.throws(() => changed(two, [remove('a'), remove('b')]), invalid);
    t.throws(() => changed(two, [remove('a'), add('a')]), invalid);
    t.throws(() => changed(two, [add('')]), invalid);
    const many = Array.from({ length: 62 }, (_, i) => add(`m${i}`));
    t.throws(() => changed(two, many), invalid);
    t.throws(() => changed(changed(two, [add('c'), add('d')]), [add('e')]), invalid);
  },
);

t.test('a membership is decoded as it was encoded', async () => {
  fc.assert(
    fc.property(simple, changes, (current, wanted) => {
      for (const each of steps(current, wanted) ?? [current]) {
        const again = decodeMembership(encodeMembership(each));
        if (JSON.stringify(again) !== JSON.stringify(each)) return false;
      }
      return true;
    }),
  );
});
