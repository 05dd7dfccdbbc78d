import fc from 'fast-check';
import t from 'tap';
import type { StoreMember } from '../src/cluster-store.ts';
import { decideJoin, checkJoin, type JoinRequest } from '../src/core/members/join-rules.ts';
import { farewellMs, maxMembers, planMembers } from '../src/core/members/plan-members.ts';
import { demotionReason } from '../src/core/node/raft-quorum.ts';
import { usedToken, splitToken, tokenText } from '../src/core/members/token-rules.ts';
import { byDistance } from '../src/core/members/voter-distance.ts';
import { emptyState, type ClusterState } from '../src/resources/cluster-state.ts';
import type { MemberRecord } from '../src/resources/member-record.ts';
import type { NodeRecord } from '../src/resources/records.ts';

const nowMs = 10_000_000;
const idOf = (n: number): string => `n-${String(n).padStart(16, '0')}`;
const addresses = { api: 'h:1', http: 'h:2', peers: [], nbd: [], nbdUnix: [] };

/** Nodes and their part in the store, as a test wants them. */
class World {
  readonly state: ClusterState = emptyState();
  readonly members = new Map<string, StoreMember>();

  node(n: number, change: Partial<NodeRecord> = {}, up = true): string {
    const id = idOf(n);
    const value: NodeRecord = {
      id,
      name: `n${n}`,
      labels: {},
      createdAtMs: n,
      addresses,
      agentInstance: 'a',
      bootId: 'b',
      version: '1',
      ...change,
    };
    this.state.nodes.set(id, { value, modRevision: 1 });
    if (up)
      this.state.leases.set(id, {
        value: { agentInstance: 'a', bootId: 'b', addresses },
        modRevision: 1,
      });
    return id;
  }

  record(n: number, change: Partial<MemberRecord> = {}): void {
    const id = idOf(n);
    const value = {
      id,
      name: `n${n}`,
      address: 'h:1',
      addedAtMs: n,
      nonce: 'x'.repeat(16),
      ...change,
    };
    this.state.members.set(id, { value, modRevision: 1 });
  }

  member(n: number, role: StoreMember['role'], isCaughtUp = true): void {
    const id = idOf(n);
    this.members.set(id, { id, role, address: 'h:1', matchIndex: 1, lagEntries: 0, isCaughtUp });
  }

  down(n: number, sinceMs: number): void {
    const id = idOf(n);
    this.state.leases.delete(id);
    const node = this.state.nodes.get(id);
    if (node) node.value = { ...node.value, downSinceMs: sinceMs };
  }

  up(n: number): void {
    const { downSinceMs: _, ...value } = this.state.nodes.get(idOf(n))?.value as NodeRecord;
    this.node(n, value);
  }

  /** It is wished at first, and it is gone when that is wished again and it has no vote. */
  decommission(n: number, atMs: number): void {
    const id = idOf(n);
    const node = this.state.nodes.get(id);
    if (!node || !this.state.members.has(id)) return;
    if (!node.value.spec?.decommission) {
      node.value = { ...node.value, spec: { decommission: { sinceMs: atMs } } };
      return;
    }
    if (this.voters().includes(id)) return;
    this.record(n, { removedAtMs: atMs });
    const value = { id, name: `n${n}`, atMs, how: 'decommissioned' };
    this.state.forgotten.set(id, { value, modRevision: 1 });
    this.state.nodes.delete(id);
    this.state.leases.delete(id);
  }

  /** A node that has joined, whatever its part is. */
  joined(n: number, role: StoreMember['role'], change: Partial<NodeRecord> = {}): void {
    this.node(n, change);
    this.record(n);
    this.member(n, role);
  }

  plan(atMs = nowMs) {
    return planMembers([...this.members.values()], this.state, atMs);
  }

  voters(): string[] {
    return [...this.members.values()].filter(({ role }) => role !== 'learner').map(({ id }) => id);
  }

  /** Carries out what is planned, as Raft would; false when nothing was. */
  step(atMs: number): boolean {
    const action = this.plan(atMs);
    if (!action || action.type === 'readdress') return false;
    if (action.type === 'add') this.member(Number(action.id.slice(2)), 'learner');
    if (action.type === 'remove') this.members.delete(action.id);
    if (action.type === 'change') {
      for (const id of action.promote) this.#role(id, 'voter');
      for (const id of action.demote) this.#role(id, 'learner');
    }
    return true;
  }

  #role(id: string, role: StoreMember['role']): void {
    const member = this.members.get(id);
    if (member) this.members.set(id, { ...member, role });
  }
}

