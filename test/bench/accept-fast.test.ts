import t from 'tap';
import { judge } from '../../benchmarks/src/accept/fast/judge.ts';
import { coldHotWorkloads } from '../../benchmarks/src/accept/fast/cold-hot.ts';
import {
  readRecordedPeers,
  recordedRatio,
  type RecordedPeer,
} from '../../benchmarks/src/accept/fast/recorded.ts';
import {
  groups,
  systemsOf,
  targets,
  workloadsOf,
} from '../../benchmarks/src/accept/fast/targets.ts';
import { verdictLines } from '../../benchmarks/src/accept/fast/verdict-table.ts';
import {
  emptyResult,
  nextRound,
  withPiece,
  type Piece,
} from '../../benchmarks/src/matrix/results-file.ts';
import { resultTable } from '../../benchmarks/src/matrix/result-table.ts';
import { estimateSeconds } from '../../benchmarks/src/matrix/run-piece.ts';
import { systemsNamed } from '../../benchmarks/src/matrix/systems.ts';
import type { Figures, Sample } from '../../benchmarks/src/measure/rounds.ts';
import { workloadById, workloadsLike } from '../../benchmarks/src/measure/workloads.ts';

function sample(
  server: string,
  workload: string,
  round: number,
  figures: Partial<Figures>,
): Sample {
  const rest = { iops: 1_000, bytesPerSecond: 4_096_000, p50Us: 10, p99Us: 20, p999Us: 30 };
  const use = { cpuUsPerIo: 5, clientCpuUsPerIo: 1, residentBytes: 1_048_576 };
  return { server, workload, round, ...rest, ...use, ...figures };
}

const qd32 = workloadById('write-qd32').name;
const flush = workloadById('write-flush').name;
const three = targets.filter(({ group }) => group === 'three-replicas');
const iopsOf = (workload: string, group = three) =>
  group.find((target) => target.workload === workload && target.figure === 'iops');
const cpu = three.find(({ figure }) => figure === 'cpuUsPerIo');

const longhorn: RecordedPeer = {
  ...{ name: 'longhorn', date: '', source: '', acknowledges: '', beside: 'qemu-nbd' },
  measured: { 'write-qd32': { iops: 10_000, cpuUsPerIo: 200 } },
  measuredBeside: {
    'write-qd32': [
      { iops: 50_000, cpuUsPerIo: 40 },
      { iops: 20_000, cpuUsPerIo: 100 },
    ],
  },
};

t.test('the fastest peer counts, also one that is only recorded', async (t) => {
  const target = iopsOf('write-qd32');
  if (!target) return;
  const samples = [1, 2, 3].flatMap((round) => [
    sample('stor-3', qd32, round, { iops: 80_000 }),
    sample('qemu-quorum', qd32, round, { iops: 16_000 }),
    sample('gluster', qd32, round, { iops: 4_000 }),
    sample('qemu-nbd', qd32, round, { iops: 40_000, cpuUsPerIo: 90 }),
  ]);
  const without = judge(target, samples, []);
  t.match(without, { peer: 'qemu-quorum', isMet: true, isAimMet: false, ratio: { ofMedians: 5 } });
  t.same(without?.missing, ['qemu-quorum-fifo', 'ceph', 'longhorn']);
  // half of 40,000 is more than 16,000
  const verdict = judge(target, samples, [longhorn]);
  t.match(verdict, {
    peer: 'longhorn',
    isMet: true,
    ratio: { ofMedians: 4, theirs: 20_000, rounds: 3 },
  });
  t.same(
    verdict?.all.map(({ peer }) => peer),
    ['longhorn', 'qemu-quorum', 'gluster'],
  );
  t.equal(judge(target, samples.slice(0, 1), [longhorn]), null, 'nothing to compare with');
});

t.test(
  'of several records the one counts that was made beside a server in the same state',
  async (t) => {
    const ratio = (cpuUs: number) => recordedRatio(longhorn, 'write-qd32', 'iops', cpuUs);
    t.same([ratio(30), ratio(60), ratio(65), ratio(200)], [0.2, 0.2, 0.5, 0.5]);
    t.equal(recordedRatio(longhorn, 'write-qd32', 'cpuUsPerIo', 50), 5);
    t.equal(recordedRatio(longhorn, 'write-flush', 'iops', 50), null);
  },
);

t.test('of CPU time the thriftiest peer counts, and less is better', async (t) => {
  const samples = [
    sample('stor-3', qd32, 1, { cpuUsPerIo: 20 }),
    sample('qemu-quorum', qd32, 1, { cpuUsPerIo: 250 }),
    sample('gluster', qd32, 1, { cpuUsPerIo: 110 }),
    sample('ceph', qd32, 1, { cpuUsPerIo: 1_000 }),
  ];
  const verdict = cpu ? judge(cpu, samples, []) : null;
  t.match(verdict, { peer: 'gluster', isMet: true });
  const more = samples.map((s) => (s.server === 'stor-3' ? { ...s, cpuUsPerIo: 23 } : s));
  t.match(cpu ? judge(cpu, more, []) : null, { isMet: false });
});

