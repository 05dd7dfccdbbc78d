import { StorError, type RpcOutcome } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import fc from 'fast-check';
import { RaftError, type RaftStatus } from 'raft-ts';
import t from 'tap';
import { ClusterStoreMachine } from '../src/cluster-store-machine.ts';
import { encodeCommand, type KvCommandBody } from '../src/core/kv/kv-command.ts';
import { CallDeadline } from '../src/embedded/call-deadline.ts';
import { LatencyHistogram } from '../src/embedded/latency-histogram.ts';
import { LeaderCalls, type LeaderCall } from '../src/embedded/leader-calls.ts';
import { LeaseKeeper } from '../src/embedded/lease-keeper.ts';
import { LevelKeeper } from '../src/embedded/level-keeper.ts';
import { BatchAssembler, maxBatchBytes, splitBatch } from '../src/embedded/raft-frames.ts';

/** Lets everything run that waits for nothing but promises. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Waiting {
  resolve(): void;
  reject(error: Error): void;
}

/** A Raft node whose rounds and commits happen when the test says so. */
class FakeRaft {
  role: RaftStatus['role'] = 'leader';
  term = 1;
  rounds: Waiting[] = [];
  proposals: (Waiting & { leaseId: string; term: number })[] = [];
  readonly machine = new ClusterStoreMachine();
  readonly clock = new FakeClock();
  #listener: (status: RaftStatus) => void = () => {};
  #requests = 0;

  status(): RaftStatus {
    const { role, term } = this;
    return { id: 'n1', role, term, leaderId: null, commitIndex: 0, appliedIndex: 0, voters: [] };
  }
  readIndex(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.rounds.push({ resolve: () => resolve(0), reject });
    });
  }
  onRoleChange(listener: (status: RaftStatus) => void): () => void {
    this.#listener = listener;
    return () => {};
  }
  become(role: RaftStatus['role'], term: number): void {
    this.role = role;
    this.term = term;
    this.#listener(this.status());
  }
  async answerRounds(): Promise<void> {
    for (const round of this.rounds.splice(0)) round.resolve();
    await settled();
  }
  commit(body: KvCommandBody, term = this.term): void {
    const request = { id: `${this.#requests++}`, since: 0 };
    this.machine.apply([{ term, data: encodeCommand({ ...body, request }) }]);
  }
  keeper(): LeaseKeeper {
    return new LeaseKeeper({
      node: this,
      machine: this.machine,
      clock: this.clock,
      logger: silentLogger,
      proposeExpiry: (leaseId, term) =>
        new Promise<void>((resolve, reject) => {
          const commit = (): void => {
            this.commit({ type: 'revokeLease', leaseId, onlyInTerm: term });
            resolve();
          };
          this.proposals.push({ leaseId, term, resolve: commit, reject });
        }),
    });
  }
  async advance(ms: number): Promise<void> {
    for (let i = 0; i < ms; i += 50) {
      this.clock.advance(50);
      await settled();
    }
  }
}

t.test('a renewal and an expiry of one lease are ordered', async (t) => {
  const raft = new FakeRaft();
  raft.commit({ type: 'grantLease', leaseId: 'a', ttlMs: 1_000 });
  const keeper = raft.keeper();
  await raft.answerRounds();
  await raft.advance(900);
  const renewal = keeper.renew('a');
  await settled();
  await raft.advance(500);
  t.equal(raft.proposals.length, 1, 'the renewal has no quorum yet: the lease runs out');
  await raft.answerRounds();
  let answered = false;
  const outcome = renewal.then(
    () => 'renewed',
    (error: unknown) => (error as StorError).code,
  );
  void outcome.then(() => (answered = true));
  await settled();
  t.equal(answered, false, 'the renewal waits for what becomes of the expiry');
  await raft.advance(500);
  t.equal(raft.proposals.length, 1, 'an expiry is proposed once');
  raft.proposals[0]?.resolve();
  t.equal(await outcome, 'NOT_FOUND');
  t.equal(raft.machine.state.lease('a'), null);

  raft.commit({ type: 'grantLease', leaseId: 'b', ttlMs: 1_000 });
  await raft.advance(1_200);
  const second = keeper.renew('b');
  await raft.answerRounds();
  raft.proposals[1]?.reject(new Error('busy: nothing happened'));
  await second;
  t.pass('an expiry that failed leaves the lease to be renewed');
  await raft.advance(900);
  t.equal(raft.proposals.length, 2, 'for its full time');
  await raft.advance(300);
  t.equal(raft.proposals.length, 3);
  raft.proposals[2]?.resolve();
  await keeper.close();
  await keeper.close();
});

