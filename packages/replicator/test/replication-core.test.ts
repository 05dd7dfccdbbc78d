import {
  StorError,
  blockBytes,
  decodePeerHeader,
  decodePongEntry,
  encodePeerHeader,
  encodePongEntry,
  maxPeerIoBytes,
  newPeerHeader,
  parsePeerBody,
  peerControl,
  peerFrame,
  peerHeaderBytes,
  peerHello,
  peerWriteBodyBytes,
  type PeerFrameType,
} from '@stor/protocol';
import { hashBlocks, systemClock, type StreamSocket } from '@stor/runtime';
import fc from 'fast-check';
import t from 'tap';

import { decideActivation, type FenceAnswer } from '../src/core/replication/activation.ts';
import { AppliedPrefix } from '../src/core/replication/applied-prefix.ts';
import { Bitmap } from '../src/core/replication/bitmap.ts';
import { Membership } from '../src/core/replication/membership.ts';
import { RangeLock, type LockOwner } from '../src/core/replication/range-lock.ts';
import { runsToCopy } from '../src/core/replication/copy-runs.ts';
import {
  blocksEqual,
  chooseBlocks,
  hashBytes,
  isZeros,
  nobody,
  type ChunkSums,
} from '../src/core/replication/settle-choice.ts';
import { SpaceCredits } from '../src/core/replication/space-credits.ts';
import { Outbox, LinkOutput } from '../src/peer/outbox.ts';
import { RegisterHistory } from '../src/testing/register-history.ts';

t.test('Bitmap is a set of numbers', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 70 }),
      fc.array(fc.tuple(fc.boolean(), fc.nat(80))),
      (size, steps) => {
        const bitmap = new Bitmap(size);
        const model = new Set<number>();
        for (const [add, index] of steps) {
          if (add) {
            bitmap.add(index);
            if (index < size) model.add(index);
          } else {
            bitmap.delete(index);
            model.delete(index);
          }
        }
        const sorted = [...model].sort((a, b) => a - b);
        const copy = new Bitmap(size, bitmap.toBytes());
        for (let from = 0; from <= size; from++) {
          const expected = sorted.find((each) => each >= from) ?? -1;
          if (bitmap.next(from) !== expected) return false;
          const inRange = sorted.some((each) => each >= from && each < from + 5);
          if (bitmap.hasAny(from, from + 5) !== inRange) return false;
        }
        return (
          bitmap.count === sorted.length &&
          copy.count === sorted.length &&
          copy.list().join() === sorted.join()
        );
      },
    ),
  );
});

t.test('RangeLock: no overlap with a writer, order of asking among overlapping', async () => {
  interface Owner extends LockOwner {
    id: number;
    held: boolean;
  }
  const overlaps = (a: Owner, b: Owner): boolean =>
    a.lockStart < b.lockEnd && b.lockStart < a.lockEnd && (a.lockExclusive || b.lockExclusive);
  const step = fc.oneof(
    fc.record({
      type: fc.constant('acquire' as const),
      start: fc.nat(20),
      length: fc.integer({ min: 1, max: 8 }),
      exclusive: fc.boolean(),
    }),
    fc.record({ type: fc.constantFrom('release' as const, 'cancel' as const), pick: fc.nat(40) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const lock = new RangeLock();
      const alive: Owner[] = [];
      let nextId = 0;
      for (const each of steps) {
        if (each.type === 'acquire') {
          const owner: Owner = {
            id: nextId++,
            held: false,
            lockStart: each.start,
            lockEnd: each.start + each.length,
            lockExclusive: each.exclusive,
            lockSlot: -1,
            lockGranted: () => {
              owner.held = true;
            },
          };
          alive.push(owner);
          if (lock.acquire(owner)) owner.held = true;
        } else {
          const owner = alive[each.pick % Math.max(1, alive.length)];
          if (!owner) continue;
          if (owner.held) lock.release(owner);
          else lock.cancel(owner);
          alive.splice(alive.indexOf(owner), 1);
        }
        // the stupid version: an owner holds exactly when no older one that overlaps is alive
        for (const owner of alive) {
          const blocked = alive.some((other) => other.id < owner.id && overlaps(other, owner));
          if (owner.held === blocked) return false;
        }
        const held = alive.filter((owner) => owner.held);
        for (let at = 0; at < 30; at++) {
          const stopped = alive.some(
            (owner) => owner.lockExclusive && owner.lockStart < at + 1 && at < owner.lockEnd,
          );
          if (lock.isReadable(at, at + 1) === stopped) return false;
        }
        if (lock.held !== held.length || lock.waiting !== alive.length - held.length) return false;
      }
      return true;
    }),
    { numRuns: 300 },
  );
});

