import { runSuite, type Suite } from '../../harness/run-suite.ts';
import type { ControlStage } from './stage.ts';

/** Membership changes, crashes and cuts while values are proposed, by the real core of Raft. */
const membership: Suite[] = [
  {
    name: 'Raft from seeds: members change under load, nothing committed is lost',
    files: ['packages/raft-ts/test/simulation.test.ts'],
    env: { RAFT_SEEDS: process.env['STOR_SEEDS'] ?? '1000' },
  },
];

const placement: Suite[] = [
  {
    name: 'placement beside exhaustive search, random clusters',
    files: ['packages/control-plane/test/placement.test.ts'],
  },
  {
    name: 'mending of what lies wrong, random clusters',
    files: ['packages/control-plane/test/placement-keeper.test.ts'],
  },
];

const etcd: Suite[] = [
  {
    name: 'etcd as cluster store: the suite that the embedded one passes',
    files: [
      'packages/control-plane/test/embedded-compliance.test.ts',
      'packages/control-plane/test/etcd-compliance.test.ts',
    ],
  },
  {
    name: 'etcd as cluster store: linearizable while it stops and restarts',
    files: ['packages/control-plane/test/etcd-linearizability.test.ts'],
    env: { STOR_ETCD_OPERATIONS: '400' },
  },
  {
    name: 'agents on etcd, and a store that moves under I/O',
    files: ['test/e2e/etcd-store.test.ts', 'test/e2e/migrate-store.test.ts'],
  },
];

const badInput: Suite[] = [
  {
    name: 'every verb on bad input: message and exit code',
    files: ['packages/cli/test/every-verb.test.ts', 'test/e2e/bad-input.test.ts'],
  },
];

/** Parts that are test files, some of them with more seeds than in CI. */
export const suites = {
  membership: partOf(membership),
  placement: partOf(placement),
  etcd: partOf(etcd),
  'bad-input': partOf(badInput),
};

function partOf(list: readonly Suite[]): (stage: ControlStage) => Promise<void> {
  return async (stage) => {
    for (const suite of list) await runSuite(stage.report, suite);
  };
}