t.test('only a leader that has a quorum in its term lets leases run', async (t) => {
  const raft = new FakeRaft();
  raft.role = 'follower';
  raft.commit({ type: 'grantLease', leaseId: 'a', ttlMs: 1_000 });
  const keeper = raft.keeper();
  await raft.advance(5_000);
  t.equal(raft.rounds.length + raft.proposals.length, 0, 'a follower does nothing');
  raft.become('leader', 2);
  await raft.advance(5_000);
  t.equal(raft.rounds.length, 1);
  t.equal(raft.proposals.length, 0, 'not before its first quorum round');
  await raft.answerRounds();
  await raft.advance(900);
  t.equal(raft.proposals.length, 0, 'then the full time');
  await raft.advance(200);
  t.match(raft.proposals, [{ leaseId: 'a', term: 2 }]);

  raft.become('follower', 3);
  raft.commit({ type: 'revokeLease', leaseId: 'a', onlyInTerm: 2 }, 3);
  t.ok(raft.machine.state.lease('a'), 'an expiry of an older term does nothing');
  const renewal = keeper.renew('a').catch((error: unknown) => (error as StorError).code);
  raft.rounds[0]?.reject(new RaftError('NOT_LEADER', 'not leader'));
  t.equal(await renewal, 'UNAVAILABLE');
  raft.rounds = [];

  raft.become('leader', 4);
  raft.rounds.splice(0)[0]?.reject(new RaftError('TOO_BUSY', 'busy'));
  await raft.advance(100);
  t.equal(raft.rounds.length, 1, 'a failed first round is tried again');
  const early = keeper.renew('a').catch((error: unknown) => (error as StorError).code);
  raft.rounds[1]?.resolve();
  t.equal(await early, 'UNAVAILABLE', 'no renewal before leases run');
  await raft.answerRounds();
  raft.proposals[0]?.reject(new Error('leadership lost'));
  await settled();
  raft.proposals = [];

  await raft.advance(500);
  raft.clock.advance(0);
  // the process stands still: its clock goes on, its timers do not
  raft.clock.monotonicMs = (
    (base) => () =>
      base() + 10_000
  )(raft.clock.monotonicMs.bind(raft.clock));
  await raft.advance(400);
  t.equal(raft.proposals.length, 0, 'a leader that stood still heard no renewals');
  await raft.advance(300);
  t.equal(raft.proposals.length, 1);
  raft.proposals[0]?.resolve();
  await keeper.close();
});

interface FakeLeader {
  outcomes: RpcOutcome[];
  sent: object[];
}

function leaderCalls(leader: FakeLeader, clock: FakeClock): LeaderCalls {
  return new LeaderCalls({
    id: 'n1',
    leaderId: () => (leader.outcomes.length > 0 ? 'n2' : null),
    endpoint: () => ({
      address: 'host:1',
      call: async ({ request }) => {
        leader.sent.push(request);
        // time goes on while tries are made
        setImmediate(() => {
          clock.advance(200);
        });
        return leader.outcomes.shift() as RpcOutcome;
      },
    }),
    metadata: () => ({}),
    refusal: () => null,
  });
}

t.test('what a lost answer means for a call', async (t) => {
  const answered: RpcOutcome = { type: 'answered', response: new Uint8Array([7]) };
  const lost: RpcOutcome = { type: 'lost', cause: new Error('reset') };
  const notSent: RpcOutcome = { type: 'not-sent' };
  const refused = (code: ConstructorParameters<typeof StorError>[0]): RpcOutcome => {
    return { type: 'refused', error: new StorError(code, code) };
  };
  const run = async (
    outcomes: RpcOutcome[],
    writes = true,
  ): Promise<{ result: unknown; sent: number }> => {
    const clock = new FakeClock();
    const leader: FakeLeader = { outcomes, sent: [] };
    const deadline = new CallDeadline(clock, { timeoutMs: 2_000 }, new AbortController().signal);
    const request = new Uint8Array([1]);
    const call: LeaderCall<number> = {
      writes,
      method: 'Execute',
      request,
      local: () => Promise.reject(new Error('not here')),
      decode: (bytes) => bytes[0] ?? 0,
    };
    const running = leaderCalls(leader, clock)
      .run(call, deadline)
      .catch((error: unknown) => (error as StorError).code);
    let done = false;
    void running.then(() => (done = true));
    while (!done) {
      await settled();
      clock.advance(10);
    }
    deadline.dispose();
    t.ok(leader.sent.every((bytes) => bytes === request));
    return { result: await running, sent: leader.sent.length };
  };
  t.same(await run([answered]), { result: { value: 7, repeated: false }, sent: 1 });
  t.same(await run([notSent, refused('UNAVAILABLE'), answered]), {
    result: { value: 7, repeated: false },
    sent: 3,
  });
  t.same(await run([lost, answered]), { result: { value: 7, repeated: true }, sent: 2 });
  t.same(await run([{ type: 'timeout' }, notSent, answered]), {
    result: { value: 7, repeated: true },
    sent: 3,
  });
  t.same(await run([refused('OUTCOME_UNKNOWN'), answered]), {
    result: { value: 7, repeated: true },
    sent: 2,
  });
  t.same(await run([]), { result: 'UNAVAILABLE', sent: 0 });
  t.same(await run([notSent, notSent]), { result: 'UNAVAILABLE', sent: 2 });
  t.same(await run([lost, notSent]), { result: 'OUTCOME_UNKNOWN', sent: 2 });
  t.same(await run([refused('INTERNAL')]), { result: 'OUTCOME_UNKNOWN', sent: 1 });
  t.same(await run([lost, notSent], false), { result: 'UNAVAILABLE', sent: 2 });
  t.same(await run([refused('NOT_FOUND'), answered]), { result: 'NOT_FOUND', sent: 1 });
  t.same(await run([refused('PERMISSION_DENIED')]), { result: 'PERMISSION_DENIED', sent: 1 });
  // the member was removed after the first try, which may have been done
  t.same(await run([lost, refused('PERMISSION_DENIED')]), { result: 'OUTCOME_UNKNOWN', sent: 2 });
});

