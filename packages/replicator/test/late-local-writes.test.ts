/** Writes that the local replica gets at the end of the turn: when, and what keeps them from it. */
import t from 'tap';
import { blockBytes } from '@stor/protocol';
import { BufferPool, crc32 } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import { Outbox } from '../src/peer/outbox.ts';
import { IoOp } from '../src/primary/io-op.ts';
import { LateLocalWrites } from '../src/primary/late-local-writes.ts';
import { LocalMember, type LocalMemberOptions } from '../src/primary/local-member.ts';
import type { Member } from '../src/primary/member.ts';
import type { Segment } from '../src/primary/segment.ts';
import { WritePath, type WriteHooks } from '../src/primary/write-path.ts';
import type { GateSession } from '../src/replication/replica-gate.ts';

/** A local member whose store writes down what it is asked for. */
class Stage {
  readonly clock = new FakeClock();
  readonly outbox = new Outbox(this.clock);
  readonly log: string[] = [];
  readonly local: LocalMember;
  readonly late: LateLocalWrites;
  session = { alive: true };
  #sequence = 0;

  constructor() {
    const options = {
      ...{ replica: { id: 'r', nodeId: 'n', diskId: 'd' }, epoch: 1, holder: 'h' },
      ...{ clock: this.clock, buffers: new BufferPool(0) },
    };
    this.local = new LocalMember(options as unknown as LocalMemberOptions);
    this.open();
    this.late = new LateLocalWrites(
      this.clock,
      (op, sums) => {
        const { bytes, start, length } = op;
        if (!bytes) throw new Error('no bytes');
        const isRight = sums[0] === crc32(bytes.subarray(start, start + blockBytes));
        this.log.push(`write ${bytes[start] ?? -1} of ${length} ${isRight ? 'ok' : 'bad sum'}`);
        op.localPending = false;
      },
      () => {
        this.log.push('done');
      },
    );
  }

  open(): void {
    this.session = Object.assign(
      { alive: true },
      {
        store: {
          flush: () => this.log.push('flush'),
          writeInline: (offset: number) => this.log.push(`inline at ${offset}`) > 0,
          freeChunks: () => 100,
          failure: null,
        },
        tracked: (done: unknown) => done,
      },
    );
    this.local.session = this.session as unknown as GateSession;
  }

  /** An op that has been sent to others, of a client whose bytes change at once. */
  op(value: number, blocks = 1): IoOp {
    const length = blocks * blockBytes;
    const bytes = Buffer.alloc(length, value);
    const op = new IoOp(() => {});
    op.setRange('write', 0, length);
    op.bytes = bytes;
    op.sequence = ++this.#sequence;
    const sums = new Uint32Array(blocks).fill(crc32(bytes.subarray(0, blockBytes)));
    const frame = this.outbox.encodeWrite(0, 1, op.sequence, 0, length, bytes, 0, sums);
    op.keepFrame(frame, length);
    bytes.fill(0xee);
    return op;
  }
}

t.test('the others are sent to first, then all are written in their order', (t) => {
  const stage = new Stage();
  for (const value of [1, 2, 3]) {
    const op = stage.op(value, value);
    t.ok(stage.late.add(op, stage.local));
    t.ok(op.localPending, 'it is not acknowledged before');
    if (value === 1) stage.clock.endOfTurn(() => stage.log.push('end of turn'));
  }
  t.same(stage.log, []);
  stage.clock.runTurn();
  t.same(stage.log, [
    `write 1 of ${blockBytes} ok`,
    `write 2 of ${2 * blockBytes} ok`,
    `write 3 of ${3 * blockBytes} ok`,
    'done',
    'end of turn',
  ]);
  stage.late.add(stage.op(4), stage.local);
  stage.clock.runTurn();
  t.same(stage.log.slice(5), [`write 4 of ${blockBytes} ok`, 'done'], 'and again in the next turn');
  t.end();
});

t.test('any other call of the local replica finds them done', (t) => {
  const stage = new Stage();
  stage.late.add(stage.op(1), stage.local);
  stage.local.flush(() => {});
  t.same(stage.log, [`write 1 of ${blockBytes} ok`, 'done', 'flush']);
  stage.clock.runTurn();
  t.equal(stage.log.length, 3, 'once');
  t.end();
});

t.test('a fence ends them, also when the replica is open again at once (I2)', (t) => {
  for (const isOpenAgain of [false, true]) {
    const stage = new Stage();
    const op = stage.op(1);
    stage.late.add(op, stage.local);
    stage.session.alive = false;
    if (isOpenAgain) stage.open();
    stage.clock.runTurn();
    t.same(stage.log, ['done']);
    t.ok(op.localPending);
    t.equal(stage.late.add(stage.op(2), stage.local), isOpenAgain);
  }
  t.end();
});