t.test('AppliedPrefix says what is applied without a gap', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(10)), { maxLength: 300 }), (steps) => {
      const prefix = new AppliedPrefix();
      const frames: { token: object | null; applied: boolean }[] = [];
      for (const [begin, pick] of steps) {
        const sequence = frames.length + 1;
        if (begin && pick < 4) {
          prefix.done(sequence, 10);
          frames.push({ token: null, applied: true });
        } else if (begin) frames.push({ token: prefix.begin(sequence, 10), applied: false });
        else {
          const open = frames.filter((frame) => !frame.applied);
          const frame = open[pick % Math.max(1, open.length)];
          if (!frame?.token) continue;
          frame.applied = true;
          prefix.applied(frame.token);
        }
        const gap = frames.findIndex((frame) => !frame.applied);
        const expected = gap < 0 ? frames.length : gap;
        if (prefix.sequence !== expected || prefix.bytes !== expected * 10) return false;
      }
      return true;
    }),
  );
});

t.test('SpaceCredits never believe in more room than there is', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2), fc.nat(5)), { maxLength: 200 }), (steps) => {
      // the replica: free chunks, and frames on the way to it
      let free = 40;
      const onTheWay: { sequence: number; chunks: number }[] = [];
      let applied = 0;
      let sequence = 0;
      const credits = new SpaceCredits();
      credits.reset(free);
      for (const [kind, amount] of steps) {
        if (kind === 0 && credits.available >= amount) {
          sequence += 1;
          credits.spend(sequence, amount);
          onTheWay.push({ sequence, chunks: amount });
        } else if (kind === 1) {
          const frame = onTheWay.shift();
          if (!frame) continue;
          // it may turn out to need less
          free -= Math.min(frame.chunks, amount);
          applied = frame.sequence;
        } else credits.granted(applied, free);
        const needed = onTheWay.reduce((sum, frame) => sum + frame.chunks, 0);
        if (credits.available > free - needed || free < 0) return false;
      }
      return true;
    }),
  );
});