t.test("write + FLUSH stands beside Ceph's plain write, and not beside Longhorn", async (t) => {
  const target = three.find(({ workload }) => workload === 'write-flush');
  const samples = [
    sample('stor-3', flush, 1, { iops: 1_500 }),
    sample('gluster', flush, 1, { iops: 700 }),
    sample('ceph', flush, 1, { iops: 600 }),
    sample('ceph', workloadById('write-qd1').name, 1, { iops: 1_200 }),
    sample('qemu-nbd', flush, 1, { iops: 3_000 }),
  ];
  t.match(target ? judge(target, samples, readRecordedPeers()) : null, {
    peer: 'ceph',
    isMet: false,
    ratio: { ofMedians: 1.25 },
  });
  t.ok(workloadsOf('three-replicas').includes('write-qd1'));
});

t.test('lines say whether a promise is missed, met, or met beyond the must', async (t) => {
  const one = (iops: number) =>
    verdictLines(
      [sample('stor-1', qd32, 1, { iops, p999Us: 99 }), sample('nbdkit', qd32, 1, { iops: 100 })],
      [],
    );
  t.match(one(179), [{ isMet: false, isAimMet: false, value: '1.79×', must: '≥ 1.8×' }, {}]);
  t.match(one(181)[0], { isMet: true, isAimMet: false, aim: '≥ 3×' });
  t.match(one(300), [
    { isMet: true, isAimMet: true },
    { value: '9.9×', isMet: true },
  ]);
  const tail = verdictLines([sample('stor-3', qd32, 1, { p50Us: 10, p999Us: 100 })], []);
  t.match(tail, [{ group: 'latency', isMet: false }]);
});

t.test('a hot volume beside a cold one', async (t) => {
  const lines = (iops: number, p99Us: number) =>
    verdictLines(
      [
        sample('stor-1', coldHotWorkloads.alone, 1, { iops: 10_000 }),
        sample('stor-1', coldHotWorkloads.beside, 1, { iops, p99Us }),
        sample('stor-1', coldHotWorkloads.cold, 1, {}),
      ],
      [],
    ).map(({ value, isMet }) => [value, isMet]);
  t.same(lines(4_000, 999), [
    ['40 %', true],
    ['999 us', true],
  ]);
  t.same(lines(3_999, 1_000), [
    ['40 %', false],
    ['1000 us', false],
  ]);
});

t.test('the table of targets can be measured', async (t) => {
  for (const group of groups) {
    t.ok(systemsNamed(systemsOf[group]).length > 0);
    for (const id of workloadsOf(group)) t.ok(workloadById(id));
  }
  for (const target of targets) {
    t.ok(systemsOf[target.group].includes(target.ours));
    const recorded = readRecordedPeers();
    for (const peer of target.peers) {
      const record = recorded.find(({ name }) => name === peer);
      if (record)
        t.ok(systemsOf[target.group].includes(record.beside), `${peer} has its yardstick`);
    }
  }
});

t.test('pieces add up, and their rounds do not mix', async (t) => {
  const piece: Piece = {
    ...{ date: '', commit: '', rounds: 1, runtimeSeconds: 1, sizeBytes: 1, prefill: '4k' },
    ...{ systems: [], workloads: [] },
  };
  const facts = (failure: string | null) => ({
    ...{ name: 'nbdkit', copies: 1, acknowledges: 'x', prefill: '4k', processes: 1 },
    ...{ idleBytes: 1, failure },
  });
  const empty = emptyResult('', {});
  t.equal(nextRound(empty), 1);
  const samples = [sample('nbdkit', qd32, 1, {}), sample('nbdkit', qd32, 2, {})];
  const first = withPiece(empty, piece, { systems: [facts('no such program')], samples });
  t.equal(nextRound(first), 3);
  t.match(resultTable(first), /not measured: no such program/);
  const second = withPiece(first, piece, {
    systems: [facts(null)],
    samples: [sample('nbdkit', qd32, 3, {})],
  });
  t.match(second.summaries, [{ server: 'nbdkit', workload: qd32, rounds: 3 }]);
  t.equal(second.systems.length, 1);
  t.notMatch(resultTable(second), /not measured/);
  t.equal(second.pieces.length, 2);
});

t.test('the time it takes counts what is measured', async (t) => {
  const options = {
    ...{ rounds: 2, runtimeSeconds: 10, sizeBytes: 0, prefill: '4k', keep: true },
    ...{ parentDir: '/', path: '/' },
  };
  const workloads = workloadsLike('qd1');
  const all = estimateSeconds({ ...options, workloads, systems: systemsNamed(['qemu-nbd']) });
  // the fifo form of the quorum is for reads alone
  const reads = estimateSeconds({
    ...options,
    workloads,
    systems: systemsNamed(['qemu-quorum-fifo']),
  });
  t.ok(all > 40 && reads > 20 && reads < all);
});