t.test('those issued under a session that has ended are not written under the next', (t) => {
  const stage = new Stage();
  stage.late.add(stage.op(1), stage.local);
  stage.session.alive = false;
  stage.open();
  stage.late.add(stage.op(2), stage.local);
  stage.clock.runTurn();
  t.same(stage.log, ['done', `write 2 of ${blockBytes} ok`, 'done']);
  t.end();
});

t.test('an op that is over meanwhile is left alone, whatever it is used for now', (t) => {
  const stage = new Stage();
  const [over, again] = [stage.op(1), stage.op(2)];
  stage.late.add(over, stage.local);
  stage.late.add(again, stage.local);
  over.recycle(stage.outbox);
  again.recycle(stage.outbox);
  again.setRange('write', blockBytes, blockBytes);
  again.sequence = 99;
  again.localPending = true;
  stage.clock.runTurn();
  t.same(stage.log, ['done']);
  t.end();
});

t.test('one that the store fails drops the replica, and the rest is not written', (t) => {
  const stage = new Stage();
  const seen: number[] = [];
  const late = new LateLocalWrites(
    stage.clock,
    (op) => {
      seen.push(op.sequence);
      stage.session.alive = false;
    },
    () => {},
  );
  for (const value of [1, 2]) late.add(stage.op(value), stage.local);
  stage.clock.runTurn();
  t.same(seen, [1]);
  t.end();
});

t.test('what is not a small write is not for it', (t) => {
  const stage = new Stage();
  const zero = stage.op(1);
  zero.kind = 'zero';
  t.notOk(stage.late.add(zero, stage.local));
  const unsent = new IoOp(() => {});
  t.notOk(stage.late.add(unsent, stage.local));
  t.end();
});

/** A write path with one other replica, which has all that it is sent when the test says so. */
class Path {
  readonly stage = new Stage();
  readonly answered: number[] = [];
  readonly remote = {
    ...{ isOpen: true, ackedSequence: 0, unackedBytes: 0, availableChunks: 100 },
    ...{ space: null, credits: { spend: () => {} }, send: () => {} },
  };
  readonly path: WritePath;

  constructor(localIsRequired: boolean) {
    const { clock, outbox, local } = this.stage;
    const segment = {
      options: { clock, outbox, index: 0, channel: 1 },
      ...{ targets: [this.remote], required: [this.remote], local, localIsTarget: true },
      ...{ localIsRequired, membership: { holding: false }, regionUse: { touch: () => {} } },
      ...{ isHeld: false, stopped: false, leased: true, sequence: 0, sizeBytes: 2 ** 30 },
      ...{ rule: { writes: 'start', acknowledges: true }, syncing: new Set<Member>() },
    };
    const hooks = {
      answer: (op: IoOp) => this.answered.push(op.offset),
      recycle: (op: IoOp) => {
        op.recycle(outbox);
      },
    };
    this.path = new WritePath(segment as unknown as Segment, hooks as unknown as WriteHooks);
  }

  /** The first of a turn is written at once, the others wait for its end. */
  write(count: number): void {
    for (let i = 0; i < count; i++) {
      const op = new IoOp(() => {});
      op.setRange('write', i * blockBytes, blockBytes);
      op.bytes = Buffer.alloc(blockBytes, 1);
      this.path.start(op);
    }
  }
}

for (const localIsRequired of [true, false]) {
  const who = localIsRequired ? 'must have it' : 'is being filled';
  t.test(`the others have a write before the turn ends, and this node ${who}`, (t) => {
    const each = new Path(localIsRequired);
    const { stage, path, remote, answered } = each;
    each.write(2);
    t.same(stage.log, ['inline at 0'], 'the second one waits');
    remote.ackedSequence = 2;
    path.pump();
    t.same(stage.log, ['inline at 0', `inline at ${blockBytes}`], 'no replica misses it');
    t.same(answered, [0, blockBytes], 'it is acknowledged, though nothing comes any more');
    stage.clock.runTurn();
    t.equal(stage.log.length, 2, 'once');
    t.end();
  });
}

t.test('room that was kept for writes that a fence ended is free again', (t) => {
  const each = new Path(true);
  const { stage } = each;
  each.write(3);
  t.equal(stage.local.availableChunks, 98);
  stage.session.alive = false;
  stage.clock.runTurn();
  t.equal(stage.local.availableChunks, 100);
  t.end();
});