t.test('Membership keeps I4 whatever happens', async () => {
  const ids = ['a', 'b', 'c'];
  const event = fc.record({
    type: fc.constantFrom(
      ...(['lost', 'back', 'join', 'joined', 'commit', 'commit-unconfirmed'] as const),
      ...(['recorded', 'withdraw', 'confirmed'] as const),
    ),
    id: fc.constantFrom(...ids),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 80 }), fc.boolean(), (events, older) => {
      const membership = new Membership(['a', 'b'], 1, older ? 4 : 1);
      let proposed: string[] | null = null;
      let recording: string[] = [];
      // every set that the control plane may have now; before recording, also the older ones
      let possible: string[][] = [['a', 'b']];
      let revision = 1;
      // while the control plane holds the change for unconfirmed: who has everything, by its word
      let whole: string[] = [];
      let confirming = 0;
      const advance = (): boolean => {
        for (let step = membership.next(); step; step = membership.next()) {
          if (step.type === 'propose') {
            // never a set of newcomers alone, and never an empty one
            const kept = step.inSync.filter((id) => membership.isCommitted(id));
            if (!kept.some((id) => !membership.isAway(id))) return false;
            proposed = step.inSync;
            possible.push(step.inSync);
          } else if (step.type === 'confirm') confirming = step.setRevision;
          else recording = step.inSync.filter((id) => !membership.isAway(id));
        }
        return true;
      };
      if (!advance()) return false;
      for (const { type, id } of events) {
        if (type === 'lost') {
          membership.lost(id);
          membership.settleRecording();
        } else if (type === 'back') membership.readmit(id);
        else if (type === 'join' && !membership.required().includes(id)) membership.join(id);
        else if (type === 'joined') membership.joined(id);
        else if ((type === 'commit' || type === 'commit-unconfirmed') && proposed) {
          const before = whole.length > 0 ? whole : membership.committed;
          const committed: string[] = proposed;
          const unconfirmed = type === 'commit-unconfirmed';
          whole = unconfirmed ? [...new Set([...before, ...committed])] : [];
          proposed = null;
          revision += 1;
          membership.proposalCommitted(revision, unconfirmed);
          possible = [committed];
        } else if (type === 'confirmed' && confirming === revision) {
          // it takes effect there, whether it is still waited for or not
          confirming = 0;
          whole = [];
          membership.confirmed(revision);
        } else if (type === 'withdraw' && proposed && membership.withdraw()) {
          proposed = null;
          possible.pop();
        } else if (type === 'recorded' && recording.includes(id)) membership.recorded(id);
        if (!advance()) return false;
        const required = membership.required();
        // acknowledgements need the union of all sets that may be in force (I4)
        if (!possible.every((set) => set.every((each) => required.includes(each)))) return false;
        // nothing is acknowledged without those that the control plane would let begin (I4)
        if (!whole.every((each) => required.includes(each))) return false;
        if (membership.stable && whole.length > 0) return false;
        // a set is never shrunk to nothing (I7)
        if (membership.committed.length === 0) return false;
        if (membership.setRevision !== revision) return false;
        if (membership.stable && membership.holding) return false;
      }
      return true;
    }),
    { numRuns: 2_000 },
  );
});

t.test('Membership: a shrink counts only when its members keep it', async (t) => {
  const membership = new Membership(['a', 'b', 'c'], 5);
  t.same(membership.next(), { type: 'record', setRevision: 5, inSync: ['a', 'b', 'c'] });
  for (const id of ['a', 'b', 'c']) membership.recorded(id);
  t.ok(membership.stable);
  membership.lost('c');
  t.ok(membership.holding);
  const step = { type: 'propose', rememberedRevision: 5 };
  t.same(membership.next(), { ...step, setRevision: 5, inSync: ['a', 'b'] });
  t.equal(membership.next(), null, 'one step at a time');
  membership.proposalCommitted(6);
  t.same(membership.next(), { type: 'record', setRevision: 6, inSync: ['a', 'b'] });
  membership.recorded('a');
  t.ok(membership.required().includes('c'));
  membership.recorded('b');
  t.notOk(membership.required().includes('c'));
  membership.join('c');
  t.ok(membership.required().includes('c'), 'a newcomer must acknowledge before it is proposed');
  t.equal(membership.next(), null);
  membership.joined('c');
  t.same(membership.next(), { ...step, setRevision: 6, inSync: ['a', 'b', 'c'] });
});

t.test('Membership: a set that is not confirmed counts for nothing alone', async (t) => {
  const alone = (): Membership => {
    const membership = new Membership(['a', 'b', 'c'], 5);
    membership.next();
    for (const id of ['a', 'b', 'c']) membership.recorded(id);
    for (const id of ['b', 'c']) membership.lost(id);
    t.match(membership.next(), { type: 'propose', inSync: ['a'] });
    membership.proposalCommitted(6, true);
    t.same(membership.next(), { type: 'record', setRevision: 6, inSync: ['a'] });
    return membership;
  };
  const confirmed = alone();
  confirmed.recorded('a');
  t.same(confirmed.next(), { type: 'confirm', setRevision: 6, inSync: ['a'] });
  t.equal(confirmed.next(), null, 'asked once');
  t.same(confirmed.required(), ['a', 'b', 'c']);
  t.notOk(confirmed.stable);
  confirmed.confirmed(5);
  t.same(confirmed.required(), ['a', 'b', 'c'], 'another revision');
  confirmed.confirmed(6);
  t.same(confirmed.required(), ['a']);
  t.ok(confirmed.stable);
  confirmed.lost('a');
  t.notOk(confirmed.readmit('b'), 'what was acknowledged since it lacks');

  const inVain = alone();
  inVain.recorded('a');
  t.match(inVain.next(), { type: 'confirm' });
  inVain.lost('a');
  inVain.settleRecording();
  inVain.confirmed(6);
  t.same(inVain.required(), ['a', 'b', 'c'], 'nobody was left to acknowledge anything');
  t.ok(inVain.isKnownHereOnly);
  t.ok(inVain.readmit('b'));
  t.match(inVain.next(), { type: 'propose', setRevision: 6, inSync: ['b'] });

  for (const isRecorded of [false, true]) {
    const taken = alone();
    if (isRecorded) {
      taken.recorded('a');
      t.match(taken.next(), { type: 'confirm' });
    }
    taken.lost('a');
    taken.settleRecording();
    t.ok(taken.suspended);
    t.equal(taken.next(), null);
    t.ok(taken.readmit('b'), 'it has all that was acknowledged');
    t.same(taken.next(), {
      type: 'propose',
      setRevision: 6,
      rememberedRevision: 5,
      inSync: ['b'],
    });
    taken.confirmed(6);
    for (const id of ['a', 'b', 'c']) t.ok(taken.required().includes(id), 'too late');
  }
});