t.test('newcomers become learners, and voters by pairs', async (t) => {
  const world = new World();
  world.node(1);
  world.member(1, 'leader');
  t.equal(world.plan(), null);
  world.node(2);
  world.record(2);
  t.same(world.plan(), { type: 'add', id: idOf(2) });
  world.step(nowMs);
  t.equal(world.plan(), null, 'two voters would be worse than one');
  world.node(3);
  world.record(3);
  world.step(nowMs);
  t.match(world.plan(), { type: 'change', promote: [idOf(2), idOf(3)], demote: [] });
  world.member(3, 'learner', false);
  t.equal(world.plan(), null, 'who lacks the log does not vote');
  world.member(3, 'learner');
  world.step(nowMs);
  world.joined(4, 'learner');
  world.joined(5, 'learner');
  t.equal(world.plan(), null, 'three are enough');
  world.state.memberSettings = { value: { voters: 5 }, modRevision: 1 };
  t.match(world.plan(), { promote: [idOf(4), idOf(5)] });
  world.step(nowMs);
  world.state.memberSettings = { value: { voters: 3 }, modRevision: 1 };
  t.match(world.plan(), { promote: [], demote: [idOf(5), idOf(4)] });
  world.state.memberSettings = null;
  t.equal(world.plan(), null, 'nobody asked for fewer');
});

t.test('a dead voter is replaced, in another failure domain', async (t) => {
  const world = new World();
  world.joined(1, 'leader', { labels: { zone: 'a' } });
  world.joined(2, 'voter', { labels: { zone: 'b' } });
  world.joined(3, 'voter', { labels: { zone: 'c' } });
  world.joined(4, 'learner', { labels: { zone: 'a' } });
  world.joined(5, 'learner', { labels: { zone: 'c' } });
  world.down(3, nowMs - 59_999);
  t.equal(world.plan(), null, 'not before its time');
  t.match(world.plan(nowMs + 1), { promote: [idOf(5)], demote: [idOf(3)] });
  world.state.memberSettings = { value: { replacementWaitMs: 300_000 }, modRevision: 1 };
  t.equal(world.plan(nowMs + 1), null);
  world.state.memberSettings = null;
  const spec = { maintenance: { sinceMs: 0, untilMs: nowMs + 60_000 } };
  world.node(3, { spec, downSinceMs: 1 }, false);
  world.state.leases.delete(idOf(3));
  t.equal(world.plan(), null, 'not during maintenance');
  t.match(world.plan(nowMs + 60_000), { promote: [idOf(5)] });
  world.down(4, 1);
  world.down(5, 1);
  t.equal(world.plan(nowMs + 60_000), null, 'nobody is there to take its place: it stays');
});

t.test('an operator has a member without a vote, or one that leaves', async (t) => {
  const world = new World();
  for (const n of [1, 2, 3]) world.joined(n, n === 1 ? 'leader' : 'voter');
  world.record(2, { voter: 'never' });
  t.match(world.plan(), { promote: [], demote: [idOf(2)] });
  world.down(3, nowMs);
  t.equal(world.plan(), null, 'not while the rest would have no majority');
  world.joined(4, 'learner');
  t.match(world.plan(), { promote: [idOf(4)], demote: [idOf(2)] });
  world.step(nowMs);
  world.record(2, { removedAtMs: 1 });
  t.same(world.plan(), { type: 'remove', id: idOf(2) });
  world.step(nowMs);
  t.equal(world.plan(), null, 'and it is not added again');
  world.record(1, { voter: 'never' });
  world.node(1, { spec: { decommission: { sinceMs: 1 } } });
  const alone = new World();
  alone.joined(1, 'leader');
  alone.record(1, { voter: 'never' });
  t.equal(alone.plan(), null, 'the last voter stays');
});

t.test('a node that is decommissioned gives its vote up, and hears that it is gone', async (t) => {
  const world = new World();
  for (const n of [1, 2, 3]) world.joined(n, n === 1 ? 'leader' : 'voter');
  world.joined(4, 'learner');
  world.node(2, { spec: { decommission: { sinceMs: 1 } } });
  t.match(world.plan(), { promote: [idOf(4)], demote: [idOf(2)] });
  world.step(nowMs);
  t.equal(world.plan(), null, 'it stays a member as long as it is a node');
  const { value: record } = world.state.members.get(idOf(2)) ?? {};
  t.equal(record?.removedAtMs, undefined);
  world.state.nodes.delete(idOf(2));
  world.record(2, { removedAtMs: nowMs });
  const end = { id: idOf(2), name: 'n2', atMs: nowMs, how: 'decommissioned' };
  world.state.forgotten.set(idOf(2), { value: end, modRevision: 1 });
  t.equal(world.plan(nowMs + farewellMs - 1), null, 'its own copy of the store is to say so');
  t.same(world.plan(nowMs + farewellMs), { type: 'remove', id: idOf(2) });
  t.same(world.plan(nowMs - 1), { type: 'remove', id: idOf(2) }, 'a clock that was set back');
  world.state.forgotten.set(idOf(2), { value: { ...end, how: 'forgotten' }, modRevision: 2 });
  t.same(world.plan(nowMs), { type: 'remove', id: idOf(2) }, 'who is lost is told nothing');
});

