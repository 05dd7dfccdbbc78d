import fc from 'fast-check';
import t from 'tap';
import {
  isLinearizable,
  registerModel,
  type CalledOperation,
  type RegisterOperation,
} from '../src/testing/index.ts';

type Called = CalledOperation<RegisterOperation>;

const at = (operation: RegisterOperation, calledAt: number, returnedAt: number): Called => ({
  operation,
  calledAt,
  returnedAt,
});
const put = (value: string, from: number, to: number): Called =>
  at({ type: 'write', value }, from, to);
const get = (seen: string | null, from: number, to: number): Called =>
  at({ type: 'read', seen }, from, to);
const set = (
  expected: string | null,
  value: string,
  succeeded: boolean | null,
  [from, to]: [number, number],
): Called => at({ type: 'compareAndSet', expected, value, succeeded }, from, to);

const check = (history: Called[]): boolean | null => isLinearizable(history, registerModel);

t.test('the checker knows right from wrong', async (t) => {
  t.ok(check([]));
  t.ok(check([put('1', 1, 2), get('1', 3, 4)]));
  t.notOk(check([put('1', 1, 2), get(null, 3, 4)]), 'a stale read');
  t.ok(check([put('1', 1, 4), get(null, 2, 3)]), 'both at once');
  t.notOk(check([put('1', 1, 9), get('1', 2, 3), get(null, 4, 5)]), 'there and back');
  t.ok(check([put('1', 1, Infinity), get(null, 2, 3), get('1', 4, 5)]), 'late');
  t.ok(check([put('1', 1, Infinity), get(null, 2, 3)]), 'never');
  t.notOk(check([put('1', 1, 2), put('2', 3, 4), get('1', 5, 6)]), 'a lost write');
  t.notOk(check([get('1', 1, 2), put('1', 3, 4)]), 'before it was written');
  t.notOk(check([set(null, 'a', true, [0, 1]), set(null, 'b', true, [0, 1])]), 'both cannot win');
  t.ok(check([set(null, 'a', true, [0, 1]), set(null, 'b', false, [0, 1])]));
  const unknown = set('a', 'c', null, [2, Infinity]);
  t.ok(check([put('a', 0, 1), unknown, get('a', 3, 4), get('c', 5, 6)]), 'it may come late');
  t.notOk(check([put('a', 0, 1), unknown, put('b', 3, 4), get('c', 5, 6)]), 'but not then');
  t.notOk(check([unknown, get('c', 5, 6)]));
});

/** Tries every order. */
function stupid(history: Called[], state = registerModel.initial): boolean {
  if (history.every(({ returnedAt }) => returnedAt === Infinity)) return true;
  const firstReturn = Math.min(...history.map(({ returnedAt }) => returnedAt));
  return history.some((call) => {
    if (call.calledAt > firstReturn) return false;
    const next = registerModel.step(state, call.operation);
    return (
      next !== null &&
      stupid(
        history.filter((other) => other !== call),
        next,
      )
    );
  });
}

const value = fc.constantFrom('a', 'b');
const seen = fc.option(value);
const anOperation = fc.oneof(
  fc.record({ type: fc.constant('read' as const), seen }),
  fc.record({ type: fc.constant('write' as const), value }),
  fc.record({
    type: fc.constant('compareAndSet' as const),
    expected: seen,
    value,
    succeeded: fc.boolean(),
  }),
);
const aCall = fc
  .record({ operation: anOperation, calledAt: fc.nat(12), took: fc.nat(6), isLost: fc.nat(5) })
  .map(({ operation, calledAt, took, isLost }): Called => {
    const isUnknown = isLost === 0 && operation.type !== 'read';
    if (isUnknown && operation.type === 'compareAndSet') operation.succeeded = null as never;
    return at(operation, calledAt, isUnknown ? Infinity : calledAt + took);
  });

t.test('it says the same as trying every order', async (t) => {
  let right = 0;
  fc.assert(
    fc.property(fc.array(aCall, { maxLength: 6 }), (history) => {
      const expected = stupid(history);
      if (expected) right++;
      return check(history) === expected;
    }),
    { numRuns: 3000 },
  );
  t.ok(right > 300 && right < 2900, 'of both kinds');
});

t.test('a long history is cheap, and one that is too hard is given up', async (t) => {
  const long = Array.from({ length: 3000 }, (_, i) => [
    put(String(i), 4 * i, 4 * i + 3),
    get(String(i), 4 * i + 1, 4 * i + 5),
  ]).flat();
  t.ok(check(long));
  const puts = Array.from({ length: 22 }, (_, i) => put(String(i), 0, 100));
  const impossible = [...puts, get('none of them', 50, 60)];
  t.equal(isLinearizable(impossible, registerModel, 10_000), null);
});