t.test('Membership: a set that nobody is left of is withdrawn', async (t) => {
  const membership = new Membership(['a', 'b'], 1);
  membership.lost('b');
  t.match(membership.next(), { type: 'propose', inSync: ['a'] });
  t.notOk(membership.withdraw(), 'it is what is wanted');
  membership.lost('a');
  t.ok(membership.withdraw());
  t.equal(membership.next(), null);
  t.ok(membership.readmit('b'), 'no set without it can have been committed');
  t.match(membership.next(), { type: 'propose', inSync: ['b'] });
});

t.test('decideActivation', async (t) => {
  const answer = (replicaId: string, more: Partial<FenceAnswer> = {}): FenceAnswer => ({
    replicaId,
    keptMemory: true,
    failed: false,
    generation: { epoch: 1, n: 1 },
    setView: null,
    drainedEpoch: null,
    isLocal: false,
    ...more,
  });
  const recorded = { setRevision: 3, inSync: ['a', 'b'] };
  const rules = {
    epoch: 10,
    replicas: ['a', 'b'],
    restoreGraceOver: true,
    knownFailed: [] as string[],
    lossAccepted: false,
    describe: (id: string) => `${id} on n-${id}`,
    recoverCommand: 'recover',
  };
  const decide = (answers: FenceAnswer[], graceOver: boolean, more = {}): string => {
    const decision = decideActivation(recorded, answers, { ...rules, graceOver, ...more });
    if (decision.type === 'wait') return 'wait';
    const unheard = decision.unheard?.length ? ` without ${decision.unheard.join('+')}` : '';
    const older = decision.controlIsOlder ? ' (control is older)' : '';
    return `${decision.members.join('+')}${unheard}${older}`;
  };
  const lost = { keptMemory: false };
  t.equal(decide([], true), 'wait');
  t.equal(decide([answer('c')], true), 'wait', 'a stale replica does not count (I3)');
  t.equal(decide([answer('a')], false), 'wait', 'the other one has a moment');
  t.equal(decide([answer('a')], true), 'a');
  t.equal(decide([answer('a'), answer('b')], false), 'a+b');
  t.equal(decide([answer('a'), answer('b', lost)], false), 'a');
  t.equal(decide([answer('a', lost)], true), 'wait', 'the other one may know more (I5)');
  t.equal(decide([answer('a', { failed: true, ...lost })], true), 'wait');
  const newer = answer('b', { ...lost, generation: { epoch: 1, n: 2 } });
  t.equal(decide([answer('a', lost), newer], false), 'b', 'the highest generation is the truth');
  t.equal(decide([answer('a', { ...lost, isLocal: true }), answer('b', lost)], true), 'a');
  // nothing was acknowledged under the recorded set alone, so those before it have everything too
  const alone = { setRevision: 3, inSync: ['a'], unconfirmed: ['a', 'b'] };
  const fallback = decideActivation(alone, [answer('b')], {
    ...rules,
    graceOver: true,
    knownFailed: ['a'],
  });
  t.match(fallback, { type: 'go', members: ['b'], isRecorded: false, equal: false });
  t.same(fallback.type === 'go' && fallback.from.inSync, ['a', 'b']);
  const confirmedAlone = { setRevision: 3, inSync: ['a'] };
  const without = { ...rules, graceOver: true, knownFailed: ['a'] };
  t.equal(decideActivation(confirmedAlone, [answer('b')], without).type, 'wait');
  // a replica that served under a newer one knows better
  const newerView = { setView: { epoch: 9, setRevision: 4, members: ['c'] } };
  t.equal(decideActivation(alone, [answer('b', newerView)], without).type, 'wait');
  // equal only when one primary left them all in order
  const equal = (answers: FenceAnswer[], set = recorded): boolean => {
    const decision = decideActivation(set, answers, { ...rules, graceOver: true });
    return decision.type === 'go' && decision.equal;
  };
  const drained = { drainedEpoch: 4 };
  t.equal(equal([answer('a', drained), answer('b', drained)]), true);
  t.equal(equal([answer('a', drained), answer('b', { drainedEpoch: 3 })]), false);
  t.equal(equal([answer('a', drained), answer('b')]), false);
  t.equal(equal([answer('a', drained)]), false, 'what the other one has nobody knows');
  t.equal(equal([answer('a', drained), answer('b', { ...drained, ...lost })]), false);
  t.equal(equal([answer('a'), answer('b')]), false);
  const later = { epoch: 9, setRevision: 4, members: ['a'] };
  t.equal(equal([answer('a', { ...drained, setView: later }), answer('b', drained)]), false);
  // those known to have failed have answered; consent leaves out those that are not heard
  const failed = { knownFailed: ['b'] };
  t.equal(decide([answer('a')], false, failed), 'a');
  t.equal(decide([answer('a', lost)], false, failed), 'a');
  t.equal(decide([], true, failed), 'wait');
  t.equal(decide([], true, { knownFailed: ['a', 'b'] }), 'wait');
  const accepted = { lossAccepted: true };
  t.equal(decide([answer('a', lost)], true, accepted), 'a without b');
  t.equal(decide([], true, accepted), 'wait');
  t.equal(decide([answer('a'), answer('b', lost)], true, accepted), 'a');
  t.equal(decide([answer('c', lost)], true, accepted), 'wait', 'only members of the set count');
  t.match(decideActivation(recorded, [answer('a', lost)], { ...rules, graceOver: true }), {
    reason:
      'a may have lost writes that were not flushed, so it needs b on n-b; ' +
      'recover begins without and gives such writes up',
  });
  const view = { epoch: 9, setRevision: 4, members: ['a'] };
  t.equal(decide([answer('b'), answer('a', { setView: view })], true), 'a (control is older)');
  const old = { epoch: 9, setRevision: 2, members: ['b'] };
  t.equal(decide([answer('a', { setView: old }), answer('b')], true), 'a+b');
});

