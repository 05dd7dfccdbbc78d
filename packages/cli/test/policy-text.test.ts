import fc from 'fast-check';
import t from 'tap';
import { defaultPolicy, membersNeeded } from '@stor/protocol';
import type { FailureMode, Volume } from '@stor/protocol';
import { formatWait, parsePolicyTimeMs } from '../src/core/duration.ts';
import { shapeChanges, shapeRisks } from '../src/core/policy-text.ts';
import { formatEta, progressBar, rebuildFraction } from '../src/core/rebuild-text.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { fakeVolume } from './support/fake-volume.ts';
import { fakeRebuild } from './support/scenes.ts';

const modes: FailureMode[] = ['hard', 'soft', 'alwayson', 'threshold=2', 'threshold=4'];

function volumeOf(replicas: number, failureMode: FailureMode, away: number): Volume {
  const { nodes } = new FakeCluster(5);
  const request = { name: 'db', sizeBytes: 4096, replicas, labels: {}, policy: { failureMode } };
  const volume = fakeVolume(1, request, nodes);
  for (const replica of volume.status.replicas.slice(0, away)) replica.state = 'out-of-sync';
  return volume;
}

t.test('times of policies are read and written without loss', async (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 30 * 86_400_000 }), (ms) => {
      t.equal(parsePolicyTimeMs('--io-timeout', formatWait(ms), 30 * 86_400_000), ms);
    }),
  );
  t.equal(formatWait(90_000), '90s');
  t.equal(formatWait(7_200_000), '2h');
  t.equal(parsePolicyTimeMs('--io-timeout', 'none', 1), 0);
  t.equal(parsePolicyTimeMs('--io-timeout', '2', 10_000), 2000);
  for (const wrong of ['', '-1s', '1w', '1s1', '11s', 'NaN']) {
    t.throws(() => parsePolicyTimeMs('--io-timeout', wrong, 10_000), /--io-timeout .* not valid/);
  }
});

t.test('a change that makes I/O wait is a risk, and only that', async (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 5 }),
      fc.constantFrom(...modes),
      fc.integer({ min: 0, max: 4 }),
      fc.integer({ min: 2, max: 5 }),
      fc.constantFrom(...modes),
      (replicas, mode, awayWanted, replicasAfter, modeAfter) => {
        const away = Math.min(awayWanted, replicas - 1);
        const volume = volumeOf(replicas, mode, away);
        const policy = { ...volume.spec.policy, failureMode: modeAfter };
        const risks = shapeRisks(volume, { replicas: replicasAfter, policy });
        // By the definition: acknowledged before with what is in sync, and not so afterwards.
        const inSync = replicas - away;
        const wasServed = inSync >= membersNeeded(mode, replicas);
        const isServed = Math.min(inSync, replicasAfter) >= membersNeeded(modeAfter, replicasAfter);
        if (wasServed && !isServed) t.match(risks.join(), /would need \d replicas in sync/);
        if (isServed) t.notMatch(risks.join(), /would need/);
      },
    ),
  );
});

t.test('risks in words', async (t) => {
  const one = (mode: FailureMode, replicas: number, onLoss: 'suspend' | 'error' = 'suspend') => {
    const volume = volumeOf(3, 'soft', 1);
    const policy = { ...volume.spec.policy, failureMode: mode, onLoss };
    return shapeRisks(volume, { replicas, policy });
  };
  t.same(one('soft', 3), []);
  t.same(one('alwayson', 2), []);
  t.same(one('soft', 1), ['with 1 replica the loss of its disk is the loss of the volume']);
  t.same(one('hard', 3), [
    'hard would need 3 replicas in sync and 2 are: the volume holds writes at once',
  ]);
  t.same(one('hard', 3, 'error'), [
    'hard would need 3 replicas in sync and 2 are: the volume answers writes with errors at once',
  ]);
  t.same(one('soft', 5), [
    'soft would need 4 replicas in sync and 2 are: the volume holds writes until the new ones are filled',
  ]);
  t.same(one('threshold=4', 2), [
    'threshold=4 is more than 2 replicas, so all of them are needed: the loss of any one holds writes',
  ]);
  const leaving = volumeOf(3, 'soft', 0);
  for (const replica of leaving.status.replicas) replica.leaving = true;
  t.match(
    shapeRisks(leaving, { replicas: 3, policy: { ...defaultPolicy(3), failureMode: 'hard' } }),
    [/needs? 3 replicas in sync and 0 are/],
    'those that are to go do not count',
  );
});

t.test('what changed', async (t) => {
  const policy = defaultPolicy(3);
  const shape = { replicas: 3, policy };
  t.same(shapeChanges(shape, shape), []);
  t.same(
    shapeChanges(shape, {
      replicas: 2,
      policy: { ...policy, ioTimeoutMs: 500, rebuildPaused: true },
    }),
    [
      ['replicas', '3 -> 2'],
      ['I/O timeout', 'none -> 500ms'],
      ['rebuild paused', 'no -> yes'],
    ],
  );
});

t.test('a bar is as wide as any other and full only at the end', async (t) => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1, noNaN: true }), (fraction) => {
      const bar = progressBar(fraction);
      t.equal(bar.length, 27);
      t.equal(/^\[={20}\] 100%$/.test(bar), fraction === 1);
    }),
  );
  t.equal(progressBar(0), '[                    ]   0%');
  t.equal(progressBar(0.5), '[=========>          ]  50%');
  t.equal(progressBar(null), '');
  t.equal(rebuildFraction(fakeRebuild({ bytesTotal: 0, bytesRemaining: 0 })), null);
  t.equal(rebuildFraction(fakeRebuild({ bytesTotal: 10, bytesRemaining: 20 })), 0);
  t.same(
    [formatEta(null), formatEta(0), formatEta(1), formatEta(61_000)],
    ['', '0s', '1s', '1m1s'],
  );
});
