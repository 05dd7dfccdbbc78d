import fc from 'fast-check';
import t from 'tap';
import {
  changePolicy,
  defaultPolicy,
  maxIoTimeoutMs,
  maxReplicas,
  membersNeeded,
  parseFailureMode,
} from '../src/index.ts';
import type { FailureMode } from '../src/index.ts';

t.test('how many members each mode needs', async (t) => {
  const table: [FailureMode, number[]][] = [
    // for 1, 2, 3, 4 and 5 replicas
    ['hard', [1, 2, 3, 4, 5]],
    ['soft', [1, 1, 2, 3, 4]],
    ['alwayson', [1, 1, 1, 1, 1]],
    ['threshold=2', [1, 2, 2, 2, 2]],
    ['threshold=5', [1, 2, 3, 4, 5]],
  ];
  for (const [mode, needed] of table) {
    t.same(
      needed.map((_, i) => membersNeeded(mode, i + 1)),
      needed,
      mode,
    );
  }
  fc.assert(
    fc.property(
      fc.oneof(
        fc.constantFrom('hard', 'soft', 'alwayson'),
        fc.string(),
        fc.nat().map((n) => `threshold=${n}`),
      ),
      fc.integer({ min: 1, max: maxReplicas }),
      (text, replicas) => {
        const mode = parseFailureMode(text);
        if (mode === null) return true;
        const needed = membersNeeded(mode, replicas);
        return needed >= 1 && needed <= replicas && parseFailureMode(mode) === mode;
      },
    ),
  );
});

t.test('what is no failure mode', async (t) => {
  for (const text of [
    '',
    'Hard',
    'threshold',
    'threshold=',
    'threshold=0',
    'threshold=6',
    'threshold=2 ',
  ]) {
    t.equal(parseFailureMode(text), null, text);
  }
  t.equal(parseFailureMode(`threshold=${maxReplicas}`), `threshold=${maxReplicas}`);
});

t.test('changes of a policy', async (t) => {
  const policy = defaultPolicy(3);
  t.match(policy, {
    failureMode: 'soft',
    onLoss: 'suspend',
    ioTimeoutMs: 0,
    unflushedLoss: 'wait',
  });
  t.equal(defaultPolicy(1).failureMode, 'alwayson');
  t.same(changePolicy(policy, {}), policy);
  t.same(changePolicy(policy, { shared: true }), { ...policy, shared: true });
  const absent = { shared: undefined } as object;
  t.same(changePolicy(policy, absent), policy, 'what is absent stays');
  t.equal(changePolicy(policy, { ioTimeoutMs: maxIoTimeoutMs }).ioTimeoutMs, maxIoTimeoutMs);
  const wrong: [object, RegExp][] = [
    [{ failureMode: 'some' }, /failure mode "some" is none: use hard, soft/],
    [{ onLoss: 'hang' }, /on-loss "hang" is none: use suspend or error/],
    [{ unflushedLoss: 'yes' }, /unflushed-loss "yes" is none/],
    [{ ioTimeoutMs: 0.5 }, /io-timeout of 0.5 ms is out of range/],
    [{ ioTimeoutMs: maxIoTimeoutMs + 1 }, /io-timeout .* use 0 to 24 h/],
    [{ replacementWaitMs: -1 }, /replacement-wait of -1 ms is out of range/],
  ];
  for (const [change, message] of wrong) {
    t.throws(() => changePolicy(policy, change), { code: 'INVALID_ARGUMENT', message });
  }
});
