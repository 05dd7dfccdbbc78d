import fc from 'fast-check';
import t from 'tap';
import { fioArguments, parseFioResult } from '../../benchmarks/src/fio/fio.ts';
import type { CommandResult } from '../../benchmarks/src/harness/run-command.ts';
import { ratioOf } from '../../benchmarks/src/measure/ratios.ts';
import type { Sample } from '../../benchmarks/src/measure/rounds.ts';
import { median, shuffled, spreadOf } from '../../benchmarks/src/measure/statistics.ts';
import { benchWorkloads, workloadsLike } from '../../benchmarks/src/measure/workloads.ts';
import { quorumImageOptions } from '../../benchmarks/src/servers/qemu-quorum.ts';

const sample = (server: string, workload: string, round: number, iops: number): Sample => ({
  ...{ server, workload, round, iops, bytesPerSecond: iops * 4096 },
  ...{ p50Us: 1, p99Us: 2, p999Us: 3, cpuUsPerIo: 1e6 / iops, clientCpuUsPerIo: 1 },
  residentBytes: 1,
});

t.test('shuffling keeps every value and can give every order', async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer()),
      fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })),
      (values, chance) => {
        const before = [...values];
        const result = shuffled(values, () => chance.next().value as number);
        const sort = (list: number[]): number[] => [...list].sort((a, b) => a - b);
        return (
          JSON.stringify(sort(result)) === JSON.stringify(sort(values)) &&
          JSON.stringify(values) === JSON.stringify(before)
        );
      },
    ),
  );
  const orders = new Set<string>();
  for (const first of [0, 0.4, 0.8]) {
    for (const second of [0, 0.6]) {
      const chance = [first, second];
      orders.add(shuffled(['a', 'b', 'c'], () => chance.shift() ?? 0).join(''));
    }
  }
  t.equal(orders.size, 6);
});

t.test('median and spread are what sorting says', async () => {
  fc.assert(
    fc.property(fc.array(fc.integer(), { minLength: 1 }), (values) => {
      const sorted = [...values].sort((a, b) => a - b);
      const left = sorted[Math.ceil(sorted.length / 2) - 1] ?? NaN;
      const right = sorted[Math.floor(sorted.length / 2)] ?? NaN;
      const spread = spreadOf(values);
      return (
        median(values) === (left + right) / 2 &&
        spread.min === sorted[0] &&
        spread.max === sorted[sorted.length - 1]
      );
    }),
  );
});

t.test('a ratio pairs the samples of a round', async (t) => {
  const samples = [
    sample('a', 'w', 1, 100),
    sample('b', 'w', 1, 50),
    // the machine is ten times slower: the ratio of the round is the same
    sample('a', 'w', 2, 10),
    sample('b', 'w', 2, 5),
    sample('a', 'w', 3, 90),
    sample('b', 'w', 3, 30),
    // measured alone: not compared with anything
    sample('a', 'w', 4, 1_000_000),
    sample('b', 'other', 4, 1),
  ];
  const ratio = ratioOf(
    samples,
    { server: 'a', workload: 'w' },
    { server: 'b', workload: 'w' },
    'iops',
  );
  t.same(ratio, {
    ...{ ours: 90, theirs: 30, ofMedians: 3, rounds: 3 },
    perRound: { min: 2, median: 2, max: 3 },
  });
  const nobody = { server: 'c', workload: 'w' };
  t.equal(ratioOf(samples, { server: 'a', workload: 'w' }, nobody, 'iops'), null);
});

const fioOutput = `fio: this platform does not support process shared mutexes
note: both iodepth >= 1 and synchronous I/O engine are selected
${JSON.stringify(
  {
    'fio version': 'fio-3.33',
    jobs: [
      {
        error: 0,
        read: { total_ios: 0, iops: 0, bw_bytes: 0, clat_ns: {} },
        write: {
          total_ios: 1_000,
          iops: 500.5,
          bw_bytes: 2_050_048,
          clat_ns: {
            percentile: { '50.000000': 61_000, '99.000000': 122_500, '99.900000': 999_000 },
          },
        },
      },
    ],
  },
  null,
  2,
)}
`;

function commandOf(parts: Partial<CommandResult>): CommandResult {
  const rest = { command: 'fio', code: 0, signal: null, stderr: '', elapsedMs: 1 };
  return { ...rest, stdout: fioOutput, ...parts };
}

t.test('the output of fio is read, notes before it are not', async (t) => {
  const { write, read, error } = parseFioResult(commandOf({}));
  t.same(write, {
    ...{ ios: 1_000, iops: 500.5, bytesPerSecond: 2_050_048 },
    ...{ p50Us: 61, p99Us: 122.5, p999Us: 999 },
  });
  t.equal(read.ios, 0);
  t.equal(error, 0);
  t.equal(parseFioResult(commandOf({ code: 1 })).error, 1, 'a bad end is an error');
  t.throws(() => parseFioResult(commandOf({ stdout: 'fio: out of memory' })), /printed no result/);
});

t.test('an address is the nbd engine, anything else names its own', async (t) => {
  const nbd = fioArguments({ uri: 'nbd://h/v', dir: '/d', options: { rw: 'read' } });
  t.ok(
    nbd.includes('--ioengine=nbd') && nbd.includes('--uri=nbd://h/v') && nbd.includes('--rw=read'),
  );
  const rbd = fioArguments({ uri: { ioengine: 'rbd', pool: 'p' }, dir: '/d', options: {} });
  t.ok(rbd.includes('--ioengine=rbd') && rbd.includes('--pool=p'));
  t.notOk(rbd.some((argument) => argument.startsWith('--uri')));
});

t.test('workloads are found by id and by name', async (t) => {
  t.equal(workloadsLike('').length, benchWorkloads.length);
  t.same(
    workloadsLike('qd32').map(({ id }) => id),
    ['write-qd32', 'read-qd32'],
  );
  t.same(
    workloadsLike('FLUSH').map(({ id }) => id),
    ['write-flush'],
  );
  t.equal(new Set(benchWorkloads.map(({ id }) => id)).size, benchWorkloads.length);
});

t.test('a quorum takes sockets with a comma in their path', async (t) => {
  const options = quorumImageOptions(['/a,b.sock', '/c.sock'], 'fifo');
  t.match(options, 'driver=quorum,vote-threshold=2,read-pattern=fifo,');
  t.match(options, 'children.0.server.path=/a,,b.sock,');
  t.match(options, 'children.1.server.path=/c.sock,');
});