t.test('decideActivation hears those outside the set, for they may know a newer one', async (t) => {
  const answer = (replicaId: string, more: Partial<FenceAnswer> = {}): FenceAnswer => ({
    replicaId,
    keptMemory: true,
    failed: false,
    generation: { epoch: 1, n: 1 },
    setView: null,
    drainedEpoch: null,
    isLocal: false,
    ...more,
  });
  const rules = {
    epoch: 10,
    replicas: ['a', 'b', 'c'],
    graceOver: false,
    restoreGraceOver: false,
    knownFailed: [] as string[],
    lossAccepted: false,
    describe: (id: string) => id,
    recoverCommand: 'recover',
  };
  const decide = (answers: FenceAnswer[], more: Partial<typeof rules> = {}): string => {
    const recorded = { setRevision: 3, inSync: ['a'] };
    const decision = decideActivation(recorded, answers, { ...rules, ...more });
    if (decision.type === 'wait') return decision.reason;
    return `${decision.members.join('+')}, next after ${decision.highestRevision}`;
  };
  const view = (epoch: number, setRevision: number, ...members: string[]) => ({
    setView: { epoch, setRevision, members },
  });
  const moment = 'giving c a moment to say which set is the newest';
  const a = answer('a', view(8, 3, 'a'));
  const b = answer('b', view(7, 2, 'a', 'b'));
  t.equal(decide([a, b]), moment);
  t.equal(decide([a, b], { graceOver: true }), 'a, next after 3');
  t.equal(decide([a, b], { knownFailed: ['c'] }), 'a, next after 3');
  t.equal(decide([a, b, answer('c')]), 'a, next after 3');
  t.equal(decide([a, b, answer('c', view(9, 5, 'c'))]), 'c, next after 5');
  t.equal(decide([{ ...a, keptMemory: false }, b]), moment, 'nor without any memory');
  // the last primary had the set from the record, and gave it to this one
  t.equal(decide([{ ...a, drainedEpoch: 9 }]), 'a, next after 3');
  t.match(decide([{ ...a, drainedEpoch: 8 }]), /giving b, c a moment/, 'a restore raises epochs');
  // known to be a restore: another replica may remember a set that is newer still
  const newer = answer('b', view(9, 4, 'b'));
  t.equal(decide([a, newer], { graceOver: true }), moment);
  t.equal(decide([a, newer], { graceOver: true, restoreGraceOver: true }), 'b, next after 4');
  // revisions that went on from a lower one after a restore belong to a later epoch
  const before = answer('c', view(5, 9, 'c'));
  t.equal(decide([a, newer, before]), 'b, next after 9');
  t.equal(decide([a, b, before]), 'a, next after 9');
});