t.test('a node that was forgotten while the cluster was in etcd is no member again', async (t) => {
  const world = new World();
  for (const n of [1, 2, 3]) world.joined(n, n === 1 ? 'leader' : 'voter');
  // its record was kept by a version that marked only members of the embedded store
  world.record(4);
  t.same(world.plan(), { type: 'add', id: idOf(4) });
  const end = { id: idOf(4), name: 'n4', atMs: 1, how: 'forgotten' };
  world.state.forgotten.set(idOf(4), { value: end, modRevision: 1 });
  t.equal(world.plan(), null);
  world.member(4, 'learner');
  t.same(world.plan(), { type: 'remove', id: idOf(4) }, 'one that was added goes again');
  world.step(nowMs);
  world.node(5, { name: 'n4' });
  const join = { ...request, nodeId: idOf(5), name: 'n4' };
  t.match(decideJoin(world.state, join, nowMs), { replaced: null }, 'its name is free');
});

t.test('why a node cannot give its vote up', async (t) => {
  const world = new World();
  for (const n of [1, 2, 3]) world.joined(n, n === 1 ? 'leader' : 'voter');
  const reason = (n: number): string | null => {
    const learners = [...world.members.values()].filter(({ role }) => role === 'learner');
    const members = { voters: world.voters(), learners: learners.map(({ id }) => id) };
    return demotionReason(world.state, members, idOf(n));
  };
  t.equal(reason(2), null, 'two that are up bear it');
  t.equal(demotionReason(world.state, { voters: null, learners: [] }, idOf(2)), null, 'etcd');
  world.down(3, nowMs);
  t.match(reason(2), /would have no quorum without its vote: 1 of the 2 other voters is up/);
  t.equal(reason(3), null, 'it counts for nothing now');
  world.joined(4, 'learner', { spec: { maintenance: { sinceMs: 0, untilMs: 1 } } });
  t.match(reason(2), /no quorum/, 'one that is to be away takes no vote');
  world.node(4);
  t.equal(reason(2), null, 'another takes it over');
  t.equal(reason(4), null, 'it has none');
  const alone = new World();
  alone.joined(1, 'leader');
  t.match(
    demotionReason(alone.state, { voters: [idOf(1)], learners: [] }, idOf(1)),
    /it is the only voter of the control plane, and no other node can take its vote over/,
  );
});

t.test('whatever happens, a majority of voters is kept and the count comes right', async () => {
  const event = fc.record({
    n: fc.integer({ min: 1, max: 7 }),
    what: fc.constantFrom('down', 'up', 'join', 'never', 'auto', 'leave', 'decommission'),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const world = new World();
      world.joined(1, 'leader');
      let atMs = nowMs;
      for (const { n, what } of events) {
        atMs += 40_000;
        const id = idOf(n);
        const upVoters = world.voters().filter((each) => world.state.leases.has(each));
        const isLast = upVoters.length * 2 - 2 <= world.voters().length;
        if (what === 'join' && !world.state.nodes.has(id) && !world.state.forgotten.has(id)) {
          world.node(n);
          world.record(n);
        }
        if (!world.state.nodes.has(id)) continue;
        // a majority of voters stays up by itself, as without one nothing is planned at all
        if (what === 'down' && !(world.voters().includes(id) && isLast)) world.down(n, atMs);
        if (what === 'up') world.up(n);
        const record = world.state.members.get(id)?.value;
        if (what === 'never' && record && !record.removedAtMs) world.record(n, { voter: 'never' });
        if (what === 'auto' && record && !record.removedAtMs) world.record(n);
        if (what === 'leave' && n !== 1) world.record(n, { removedAtMs: atMs });
        if (what === 'decommission' && n !== 1) world.decommission(n, atMs);
        let steps = 0;
        while (world.step(atMs)) {
          const voters = world.voters();
          const up = voters.filter((each) => world.state.leases.has(each));
          if (voters.length === 0 || up.length * 2 <= voters.length) throw new Error('no majority');
          if (++steps > 30) throw new Error('it never rests');
        }
      }
      for (let n = 1; n <= 7; n++) if (world.state.nodes.has(idOf(n))) world.up(n);
      for (let i = 0; i < 40; i++) world.step(atMs);
      const fit = [...world.state.members.values()].filter(
        ({ value }) =>
          value.voter !== 'never' &&
          value.removedAtMs === undefined &&
          world.state.nodes.get(value.id)?.value.spec?.decommission === undefined,
      ).length;
      const count = world.voters().length;
      const least = Math.min(3, fit % 2 === 1 ? fit : Math.max(1, fit - 1));
      if (count < least) throw new Error(`${count} voters of ${fit} that may`);
      if (fit >= 3 && count % 2 === 0 && count < fit) throw new Error(`${count} voters`);
    }),
    { numRuns: 300 },
  );
});

