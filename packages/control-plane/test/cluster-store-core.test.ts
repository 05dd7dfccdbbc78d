import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { hasCode } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { ClusterStoreMachine } from '../src/cluster-store-machine.ts';
import type { KeyValue, Operation, Transaction } from '../src/cluster-store.ts';
import { ChangeHistory } from '../src/core/kv/change-history.ts';
import { encodeEnvelope } from '../src/core/kv/envelope.ts';
import { decodeCommand, encodeCommand, type KvCommand } from '../src/core/kv/kv-command.ts';
import { decodeResult, encodeResult } from '../src/core/kv/kv-result.ts';
import { decodeSnapshot, encodeSnapshot, SnapshotReader } from '../src/core/kv/kv-snapshot.ts';
import { KvState, type KvResult } from '../src/core/kv/kv-state.ts';
import { LeaseDeadlines } from '../src/core/kv/lease-deadlines.ts';
import { OrderedKeys } from '../src/core/kv/ordered-keys.ts';

/** Plain objects, as the codec gives them. */
const record = <T>(model: { [name in keyof T]: fc.Arbitrary<T[name]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true });

const key = fc.constantFrom('a', 'a/1', 'a/2', 'b', 'b/1');
const leaseId = fc.constantFrom('l1', 'l2', 'l3');
const value = fc.uint8Array({ maxLength: 4 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: record({ type: fc.constant('put' as const), key, value }) },
  {
    weight: 2,
    arbitrary: record({ type: fc.constant('put' as const), key, value, leaseId }),
  },
  { weight: 2, arbitrary: record({ type: fc.constant('delete' as const), key }) },
);
const transaction: fc.Arbitrary<Transaction> = record({
  compare: fc.array(record({ key, modRevision: fc.nat(6) }), { maxLength: 1 }),
  operations: fc.uniqueArray(operation, { maxLength: 3, selector: (one) => one.key }),
});
/** ids repeat often, so that repetition is met */
const request = record({ id: fc.nat(60).map((n) => `r${n}`), since: fc.nat(40) });
const command: fc.Arbitrary<KvCommand> = fc.oneof(
  {
    weight: 6,
    arbitrary: record({ type: fc.constant('transact' as const), request, transaction }),
  },
  record({
    type: fc.constant('grantLease' as const),
    request,
    leaseId,
    ttlMs: fc.integer({ min: 10, max: 1000 }),
  }),
  record({
    type: fc.constant('revokeLease' as const),
    request,
    leaseId,
    onlyInTerm: fc.option(fc.constantFrom(1, 2)),
  }),
  record({ type: fc.constant('raiseLevel' as const), request, level: fc.constantFrom(1, 2) }),
);

/** The state machine as one would explain it: everything is a list and is gone through. */
class StupidState {
  items: KeyValue[] = [];
  leases: string[] = [];
  revision = 0;
  requests: { id: string; result: KvResult; sequence: number }[] = [];
  forgotten: { sequence: number }[] = [];
  sequence = 0;
  level = 1;
  readonly maxRequests: number;

  constructor(maxRequests: number) {
    this.maxRequests = maxRequests;
  }

  apply(command: KvCommand, term: number): KvResult {
    const known = this.requests.find(({ id }) => id === command.request.id);
    if (known) return known.result;
    if (this.forgotten.some(({ sequence }) => sequence > command.request.since)) {
      return { status: 'forgotten', succeeded: false, revision: this.revision };
    }
    this.sequence++;
    const outcome = this.applyNew(command, term);
    const result = { ...outcome, revision: this.revision };
    this.requests.push({ id: command.request.id, result, sequence: this.sequence });
    if (this.requests.length > this.maxRequests) this.forgotten.push(...this.requests.splice(0, 1));
    return result;
  }