/** Hashes that differ in their last byte only. */
function viewOf(blocks: [hash: number, valid: boolean | 2][]): ChunkSums {
  const hashes = new Uint8Array(blocks.length * hashBytes);
  for (const [block, [hash]] of blocks.entries()) hashes[(block + 1) * hashBytes - 1] = hash;
  return { hashes, valid: Uint8Array.from(blocks.map(([, valid]) => Number(valid))) };
}

t.test('runsToCopy covers what differs, and little more', async () => {
  const block = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
  fc.assert(
    fc.property(fc.array(block, { minLength: 1, maxLength: 64 }), (blocks) => {
      const source = viewOf(blocks.map(([, valid]) => [1, valid]));
      const member = viewOf(blocks.map(([same, , valid]) => [same ? 1 : 2, valid]));
      const differs = (i: number): boolean => !blocks[i]?.every((each) => each);
      const runs = runsToCopy(source, member);
      let from = 0;
      let count = 0;
      for (const { first, end } of runs) {
        // outside of runs everything is equal, a run begins and ends with what differs
        for (let i = from; i < first; i++) if (differs(i)) return false;
        if (!differs(first) || !differs(end - 1) || (from > 0 && first - from < 4)) return false;
        count += end - first;
        from = end;
      }
      for (let i = from; i < blocks.length; i++) if (differs(i)) return false;
      const needed = blocks.filter((_each, i) => differs(i)).length;
      return runs.length <= 8 && count <= Math.max(needed, blocks.length) && count >= needed;
    }),
  );
});

t.test('chooseBlocks takes verifying bytes, the truth first, and says what to write', async () => {
  const member = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 3 }), fc.constantFrom(true, false, 2 as const)),
    {
      minLength: 6,
      maxLength: 6,
    },
  );
  fc.assert(
    fc.property(fc.array(member, { minLength: 1, maxLength: 3 }), (members) => {
      const views = members.map(viewOf);
      const choice = chooseBlocks(views);
      for (let block = 0; block < 6; block++) {
        const chosen = members[choice.source[block] ?? 0]?.[block];
        const has = (what: boolean | 2): boolean =>
          members.some((blocks) => blocks[block]?.[1] === what);
        if (has(true) ? chosen?.[1] !== true : has(false) && chosen?.[1] !== false) return false;
        if (!has(true) && !has(false)) {
          if (choice.source[block] !== nobody) return false;
          continue;
        }
        if (members[0]?.[block]?.[1] === true && choice.source[block] !== 0) return false;
        const same = members.every((m) => m[block]?.[1] === true && m[block]?.[0] === chosen?.[0]);
        const written = block >= choice.firstBlock && block <= choice.lastBlock;
        if (!same && !written) return false;
      }
      const [a, b] = views;
      const clean = choice.firstBlock > choice.lastBlock;
      const isDone = (i: number): boolean =>
        choice.source[i] === nobody || (a !== undefined && b !== undefined && blocksEqual(a, b, i));
      const equal = members[0]?.every((_block, i) => isDone(i)) === true;
      return views.length !== 2 || equal === clean;
    }),
  );
});

