import t, { type Test } from 'tap';
import { StorError } from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import { RollbackGate, type GateUser, type RollbackOrder } from '../src/exports/rollback-gate.ts';

class User implements GateUser {
  isHeld = false;
  hold(): void {
    this.isHeld = true;
  }
  resume(): void {
    this.isHeld = false;
  }
}

class Primary {
  readonly rolledBackTo: string[] = [];
  /** seen when it is rolled back */
  onRollback: () => Promise<void> | void = () => {};
  idle = (): Promise<void> => Promise.resolve();
  rollback = async (id: string): Promise<void> => {
    await this.onRollback();
    this.rolledBackTo.push(id);
  };
}

function setUp(t: Test, rollback?: { id: string }) {
  const clock = new FakeClock();
  const grant = { name: 'db', resourceVersion: 10, ...(rollback ? { rollback } : {}) };
  const gate = new RollbackGate(grant, clock);
  const primary = new Primary();
  const users: User[] = [];
  const order = (id: string, version: number, force = false): Promise<void> => {
    const asked: RollbackOrder = { type: 'rollback', id, version, snapshotId: `to-${id}`, force };
    return gate.carryOut(primary as unknown as PrimaryVolume, asked, () => users);
  };
  const refused = (promise: Promise<void>, code: string, untouched: boolean): Promise<unknown> =>
    t.rejects(promise, { code, details: untouched ? { untouched: 'true' } : {} });
  return { clock, gate, primary, users, order, refused };
}

t.test('clients wait from before it begins until the record says that it is over', async (t) => {
  const { gate, primary, users, order } = setUp(t);
  const user = new User();
  users.push(user);
  primary.onRollback = () => {
    t.ok(user.isHeld, 'reads too');
    t.ok(gate.isClosed, 'who comes meanwhile waits');
  };
  await order('g-1', 12, true);
  t.same(primary.rolledBackTo, ['to-g-1']);
  t.ok(user.isHeld && gate.isClosed, 'the record names it still: another primary would repeat it');
  gate.update({ resourceVersion: 11 });
  t.ok(gate.isClosed, 'what is older than the order says nothing');
  gate.update({ resourceVersion: 12, rollback: { id: 'g-1' } });
  t.ok(gate.isClosed);
  gate.update({ resourceVersion: 13 });
  t.notOk(user.isHeld || gate.isClosed);
  await gate.opened;
});

t.test('an order that comes late does not undo what was written since', async (t) => {
  const { gate, primary, order, refused } = setUp(t);
  await order('g-1', 12);
  await order('g-1', 12);
  t.same(primary.rolledBackTo, ['to-g-1', 'to-g-1'], 'nobody was served in between');
  gate.update({ resourceVersion: 13 });
  await refused(order('g-1', 12), 'ABORTED', false);
  await order('g-2', 14);
  await refused(order('g-1', 12), 'ABORTED', false);
  t.same(primary.rolledBackTo.at(-1), 'to-g-2');
});

t.test('one that waited for another is looked at again', async (t) => {
  const { gate, primary, order, refused } = setUp(t);
  let release = (): void => {};
  primary.onRollback = () =>
    new Promise((resolve) => {
      release = resolve;
    });
  const first = order('g-1', 12);
  const second = order('g-1', 12);
  for (let i = 0; i < 20; i++) await Promise.resolve();
  gate.update({ resourceVersion: 13 });
  t.ok(gate.isClosed, 'not while it is carried out');
  primary.onRollback = () => {};
  release();
  await first;
  await refused(second, 'ABORTED', false);
  t.notOk(gate.isClosed);
  t.same(primary.rolledBackTo, ['to-g-1']);
});

t.test('a refusal holds for its order, whatever changes', async (t) => {
  const { gate, primary, users, order, refused } = setUp(t);
  users.push(new User());
  await refused(order('g-1', 12), 'FAILED_PRECONDITION', true);
  users.pop();
  await refused(order('g-1', 12), 'FAILED_PRECONDITION', true);
  t.same(primary.rolledBackTo, []);
  t.ok(gate.isClosed, 'until it is recorded');
  gate.update({ resourceVersion: 13 });
  t.notOk(gate.isClosed);
  primary.onRollback = () => {
    throw new StorError('NOT_FOUND', 'no such snapshot');
  };
  await refused(order('g-2', 14), 'NOT_FOUND', true);
});

t.test('what has begun is never called untouched', async (t) => {
  const { primary, order, refused } = setUp(t);
  primary.onRollback = () => {
    throw new StorError('UNAVAILABLE', 'half of it');
  };
  await refused(order('g-1', 12), 'UNAVAILABLE', false);
  primary.onRollback = () => {
    throw new StorError('NOT_FOUND', 'the other half has no such snapshot');
  };
  await refused(order('g-1', 12), 'NOT_FOUND', false);
  const later = setUp(t, { id: 'g-1' });
  t.ok(later.gate.isClosed, 'a primary that comes later begins so');
  later.primary.onRollback = () => {
    throw new StorError('NOT_FOUND', 'no such snapshot');
  };
  await later.refused(later.order('g-1', 10), 'NOT_FOUND', false);
  later.primary.onRollback = () => {};
  await later.order('g-1', 10);
  later.gate.update({ resourceVersion: 11 });
  t.notOk(later.gate.isClosed);
});

t.test('requests that are not answered keep it from beginning', async (t) => {
  const { clock, gate, primary, users, order, refused } = setUp(t);
  const user = new User();
  users.push(user);
  primary.idle = () => new Promise(() => {});
  const waiting = refused(order('g-1', 12, true), 'TIMEOUT', true);
  for (let i = 0; i < 20; i++) await Promise.resolve();
  clock.advance(5_000);
  await waiting;
  gate.update({ resourceVersion: 13 });
  t.notOk(user.isHeld);
});

t.test('who waits is let go when the primary ends', async (t) => {
  const { gate } = setUp(t, { id: 'g-1' });
  gate.end();
  await gate.opened;
  t.notOk(gate.isClosed);
});