  applyNew(command: KvCommand, term: number): Omit<KvResult, 'revision'> {
    const yes = { status: 'done', succeeded: true } as const;
    const no = { status: 'done', succeeded: false } as const;
    if (command.type === 'grantLease') {
      if (this.leases.includes(command.leaseId)) return { status: 'leaseExists', succeeded: false };
      this.leases.push(command.leaseId);
      return yes;
    }
    if (command.type === 'revokeLease') {
      if (command.onlyInTerm !== null && command.onlyInTerm !== term) return no;
      if (!this.leases.includes(command.leaseId)) return no;
      this.leases = this.leases.filter((id) => id !== command.leaseId);
      const kept = this.items.filter((item) => item.leaseId !== command.leaseId);
      if (kept.length < this.items.length) this.revision++;
      this.items = kept;
      return yes;
    }
    if (command.type === 'raiseLevel') {
      if (command.level > this.level) this.level = command.level;
      return yes;
    }
    const { compare, operations } = command.transaction;
    const find = (wanted: string): KeyValue | undefined =>
      this.items.find((item) => item.key === wanted);
    if (compare.some((c) => (find(c.key)?.modRevision ?? 0) !== c.modRevision)) return no;
    const unknown = operations.some(
      (o) => o.type === 'put' && o.leaseId && !this.leases.includes(o.leaseId),
    );
    if (unknown) return { status: 'leaseNotFound', succeeded: false };
    if (operations.some((o) => o.type === 'put' || find(o.key))) this.revision++;
    for (const one of operations) {
      const old = find(one.key);
      this.items = this.items.filter((item) => item !== old);
      if (one.type === 'delete') continue;
      this.items.push({
        key: one.key,
        value: one.value,
        createRevision: old?.createRevision ?? this.revision,
        modRevision: this.revision,
        leaseId: one.leaseId ?? '',
      });
    }
    return yes;
  }

  list(prefix: string): KeyValue[] {
    return this.items
      .filter((item) => item.key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }
}

t.test('the state machine does what a stupid one does, through restarts too', async (t) => {
  const limits = { maxRememberedRequests: 20 };
  let forgotten = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(command, fc.constantFrom(1, 2)), { maxLength: 60, size: 'max' }),
      fc.nat(60),
      async (commands, restartAt) => {
        const stupid = new StupidState(limits.maxRememberedRequests);
        let machine = new ClusterStoreMachine(new KvState(limits));
        for (const [i, [one, term]] of commands.entries()) {
          if (i === restartAt) {
            const restarted = new ClusterStoreMachine(new KvState(limits));
            await restarted.restore(Readable.from(machine.snapshot()));
            machine = restarted;
          }
          const [result] = machine.apply([{ term, data: encodeCommand(one) }]);
          assert.deepEqual(result, stupid.apply(one, term));
          if (result?.status === 'forgotten') forgotten++;
          if (result) assert.deepEqual(decodeResult(encodeResult(result)), result);
        }
        const { state } = machine;
        assert.equal(state.revision, stupid.revision);
        assert.equal(state.sequence, stupid.sequence);
        assert.equal(state.level, stupid.level);
        for (const prefix of ['', 'a', 'a/', 'b', 'c']) {
          assert.deepEqual(state.list(prefix), stupid.list(prefix));
        }
        assert.deepEqual(
          state
            .leases()
            .map((lease) => lease.leaseId)
            .sort(),
          [...stupid.leases].sort(),
        );
      },
    ),
    { numRuns: 150 },
  );
  t.ok(forgotten > 0, 'requests were met that are too old to tell');
});

t.test('changes replayed give the state', async (t) => {
  t.plan(1);
  fc.assert(
    fc.property(fc.array(command, { maxLength: 40, size: 'max' }), (commands) => {
      const state = new KvState();
      commands.forEach((one, i) => {
        state.apply({ ...one, request: { id: `${i}`, since: 0 } }, 1);
      });
      const replayed = new Map<string, Uint8Array | null>();
      let at = 0;
      for (let batch = state.nextChangeAfter(0); batch; batch = state.nextChangeAfter(at)) {
        assert.equal(batch.revision, at + 1, 'no revision is left out');
        at = batch.revision;
        for (const event of batch.events) {
          if (event.type === 'delete') replayed.delete(event.key);
          else replayed.set(event.key, event.value);
        }
      }
      assert.equal(at, state.revision);
      assert.deepEqual(
        [...replayed].sort(([a], [b]) => (a < b ? -1 : 1)),
        state.list('').map((item) => [item.key, item.value]),
      );
    }),
    { numRuns: 60 },
  );
  t.pass('all runs');
});