t.test('a call ends by time, caller or close', async (t) => {
  const clock = new FakeClock();
  const closed = new AbortController();
  const caller = new AbortController();
  const open = (): CallDeadline =>
    new CallDeadline(clock, { timeoutMs: 100, signal: caller.signal }, closed.signal);
  const never = new Promise<void>(() => {});
  const timed = open();
  const raced = t.rejects(timed.race(never));
  clock.advance(100);
  await raced;
  t.equal(timed.end, 'timeout');
  t.match(timed.error(true, null), { code: 'OUTCOME_UNKNOWN', details: { outcome: 'unknown' } });
  t.match(timed.error(false, new Error('why')), { code: 'UNAVAILABLE', message: /why/ });
  await timed.pause(1_000);
  const byCaller = open();
  const done = open();
  t.equal(await done.race(Promise.resolve(1)), 1);
  done.dispose();
  const paused = byCaller.pause(1_000);
  caller.abort();
  await paused;
  t.equal(byCaller.error(true, null).code, 'ABORTED');
  t.equal(done.end, null, 'a call that is over hears nothing any more');
  const late = new CallDeadline(clock, {}, closed.signal);
  closed.abort();
  t.match(late.error(false, null), { code: 'UNAVAILABLE', message: /closed/ });
});

t.test('batches travel in pieces', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(3_000_000), { maxLength: 4 }), (sizes) => {
      const assembler = new BatchAssembler();
      sizes.forEach((size, i) => {
        const batch = new Uint8Array(size).fill(i + 1);
        const pieces = splitBatch(batch);
        const got = pieces.map((piece) => assembler.add(piece));
        const whole = got.pop();
        if (got.some((one) => one !== null)) throw new Error('whole too early');
        if (!whole || Buffer.compare(whole, batch) !== 0) throw new Error('not the same');
      });
    }),
    { numRuns: 20 },
  );
  t.throws(() => new BatchAssembler().add(new Uint8Array()), { code: 'PROTOCOL' });
  t.throws(() => new BatchAssembler().add(new Uint8Array([2])), { code: 'PROTOCOL' });
  const endless = new BatchAssembler();
  const piece = new Uint8Array(1024 * 1024);
  t.throws(
    () => {
      for (let bytes = 0; bytes <= maxBatchBytes + piece.length; bytes += piece.length - 1) {
        endless.add(piece);
      }
    },
    { code: 'PROTOCOL' },
  );
});

t.test('latency histogram', async (t) => {
  const histogram = new LatencyHistogram();
  for (const seconds of [0, 0.001, 0.0011, 100]) histogram.observe(seconds);
  const { bounds, counts, sum } = histogram.read();
  t.equal(sum, 100.0021);
  t.same(
    bounds.flatMap((bound, i) => (counts[i] ? [[bound, counts[i]]] : [])),
    [
      [0.0005, 1],
      [0.001, 1],
      [0.0025, 1],
    ],
  );
  t.equal(counts.at(-1), 1);
});

t.test('the level rises when every member knows it', async (t) => {
  const machine = new ClusterStoreMachine();
  const proposed: number[] = [];
  let [members, isLeader, fails] = [['a', 'b', 'c'], false, true];
  const keeper = new LevelKeeper({
    id: 'a',
    machine,
    isLeader: () => isLeader,
    members: () => ({ voters: members.slice(0, 2), outgoing: [], learners: members.slice(2) }),
    propose: (level) => {
      proposed.push(level);
      if (fails) return Promise.reject(new Error('it leads no more'));
      const request = { id: 'r', since: 0 };
      machine.apply([{ term: 1, data: encodeCommand({ type: 'raiseLevel', request, level }) }]);
      return Promise.resolve();
    },
    logger: silentLogger,
  });

  keeper.heard('b', 2);
  keeper.heard('c', 2);
  t.same(proposed, [], 'a follower does nothing');
  isLeader = true;
  keeper.heard('c', 1);
  t.same(proposed, [], 'one of them was started with an earlier version');
  members = ['a', 'b', 'd'];
  keeper.look();
  t.same(proposed, [], 'and of another nothing is known');
  keeper.heard('d', 3);
  keeper.look();
  t.same(proposed, [2], 'one at a time');
  await settled();
  fails = false;
  keeper.look();
  t.same(proposed, [2, 2], 'again when it failed');
  await settled();
  keeper.look();
  t.same(proposed, [2, 2], 'and once is enough');
});
