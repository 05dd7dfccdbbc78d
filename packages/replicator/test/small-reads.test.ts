/** Reads that wait for the disk: what keeps them from holding up others, and what they must not lose. */
import { type FileDone, type OpenFile, systemClock } from '@stor/runtime';
import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { AnswerPace, answersPerTurn, turnsForMemory } from '../src/store/answer-pace.ts';
import { IoPool } from '../src/store/io-pool.ts';
import { blockBytes, chunkBytes, identity, openStore, read, write } from './store-fixture.ts';

/** Turns that end when the test says so. */
class Turns {
  readonly #ends: (() => void)[] = [];

  endOfTurn(fn: () => void): void {
    this.#ends.push(fn);
  }

  /** False when nothing waited for it. */
  end(): boolean {
    const ends = this.#ends.splice(0);
    for (const fn of ends) fn();
    return ends.length > 0;
  }
}

t.test('alone on the lane an answer is handled when it comes', (t) => {
  const pace = new AnswerPace(new Turns(), () => false);
  t.notOk(pace.isNeeded);
  t.end();
});

t.test('beside others a few answers are handled in a turn, in their order', (t) => {
  const turns = new Turns();
  const pace = new AnswerPace(turns, () => true);
  const handled: number[] = [];
  const give = (number: number): void => {
    pace.later(() => {
      handled.push(number);
      // what the handling brings comes after all that waits
      if (number === 0) give(100);
    });
  };
  t.ok(pace.isNeeded);
  for (let number = 0; number < 5; number++) give(number);
  t.same(handled, [], 'none before the sockets of the turn have been read');
  turns.end();
  t.equal(handled.length, answersPerTurn);
  for (let seen = handled.length; turns.end(); seen = handled.length) {
    t.ok(handled.length - seen <= answersPerTurn);
  }
  t.same(handled, [0, 1, 2, 3, 4, 100]);
  t.notOk(turns.end(), 'no turn is waited for any more');
  give(7);
  t.ok(turns.end(), 'and it begins again');
  t.equal(handled.at(-1), 7);
  t.end();
});

t.test('answers and requests served from memory take turns, for as long as these come', (t) => {
  const turns = new Turns();
  const pace = new AnswerPace(turns, () => true);
  let handled = 0;
  for (let i = 0; i < 200; i++) pace.later(() => (handled += 1));
  const handledIn = (most: number): number => {
    const before = handled;
    for (let i = 0; i < most; i++) turns.end();
    return handled - before;
  };
  t.equal(handledIn(5), 5 * answersPerTurn, 'nobody else is there');
  for (let i = 0; i < 5; i++) {
    pace.served();
    t.equal(handledIn(turnsForMemory), answersPerTurn, 'one for one');
  }
  handledIn(turnsForMemory);
  t.equal(handledIn(5), 5 * answersPerTurn, 'no other came in time');
  pace.served();
  t.equal(handledIn(2), answersPerTurn, 'and it begins again');
  t.end();
});

t.test('who has the lane for himself again gets all that waits at once', (t) => {
  const turns = new Turns();
  let isShared = true;
  const pace = new AnswerPace(turns, () => isShared);
  let handled = 0;
  for (let i = 0; i < 50; i++) pace.later(() => (handled += 1));
  pace.served();
  isShared = false;
  t.ok(pace.isNeeded, 'none overtakes those that wait');
  turns.end();
  t.equal(handled, 50);
  t.notOk(pace.isNeeded);
  t.end();
});

t.test('a read keeps its place in the pool until its answer is handled', (t) => {
  const turns = new Turns();
  const begun: FileDone[] = [];
  const file = {
    read: (...given: [Uint8Array, number, number, number, FileDone]) => begun.push(given[4]),
  } as unknown as OpenFile;
  const pool = new IoPool(2, new AnswerPace(turns, () => true));
  let answered = 0;
  for (let i = 0; i < 5; i++) {
    pool.readSmall(file, new Uint8Array(1), 0, 1, i, () => (answered += 1));
  }
  t.equal(begun.length, 2);
  for (const done of begun) done(null);
  t.equal(begun.length, 2, 'the disk is done with two, nobody else is');
  turns.end();
  t.equal(answered, answersPerTurn);
  t.equal(begun.length, 2 + answersPerTurn);
  t.end();
});

t.test(
  'all reads of a disk on a shared lane are answered, and closing waits for them',
  async (t) => {
    const files = new FaultyFiles({ seed: 3 });
    const options = { isLaneShared: () => true, maxPooledCalls: 4 };
    const store = await openStore('/disk', files.process(), { options, clock: systemClock });
    const replica = await store.createReplica(identity);
    const chunks = 6;
    for (let i = 0; i < chunks; i++) await write(replica, i * chunkBytes, chunkBytes, i + 1);
    const reads = Array.from({ length: 30 }, (_, i) => {
      // one chunk was never written
      const chunk = i % (chunks + 1);
      const length = (1 + (i % 3)) * blockBytes;
      return { value: (chunk + 1) % (chunks + 1), done: read(replica, chunk * chunkBytes, length) };
    });
    const closing = store.close();
    for (const { value, done } of reads) t.same(new Set(await done), new Set([value]));
    await closing;
  },
);