t.test('commands survive their codec; damaged ones are refused with PROTOCOL', async (t) => {
  t.plan(1);
  fc.assert(
    fc.property(command, fc.nat(), (one, cut) => {
      const bytes = encodeCommand(one);
      assert.deepEqual(decodeCommand(bytes), one);
      // in a buffer that is shared and used again, as the network's
      const shared = Buffer.concat([Buffer.alloc(3), bytes, Buffer.alloc(5)]);
      const decoded = decodeCommand(shared.subarray(3, 3 + bytes.length));
      shared.fill(0xff);
      assert.deepEqual(decoded, one);
      assert.throws(() => decodeCommand(bytes.subarray(0, cut % bytes.length)), {
        code: 'PROTOCOL',
      });
      assert.throws(() => decodeCommand(Buffer.concat([bytes, Buffer.alloc(1)])), {
        code: 'PROTOCOL',
      });
    }),
    { numRuns: 100 },
  );
  fc.assert(
    fc.property(command, fc.nat(), fc.integer({ min: 1, max: 255 }), (one, at, flip) => {
      const bytes = encodeCommand(one);
      const place = at % bytes.length;
      bytes[place] = (bytes[place] ?? 0) ^ flip;
      let decoded: KvCommand;
      try {
        decoded = decodeCommand(bytes);
      } catch (error) {
        assert.ok(hasCode(error, 'PROTOCOL'));
        return;
      }
      // what is taken can be applied
      assert.ok(new KvState().apply(decoded, 1));
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.jsonValue(), fc.uint8Array({ maxLength: 8 }), (json, values) => {
      const bytes = encodeEnvelope(json as Record<string, unknown>, [values]);
      assert.throws(() => decodeCommand(bytes), { code: 'PROTOCOL' });
      assert.throws(() => decodeSnapshot(bytes), { code: 'PROTOCOL' });
      assert.throws(() => decodeCommand(values), { code: 'PROTOCOL' });
    }),
    { numRuns: 100 },
  );
  t.pass('all runs');
});

t.test('fields of a newer program', async (t) => {
  const header = { id: 'r', since: 0, type: 'grantLease', leaseId: 'l', ttlMs: 10, colour: 'red' };
  t.match(decodeCommand(encodeEnvelope(header)), { type: 'grantLease', leaseId: 'l' });
  t.throws(() => decodeCommand(encodeEnvelope({ ...header, type: 'paint' })), {
    code: 'PROTOCOL',
    message: /paint/,
  });
  const newer = encodeEnvelope(header);
  newer[1] = 2;
  t.throws(() => decodeCommand(newer), { code: 'PROTOCOL', message: /version 2.*upgrade/ });
  t.throws(() => new ClusterStoreMachine().apply([{ term: 1, data: newer }]));

  const state = new KvState();
  state.restore({ ...new KvState().image(), extra: { colour: 'red' } });
  const carried = decodeSnapshot(encodeSnapshot(state.image()));
  t.same(carried.extra, { colour: 'red' }, 'a snapshot carries them along');
});

t.test('a level is for all members, and none passes over one that it does not know', async (t) => {
  const limits = { maxStateBytes: 200, maxStateBytesOfLevel2: 400, keyOverheadBytes: 100 };
  const machine = new ClusterStoreMachine(new KvState(limits));
  let n = 0;
  const put = (to: ClusterStoreMachine, key: string): string | undefined => {
    const request = { id: `${n++}`, since: 0 };
    const operations: Operation[] = [{ type: 'put', key, value: new Uint8Array(50) }];
    const transaction = { compare: [], operations };
    const data = encodeCommand({ type: 'transact', request, transaction });
    return to.apply([{ term: 1, data }])[0]?.status;
  };
  t.equal(put(machine, 'a'), 'done');
  t.equal(put(machine, 'b'), 'full');
  t.equal(Buffer.from(encodeSnapshot(machine.state.image()))[1], 1, 'as every version knows it');
  const raise = (level: number): Uint8Array =>
    encodeCommand({ type: 'raiseLevel', request: { id: `${n++}`, since: 0 }, level });
  machine.apply([{ term: 1, data: raise(2) }]);
  t.equal(put(machine, 'b'), 'done');
  t.equal(put(machine, 'c'), 'full');
  const bytes = Buffer.from(encodeSnapshot(machine.state.image()));
  t.equal(bytes[1], 2, 'a program that knows level 1 only refuses it');
  const other = new ClusterStoreMachine(new KvState(limits));
  await other.restore(Readable.from([bytes]));
  t.equal(other.state.level, 2);
  t.equal(put(other, 'c'), 'full');
  t.equal(put(other, 'a'), 'done');
  // what this program does not know
  t.throws(() => raise(3), { code: 'INVALID_ARGUMENT' });
  const header = { id: 'x', since: 0, type: 'raiseLevel', level: 3 };
  const data = encodeEnvelope(header);
  t.throws(() => machine.apply([{ term: 1, data }]), { code: 'PROTOCOL', message: /upgrade/ });
  bytes[1] = 3;
  t.throws(() => decodeSnapshot(bytes), { code: 'PROTOCOL', message: /upgrade/ });
});

t.test('limits of the state', async (t) => {
  const limits = { maxStateBytes: 400, keyOverheadBytes: 100, maxLeases: 1 };
  const state = new KvState(limits);
  let n = 0;
  const next = (): { id: string; since: number } => ({ id: `${n++}`, since: 0 });
  const transact = (...operations: Operation[]): string =>
    state.apply({ type: 'transact', request: next(), transaction: { compare: [], operations } }, 1)
      .status;
  const big = (name: string, length: number): Operation => {
    return { type: 'put', key: name, value: new Uint8Array(length) };
  };
  t.equal(transact(big('a', 99)), 'done');
  t.equal(transact(big('b', 99)), 'done');
  t.equal(transact(big('c', 0)), 'full');
  t.equal(transact(big('a', 98)), 'done', 'what makes it smaller is let through');
  t.equal(transact({ type: 'delete', key: 'b' }, big('c', 50)), 'done');
  t.equal(transact(big('b', 51)), 'full');
  const image = state.image();
  const restored = new KvState(limits);
  restored.restore(image);
  const request = next();
  const same = { compare: [], operations: [big('b', 51)] };
  t.equal(restored.apply({ type: 'transact', request, transaction: same }, 1).status, 'full');

  const grant = (id: string): string =>
    state.apply({ type: 'grantLease', request: next(), leaseId: id, ttlMs: 10 }, 1).status;
  t.equal(grant('l1'), 'done');
  t.equal(grant('l1'), 'leaseExists');
  t.equal(grant('l2'), 'full');
});

t.test('ordered keys and history against stupid ones', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.string({ maxLength: 3 }), fc.boolean())), (steps) => {
      const keys = new OrderedKeys();
      const stupid = new Set<string>();
      for (const [name, add] of steps) {
        if (add && !stupid.has(name)) keys.add(name);
        if (!add && stupid.has(name)) keys.remove(name);
        if (add) stupid.add(name);
        else stupid.delete(name);
      }
      const sorted = [...stupid].sort();
      for (const prefix of ['', 'a', ...sorted]) {
        assert.deepEqual(
          keys.withPrefix(prefix),
          sorted.filter((name) => name.startsWith(prefix)),
        );
      }
      assert.deepEqual(new OrderedKeys([...stupid].reverse()).withPrefix(''), sorted);
    }),
    { numRuns: 60 },
  );
  const history = new ChangeHistory(5, { maxChanges: 200, maxBytes: 1_000 });
  t.equal(history.nextAfter(5), null);
  for (let revision = 6; revision <= 1_000; revision++) {
    const bytes = new Uint8Array(revision === 500 ? 600 : 3);
    const event = { type: 'put', key: 'k', value: bytes, revision, leaseId: '' } as const;
    history.add({ revision, events: [event] });
    t.equal(history.nextAfter(revision - 1)?.revision, revision);
    t.equal(history.nextAfter(revision), null);
    // all but one have 4 bytes, that one 601
    const kept = revision >= 500 && revision < 500 + 100 ? 1 + Math.floor((1_000 - 601) / 4) : 200;
    const dropped = Math.max(5, revision - kept);
    if (revision < 500 || revision > 700) t.equal(history.droppedRevision, dropped, `${revision}`);
    t.equal(history.nextAfter(history.droppedRevision)?.revision, history.droppedRevision + 1);
  }
});

