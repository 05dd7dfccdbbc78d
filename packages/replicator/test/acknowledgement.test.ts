import fc from 'fast-check';
import t from 'tap';

import { decideWrites, explainRule } from '../src/core/replication/acknowledgement.ts';

const modes = ['hard', 'soft', 'threshold=1', 'threshold=2', 'threshold=5', 'alwayson'] as const;

/** DESIGN "Failure modes" as it is written there. */
function needed(mode: (typeof modes)[number], replicas: number): number {
  if (mode === 'hard') return replicas;
  if (mode === 'soft') return replicas > 1 ? replicas - 1 : 1;
  if (mode === 'alwayson') return 1;
  const threshold = Number(mode.slice(-1));
  return threshold > replicas ? replicas : threshold;
}

t.test('writes start when as many members are in sync as the failure mode says', async () => {
  const view = fc
    .record({
      committed: fc.integer({ min: 1, max: 5 }),
      away: fc.integer({ min: 0, max: 5 }),
      recording: fc.boolean(),
    })
    .map(({ committed, away, recording }) => {
      const inSync = Math.max(0, committed - away);
      return { committed, inSync, changing: recording || away > 0, allAway: inSync === 0 };
    });
  fc.assert(
    fc.property(
      view,
      fc.constantFrom(...modes),
      fc.constantFrom('suspend' as const, 'error' as const),
      fc.integer({ min: 1, max: 5 }),
      (view, failureMode, onLoss, replicas) => {
        const rule = decideWrites(view, { failureMode, onLoss }, replicas);
        const enough = view.inSync >= needed(failureMode, replicas);
        if ((rule.writes === 'start') !== (enough && !view.changing)) return false;
        // with suspend nothing is ever refused; with error nothing waits for members to come back
        if (onLoss === 'suspend' && (rule.writes === 'refuse' || rule.refusesReads)) return false;
        if (onLoss === 'error' && rule.writes === 'park') return false;
        // reads go on while anybody is there
        if (rule.refusesReads && !view.allAway) return false;
        // too few can have it: never acknowledged
        if (rule.acknowledges && view.committed < needed(failureMode, replicas)) return false;
        const reason = explainRule(rule, view, { failureMode, onLoss }, replicas, []);
        return (reason === '') === (rule.writes === 'start');
      },
    ),
  );
});

t.test('the reason says what is there, what is needed and who is missing', async (t) => {
  const policy = { failureMode: 'soft', onLoss: 'suspend' } as const;
  const view = { committed: 1, inSync: 1, changing: false, allAway: false };
  const rule = decideWrites(view, policy, 3);
  t.equal(
    explainRule(rule, view, policy, 3, ['r-1 on n-1', 'r-2 on n-2']),
    '1 of 3 replicas is in sync and failure mode soft needs 2 (missing: r-1 on n-1, r-2 on n-2): ' +
      'writes wait until enough are in sync again, reads go on',
  );
});