t.test('the farthest candidates come first', async (t) => {
  const world = new World();
  world.node(1, { labels: { zone: 'a', rack: '1' } });
  world.node(2, { labels: { zone: 'a', rack: '1' } });
  world.node(3, { labels: { zone: 'a', rack: '2' } });
  world.node(4, { labels: { zone: 'b', rack: '1' } });
  world.node(5);
  const order = byDistance([2, 3, 4, 5].map(idOf), [idOf(1)], world.state);
  t.same(order.slice(-2), [idOf(3), idOf(2)]);
  world.record(2, { voter: 'wanted' });
  t.equal(byDistance([2, 3, 4, 5].map(idOf), [idOf(1)], world.state)[0], idOf(2));
});

const request: JoinRequest = {
  nodeId: idOf(4),
  nonce: 'a'.repeat(32),
  name: 'n4',
  address: '10.0.0.4:17110',
  replace: false,
  neverVotes: false,
};

t.test('who may join', async (t) => {
  const world = new World();
  for (const n of [1, 2, 3]) world.joined(n, n === 1 ? 'leader' : 'voter');
  const join = (change: Partial<JoinRequest> = {}) =>
    decideJoin(world.state, { ...request, ...change }, nowMs);
  t.match(join(), {
    repeated: false,
    replaced: null,
    record: { id: idOf(4), nonce: request.nonce },
  });
  t.throws(() => join({ name: 'n2' }), { code: 'ALREADY_EXISTS', message: /is up/ });
  t.throws(() => join({ name: 'n2', replace: true }), { code: 'ALREADY_EXISTS' });
  world.down(2, 1);
  t.throws(() => join({ name: 'n2' }), { code: 'ALREADY_EXISTS', message: /--replace/ });
  t.match(join({ name: 'n2', replace: true }), { replaced: idOf(2) });
  world.record(4, { nonce: request.nonce, voter: 'never' });
  t.match(join(), { repeated: true, record: { voter: 'never' } }, 'only its answer was lost');
  t.throws(() => join({ nonce: 'b'.repeat(32) }), { code: 'FAILED_PRECONDITION' }, 'another life');
  world.record(4, { nonce: request.nonce, removedAtMs: 1 });
  t.throws(() => join(), { code: 'FAILED_PRECONDITION' }, 'it was removed');
  const end = { id: idOf(4), name: 'n4', atMs: 0, how: 'forgotten' };
  world.state.forgotten.set(idOf(4), { value: end, modRevision: 1 });
  const gone = `node n4 (${idOf(4)}) was forgotten at 1970-01-01T00:00:00.000Z: start it with an empty data folder and a token`;
  t.throws(() => join(), { code: 'FAILED_PRECONDITION', message: gone });
  for (let n = 10; n < 10 + maxMembers; n++) world.record(n);
  t.throws(() => join({ nodeId: idOf(99) }), { code: 'FAILED_PRECONDITION', message: /etcd/ });
  const bad = [{ nodeId: 'x' }, { nonce: '' }, { name: 'a b' }, { address: 'here' }];
  for (const change of bad) {
    t.throws(() => checkJoin({ ...request, ...change }), { code: 'INVALID_ARGUMENT' });
  }
  t.doesNotThrow(() => checkJoin({ ...request, address: '[fd00::5]:17110' }));
});

t.test('tokens are used so often and so long as they were made for', async (t) => {
  const token = {
    id: '01234567',
    hash: '',
    createdAtMs: 0,
    expiresAtMs: 100,
    usesLeft: 2,
    usedBy: [],
  };
  const once = usedToken(token, 'a', 99);
  t.match(once, { usesLeft: 1, usedBy: ['a'] });
  t.equal(usedToken(once ?? token, 'a', 500), null, 'who has used it may ask again');
  const over = { code: 'UNAUTHENTICATED' };
  t.throws(() => usedToken(once ?? token, 'b', 100), { ...over, message: /expired/ });
  const twice = usedToken(once ?? token, 'b', 99);
  t.throws(() => usedToken(twice ?? token, 'c', 99), { ...over, message: /used already, by a, b/ });
  const text = tokenText('01234567', 'f'.repeat(48));
  t.same(splitToken(` ${text}\n`), { id: '01234567', secret: 'f'.repeat(48) });
  for (const wrong of ['', 'abc', `${text}0`, text.toUpperCase()]) {
    t.throws(() => splitToken(wrong), over);
  }
});