t.test('lease deadlines', async (t) => {
  const deadlines = new LeaseDeadlines();
  const lease = { leaseId: 'a', ttlMs: 100 };
  const other = { leaseId: 'b', ttlMs: 300 };
  t.equal(deadlines.term, null);
  deadlines.lead(3);
  t.same(deadlines.due([lease, other], 1_000), [], 'first seen: its full time from now');
  t.same(deadlines.due([lease, other], 1_099), []);
  t.same(deadlines.due([lease, other], 1_100), [lease]);
  deadlines.renew(lease, 1_100);
  t.same(deadlines.due([lease, other], 1_199), []);
  deadlines.extend(50);
  t.same(deadlines.due([lease, other], 1_249), []);
  t.same(deadlines.due([lease, other], 1_350), [lease, other]);
  t.same(deadlines.due([other], 1_350), [other]);
  t.same(deadlines.due([lease], 1_360), [], 'one that went and came is new');
  deadlines.lead(4);
  t.same(deadlines.due([lease, other], 9_000), [], 'a new term gives all their full time');
  deadlines.stop();
  t.equal(deadlines.term, null);
});

const keyValue = record({
  key: fc.string({ minLength: 1, maxLength: 12, unit: 'binary' }),
  createRevision: fc.nat(9),
  modRevision: fc.nat(),
  leaseId: fc.constantFrom('', 'l1', '[",{'),
  value: fc.uint8Array({ maxLength: 40 }),
});
const image = record({
  revision: fc.nat(),
  sequence: fc.nat(),
  items: fc.array(keyValue, { maxLength: 20 }),
  leases: fc.array(record({ leaseId: fc.string(), ttlMs: fc.nat() }), { maxLength: 4 }),
  forgottenUpTo: fc.nat(),
  requests: fc.array(
    record({
      id: fc.string(),
      sequence: fc.nat(),
      result: record({
        status: fc.constantFrom('done' as const, 'full' as const),
        succeeded: fc.boolean(),
        revision: fc.nat(),
      }),
    }),
    { maxLength: 6 },
  ),
  // what a newer program might have
  extra: fc.dictionary(fc.constantFrom('colour', 'ünknown', '"]'), fc.jsonValue(), {
    maxKeys: 3,
    noNullPrototype: true,
  }),
});