t.test('isZeros needs every block to verify and to be zeros', async (t) => {
  const hashes = new Uint8Array(2 * hashBytes);
  hashBlocks(new Uint8Array(2 * blockBytes), 0, 2, blockBytes, hashes, 0);
  t.equal(isZeros({ hashes, valid: Uint8Array.of(1, 1) }), true);
  t.equal(isZeros({ hashes, valid: Uint8Array.of(1, 0) }), false);
  for (let at = 0; at < hashes.length; at++) {
    const other = hashes.slice();
    other[at] = (other[at] ?? 0) ^ 1;
    t.equal(isZeros({ hashes: other, valid: Uint8Array.of(1, 1) }), false);
  }
});

t.test('peer frames: headers survive, and what no peer sends is refused', async (t) => {
  const bytes = Buffer.alloc(peerHeaderBytes + 7);
  const header = newPeerHeader();
  fc.assert(
    fc.property(
      fc.nat(65_535),
      fc.nat(2 ** 31),
      fc.maxSafeNat(),
      fc.nat(2 ** 31),
      fc.integer({ min: 1, max: maxPeerIoBytes / blockBytes }),
      (segment, channel, sequence, offsetBlocks, blocks) => {
        const length = blocks * blockBytes;
        const offset = offsetBlocks * blockBytes;
        const body = peerWriteBodyBytes(length);
        const type = peerFrame.write;
        encodePeerHeader(bytes, 7, type, 3, segment, channel, sequence, offset, length, body);
        decodePeerHeader(bytes, 7, header);
        const expected = { type, flags: 3, segment, channel, sequence, offset, length };
        return JSON.stringify(header) === JSON.stringify({ ...expected, bodyBytes: body });
      },
    ),
  );
  const refused = (
    type: number,
    offset: number,
    length: number,
    body: number,
    sequence = 1,
  ): void => {
    const args = [0, 0, 1, sequence, offset, length, body] as const;
    encodePeerHeader(bytes, 0, type as PeerFrameType, ...args);
    t.throws(() => decodePeerHeader(bytes, 0, header), { code: 'PROTOCOL' });
  };
  const length = blockBytes;
  refused(99, 0, 0, 0);
  refused(peerFrame.write, 0, length, length);
  refused(peerFrame.write, 1, length, peerWriteBodyBytes(length));
  refused(peerFrame.write, 0, 0, 0);
  refused(peerFrame.write, 0, 2 ** 31, peerWriteBodyBytes(2 ** 31));
  refused(peerFrame.zero, 0, length, 1);
  refused(peerFrame.hello, 0, 0, 5_000);
  refused(peerFrame.open, 0, 0, 2 ** 31);
  refused(peerFrame.pong, 0, 0, 25);
  refused(peerFrame.ping, 0, 0, 1);
  refused(peerFrame.flush, 0, 0, 0, 2 ** 53);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (random) => {
      try {
        decodePeerHeader(Buffer.from(random), 0, header);
        return header.bodyBytes <= 48 * 1024 * 1024;
      } catch (error) {
        return StorError.from(error).code === 'PROTOCOL';
      }
    }),
  );
  const entry = { channel: 5, markedCount: 7, sequence: 2 ** 40, freeChunks: 3 };
  encodePongEntry(bytes, 0, entry);
  t.same(decodePongEntry(bytes, 0), entry);
  const json = Buffer.from('xx{"op":"retire","generation":{"epoch":1,"n":2}}');
  t.same(parsePeerBody(peerControl, json, 2, json.length).op, 'retire');
  for (const body of ['', '{', '[]', '{"op":"other"}', '{"version":1}']) {
    const bad = Buffer.from(body);
    t.throws(() => parsePeerBody(peerControl, bad, 0, bad.length), { code: 'PROTOCOL' });
    t.throws(() => parsePeerBody(peerHello, bad, 0, bad.length), { code: 'PROTOCOL' });
  }
});

