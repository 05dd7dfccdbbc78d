import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { benchChart, grouped } from '../../benchmarks/src/matrix/chart.ts';
import { readmeSection, withSection } from '../../benchmarks/src/matrix/readme-section.ts';
import { emptyResult, withPiece } from '../../benchmarks/src/matrix/results-file.ts';
import type { Sample } from '../../benchmarks/src/measure/rounds.ts';
import { workloadById } from '../../benchmarks/src/measure/workloads.ts';

const sample = (server: string, id: string, round: number, iops: number): Sample => ({
  ...{ server, workload: workloadById(id).name, round, iops, bytesPerSecond: iops * 1_048_576 },
  ...{ p50Us: 10, p99Us: 20, p999Us: 30, cpuUsPerIo: 7.5, clientCpuUsPerIo: 1, residentBytes: 1 },
});

const facts = (name: string, failure: string | null = null) => ({
  ...{ name, copies: 1, acknowledges: `what ${name} means`, prefill: '4k', processes: 1 },
  ...{ idleBytes: 1, failure },
});

const result = withPiece(
  emptyResult('2026-11-22T10:00:00Z', { host: 'vm', cpus: 4, fio: 'fio-3.33' }),
  {
    ...{ date: '', commit: '', rounds: 3, runtimeSeconds: 4, sizeBytes: 512 * 1_048_576 },
    ...{ prefill: '4k', systems: [], workloads: [] },
  },
  {
    systems: [facts('stor-1'), facts('nbdkit'), facts('ceph', 'ceph ended\nits long log')],
    samples: [1, 2, 3].flatMap((round) => [
      sample('stor-1', 'write-qd32', round, 100_000 + round),
      sample('nbdkit', 'write-qd32', round, 50_000),
      sample('stor-1', 'seq-read', round, 2_000),
      sample('nbdkit', 'seq-read', round, 4_000),
    ]),
  },
);

t.test('the picture holds what was measured and follows the scheme of the reader', async (t) => {
  const svg = benchChart(result.summaries);
  t.match(svg, /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" width="\d+" height="\d+"/);
  t.match(svg, 'prefers-color-scheme: dark');
  t.equal(svg.match(/<rect class="ours"/g)?.length, 2);
  t.equal(svg.match(/<rect class="bar"/g)?.length, 2);
  t.match(svg, '>100,002<');
  t.match(svg, '>4,000<', 'MiB/s');
  t.notMatch(svg, /NaN|undefined|ceph/);
  const widths = [...svg.matchAll(/<rect class="(ours|bar)".* width="([\d.]+)"/g)];
  const [ours = 0, theirs = 1] = widths.map(([, , width]) => Number(width));
  t.ok(Math.abs(ours / theirs - 100_002 / 50_000) < 0.01, 'bars are as long as their values');
  const open = svg.match(/<(svg|style|text|rect|line)\b/g)?.length;
  const closed = svg.match(/<\/(svg|style|text)>|\/>/g)?.length;
  t.equal(open, closed, 'every element is closed');
});

t.test('an empty result is an empty picture', async (t) => {
  t.notMatch(benchChart([]), /NaN|Infinity|<rect/);
});

t.test('the page says what was measured, what was missed and what was left out', async (t) => {
  const section = readmeSection({
    ...{ result, recorded: [] },
    ...{ picturePath: 'x/y.svg', resultPath: 'x/y.json' },
  });
  t.match(section, '![medians by workload](x/y.svg)');
  t.match(section, '[every sample](x/y.json)');
  t.match(section, '| 4 KiB random write, QD 32 | 100,002 (7.5 us) | 50,000 (7.5 us) |');
  t.match(section, /\| \*\*0\.50×\*\* \| ≥ 0\.8× \| ≥ 1\.2× \| \*\*missed\*\* \|/);
  t.match(section, /\| 2\.00× \| ≥ 1\.8× \| ≥ 3× \| must only \|/);
  t.match(section, '- ceph: not measured: ceph ended.');
  t.notMatch(section, 'its long log');
  for (const line of section.split('\n').filter((line) => line.startsWith('|'))) {
    t.ok([4, 7].includes(line.split(' | ').length + 1) || line.includes('---'), line);
  }
});

t.test('only what is between the marks is replaced, as often as one likes', async (t) => {
  const marks = [
    '<!-- bench: begin; written by npm run bench -- --readme FILE -->',
    '<!-- bench: end -->',
  ];
  const page = `before\n${marks.join('\nold\n')}\nafter\n`;
  const once = withSection(page, 'new\n');
  t.equal(once, `before\n${marks[0]}\n\nnew\n\n${marks[1]}\nafter\n`);
  t.equal(withSection(once, 'new\n'), once);
  t.throws(() => withSection('nothing', 'new'), /no lines/);
});

t.test('thousands', async (t) => {
  t.same(['1', '123', '1234', '1234567'].map(grouped), ['1', '123', '1,234', '1,234,567']);
});

t.test('the README has its marks', async (t) => {
  const readme = readFileSync(join(checkoutRoot(), 'README.md'), 'utf8');
  const written = withSection(readme, 'new\n');
  t.match(written, 'new');
  t.match(written, '## What it does not do yet', 'and what follows stays');
});