t.test('a snapshot is read in any pieces, with fields that are not known', async () => {
  fc.assert(
    fc.property(image, fc.array(fc.integer({ min: 1, max: 40 })), (written, sizes) => {
      const bytes = encodeSnapshot(written);
      const reader = new SnapshotReader();
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = sizes[i % Math.max(1, sizes.length)] ?? bytes.length;
        reader.add(bytes.subarray(at, at + size));
        at += size;
      }
      const expected = JSON.parse(JSON.stringify(written.extra)) as unknown;
      assert.deepEqual(reader.end(), { ...written, extra: expected });
    }),
    { numRuns: 500 },
  );
});

t.test('a snapshot that is cut off or goes on is refused', async () => {
  fc.assert(
    fc.property(image, fc.nat(), (written, at) => {
      const bytes = encodeSnapshot(written);
      const cut = bytes.subarray(0, at % bytes.length);
      assert.throws(() => decodeSnapshot(cut), { code: 'PROTOCOL' });
      const longer = Buffer.concat([bytes, Uint8Array.of(0)]);
      assert.throws(() => decodeSnapshot(longer), { code: 'PROTOCOL' });
    }),
  );
});

t.test('a snapshot of an earlier program is read', async (t) => {
  const header = {
    colour: 'red',
    revision: 7,
    sequence: 9,
    items: [
      ['a', 1, 2, 'l1', 3],
      ['b', 3, 3, '', 0],
    ],
    leases: [['l1', 500]],
    forgottenUpTo: 2,
    requests: [['r', 9, 'done', 1, 7]],
  };
  const read = decodeSnapshot(encodeEnvelope(header, [Buffer.from('one')]));
  t.match(read, { revision: 7, sequence: 9, forgottenUpTo: 2, extra: { colour: 'red' } });
  t.same(
    read.items.map(({ key, value }) => [key, Buffer.from(value).toString()]),
    [
      ['a', 'one'],
      ['b', ''],
    ],
  );
  t.same(read.requests, [
    { id: 'r', sequence: 9, result: { status: 'done', succeeded: true, revision: 7 } },
  ]);
});

t.test('a snapshot is of the state at its beginning, though commands go on', async () => {
  const commands = fc.array(command, { maxLength: 30, size: 'max' });
  await fc.assert(
    fc.asyncProperty(commands, commands, async (before, meanwhile) => {
      const machine = new ClusterStoreMachine(new KvState());
      const run = (one: KvCommand, id: string): void => {
        machine.apply([{ term: 1, data: encodeCommand({ ...one, request: { id, since: 0 } }) }]);
      };
      before.forEach((one, i) => {
        run(one, `b${i}`);
      });
      const expected = encodeSnapshot(machine.state.image());
      const pieces = machine.snapshot();
      meanwhile.forEach((one, i) => {
        run(one, `m${i}`);
      });
      assert.ok(Buffer.concat([...pieces]).equals(expected));
      const other = new ClusterStoreMachine(new KvState());
      await other.restore(Readable.from([expected]));
      assert.ok(Buffer.from(encodeSnapshot(other.state.image())).equals(expected));
    }),
  );
});