t.test(
  'Outbox: each link gets its frames in order, in one write, and memory is not reused early',
  async () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 300 })), { maxLength: 60 }),
        (steps) => {
          const turn: (() => void)[] = [];
          const outbox = new Outbox({
            ...systemClock,
            endOfTurn: (fn) => {
              turn.push(fn);
            },
          });
          const links = [0, 1].map(() => {
            const waiting: { bytes: Uint8Array; copy: Buffer; written: () => void }[] = [];
            const received: Buffer[] = [];
            const expected: Buffer[] = [];
            const socket = {
              write: (bytes: Uint8Array, written: () => void) => {
                waiting.push({ bytes, copy: Buffer.from(bytes), written });
              },
              cork: () => {},
              uncork: () => {},
            } as unknown as StreamSocket;
            return { output: new LinkOutput(outbox, socket), waiting, received, expected };
          });
          let sound = true;
          const take = (link: (typeof links)[0]): void => {
            const next = link.waiting.shift();
            if (!next) return;
            if (!next.copy.equals(next.bytes)) sound = false;
            link.received.push(next.copy);
            next.written();
          };
          let count = 0;
          for (const [kind, blocks] of steps) {
            if (kind === 3) {
              for (const fn of turn.splice(0)) fn();
              for (const link of links) if (blocks % 2 === 0) take(link);
              continue;
            }
            const body = Buffer.alloc(blocks * 2_048, ++count);
            const frame = outbox.encode(peerFrame.open, 0, 0, 1, count, 0, 0, body);
            const bytes = Buffer.from(frame.batch.bytes.subarray(frame.start, frame.end));
            for (const [index, link] of links.entries()) {
              if (kind !== 2 && kind !== index) continue;
              link.output.queue(frame.batch, frame.start, frame.end);
              link.expected.push(bytes);
            }
          }
          for (const fn of turn.splice(0)) fn();
          for (const link of links) {
            while (link.waiting.length > 0) take(link);
            if (!Buffer.concat(link.received).equals(Buffer.concat(link.expected))) return false;
            if (link.output.pendingBytes !== 0) return false;
          }
          return sound;
        },
      ),
      { numRuns: 60 },
    );
  },
);

t.test('RegisterHistory agrees with trying every order', async (t) => {
  interface Op {
    write: boolean;
    value: number;
    start: number;
    end: number;
  }
  const linearizable = (ops: Op[], value: number): boolean => {
    if (ops.length === 0) return true;
    return ops.some((op) => {
      if (ops.some((other) => other.end < op.start)) return false;
      if (!op.write && op.value !== value) return false;
      return linearizable(
        ops.filter((each) => each !== op),
        op.write ? op.value : value,
      );
    });
  };
  let bad = 0;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.nat(3), fc.nat(20), fc.integer({ min: 1, max: 8 })), {
        maxLength: 6,
      }),
      (raw) => {
        let written = 0;
        // distinct instants: no two events of a history happen at once
        const ops = raw.map(([write, value, start, length], index): Op => ({
          write,
          value: write ? ++written : value,
          start: start * 100 + index * 2,
          end: (start + length) * 100 + index * 2 + 1,
        }));
        const history = new RegisterHistory();
        let problem: string | null = null;
        for (const op of ops.filter((each) => each.write)) {
          history.writeStarted(op.value, op.start);
          history.writeAcknowledged(op.value, op.end);
        }
        for (const op of ops.filter((each) => !each.write)) {
          problem ??= history.read(op.value, op.start, op.end);
        }
        const expected = linearizable(ops, 0);
        if (!expected) bad += 1;
        return ((problem ?? history.check()) === null) === expected;
      },
    ),
    { numRuns: 3_000 },
  );
  t.ok(bad > 300, 'histories of both kinds were tried');
});
