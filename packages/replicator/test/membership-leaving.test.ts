import fc from 'fast-check';
import t from 'tap';

import { Membership } from '../src/core/replication/membership.ts';

type Event =
  | { type: 'mark'; leaving: number[]; replicas: number }
  | { type: 'lose'; id: number }
  | { type: 'commit' }
  | { type: 'record' }
  | { type: 'join'; id: number };

const ids = ['a', 'b', 'c', 'd', 'e'];
/** d is on another disk of c's node, e of a's */
const nodes: Readonly<Record<string, string>> = { a: 'A', b: 'B', c: 'C', d: 'C', e: 'A' };
const nodeOf = (id: string): string => nodes[id] ?? id;

function nodesOf(members: readonly string[]): Set<string> {
  return new Set(members.map(nodeOf));
}

const event: fc.Arbitrary<Event> = fc.oneof(
  fc.record({
    type: fc.constant('mark' as const),
    leaving: fc.uniqueArray(fc.integer({ min: 0, max: 4 })),
    replicas: fc.integer({ min: 1, max: 5 }),
  }),
  fc.record({ type: fc.constant('lose' as const), id: fc.integer({ min: 0, max: 4 }) }),
  fc.record({ type: fc.constant('join' as const), id: fc.integer({ min: 0, max: 4 }) }),
  fc.constant({ type: 'commit' as const }),
  fc.constant({ type: 'record' as const }),
);

/** The rules of leaving, checked at each proposal against what the test itself keeps. */
class Model {
  readonly membership = new Membership(['a', 'b', 'c'], 1);
  away = new Set<string>();
  leaving = new Set<string>();
  replicas = 3;
  revision = 1;
  proposed: string[] | null = null;
  problem: string | null = null;
  #recording: string[] = [];

  apply(given: Event): void {
    const { membership } = this;
    if (given.type === 'mark') {
      this.leaving = new Set(given.leaving.map((index) => ids[index] ?? ''));
      this.replicas = given.replicas;
      membership.setLeaving(this.leaving, given.replicas, nodeOf);
    } else if (given.type === 'lose') {
      const id = ids[given.id] ?? '';
      membership.lost(id);
      membership.settleRecording();
      this.#recording = this.#recording.filter((each) => each !== id);
    } else if (given.type === 'join') {
      const id = ids[given.id] ?? '';
      if (membership.stable && !membership.isCommitted(id)) {
        membership.join(id);
        membership.joined(id);
      }
    } else if (given.type === 'commit' && this.proposed) {
      this.revision += 1;
      this.proposed = null;
      membership.proposalCommitted(this.revision);
    } else if (given.type === 'record') {
      const id = this.#recording.shift();
      if (id) membership.recorded(id);
    }
    this.look();
  }

  look(): void {
    const { membership } = this;
    for (let step = membership.next(); step; step = membership.next()) {
      if (step.type === 'record') {
        this.#recording = step.inSync.filter((id) => !membership.isAway(id));
        continue;
      }
      this.proposed = step.inSync;
      const gone = membership.committed.filter((id) => !step.inSync.includes(id));
      for (const id of gone) {
        if (membership.isAway(id)) continue;
        const staying = membership.committed.filter(
          (each) => !membership.isAway(each) && !this.leaving.has(each),
        );
        if (!this.leaving.has(id)) this.problem = `${id} was proposed out for nothing`;
        const stayOn = nodesOf(staying);
        if (stayOn.size < this.replicas && !stayOn.has(nodeOf(id))) {
          this.problem = `${id} went too early`;
        }
      }
      for (const id of membership.committed) {
        if (!membership.required().includes(id)) this.problem = `${id} is not needed any more`;
      }
    }
  }
}

t.test('a member that is to go goes when enough others are in sync, never before', async () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const model = new Model();
      model.look();
      for (const each of events) model.apply(each);
      if (model.problem) throw new Error(model.problem);
      // let everything under way end: then nobody is left that should have gone
      for (let i = 0; i < 40; i++)
        model.apply(i % 2 === 0 ? { type: 'commit' } : { type: 'record' });
      if (model.problem) throw new Error(model.problem);
      const { membership, leaving, replicas } = model;
      if (membership.suspended) return;
      const inSync = membership.committed.filter((id) => !membership.isAway(id));
      const staying = inSync.filter((id) => !leaving.has(id));
      const stayOn = nodesOf(staying);
      const isLeft = (id: string): boolean =>
        leaving.has(id) && (stayOn.size >= replicas || stayOn.has(nodeOf(id)));
      if (inSync.some(isLeft)) {
        throw new Error(`${inSync.join()} while ${[...leaving].join()} should be gone`);
      }
    }),
    { numRuns: 3_000 },
  );
});

t.test('a member that was lost stays away until the set without it is recorded', (t) => {
  const membership = new Membership(['a', 'b'], 1);
  t.equal(membership.next()?.type, 'record');
  membership.recorded('a');
  membership.recorded('b');
  membership.lost('b');
  t.same(membership.next(), {
    type: 'propose',
    setRevision: 1,
    rememberedRevision: 1,
    inSync: ['a'],
  });
  membership.proposalCommitted(2);
  t.equal(membership.next()?.type, 'record');
  // it may be connected again by now, without the writes that were under way when it was lost:
  // what it acknowledges now would count for those too
  t.same(membership.required(), ['a', 'b']);
  t.ok(membership.isAway('b'));
  t.ok(membership.holding, 'no write is given to it');
  membership.recorded('a');
  t.same(membership.required(), ['a']);
  t.notOk(membership.isAway('b'));
  t.notOk(membership.holding);
  t.end();
});
