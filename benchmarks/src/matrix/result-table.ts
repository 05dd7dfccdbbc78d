import type { Summary } from '../measure/rounds.ts';
import { ratioOf } from '../measure/ratios.ts';
import { benchWorkloads } from '../measure/workloads.ts';
import type { BenchResult } from './results-file.ts';

/** Everything is compared with this one, beside the targets of the acceptance run. */
export const yardstick = 'qemu-nbd';

const MiB = 1024 * 1024;

function spreadText(summary: Summary, isSequential: boolean): string {
  const { min, median, max } = isSequential ? summary.bytesPerSecond : summary.iops;
  return [min, median, max]
    .map((value) => (isSequential ? value / MiB : value).toFixed(0))
    .join(' / ');
}

/** Lines of text: a table for each workload, the systems below each other. */
export function resultTable(result: BenchResult): string {
  const lines: string[] = [];
  for (const workload of benchWorkloads) {
    const rows = result.summaries.filter((summary) => summary.workload === workload.name);
    if (rows.length === 0) continue;
    const isSequential = workload.id.startsWith('seq');
    const unit = isSequential ? 'MiB/s' : 'IOPS';
    lines.push(
      '',
      workload.name,
      row([
        'system',
        `${unit} min/median/max`,
        'p50 us',
        'p99 us',
        'p99.9 us',
        'CPU us',
        'fio us',
        'MiB',
        `of ${yardstick} (min-max)`,
      ]),
    );
    for (const summary of rows) {
      const ours = { server: summary.server, workload: workload.name };
      const theirs = { server: yardstick, workload: workload.name };
      const ratio = ratioOf(result.samples, ours, theirs, 'iops');
      lines.push(
        row([
          summary.server,
          spreadText(summary, isSequential),
          summary.p50Us.median.toFixed(0),
          summary.p99Us.median.toFixed(0),
          summary.p999Us.median.toFixed(0),
          summary.cpuUsPerIo.median.toFixed(1),
          summary.clientCpuUsPerIo.median.toFixed(1),
          (summary.residentBytes.median / MiB).toFixed(0),
          ratio
            ? `${ratio.ofMedians.toFixed(2)} (${ratio.perRound.min.toFixed(2)}-${ratio.perRound.max.toFixed(2)})`
            : '-',
        ]),
      );
    }
  }
  lines.push('', 'CPU us: of all server processes per I/O, threads of the kernel not counted;');
  lines.push('fio us: of the client per I/O, where GlusterFS and Ceph do a part of the work;');
  lines.push('MiB: resident memory of all server processes after the run.', '');
  for (const system of result.systems) {
    lines.push(`${system.name}: ${system.acknowledges}.`);
    if (system.failure !== null) lines.push(`  ${whyNot(system.failure)}`);
  }
  return `${lines.join('\n')}\n`;
}

/** The log behind the first line is in the file of results. */
export function whyNot(failure: string): string {
  return `not measured: ${failure.split('\n', 1)[0] ?? ''}`;
}

const widths = [18, 26, 8, 8, 9, 8, 8, 6, 0];

function row(cells: readonly string[]): string {
  return cells
    .map((cell, index) => cell.padEnd(widths[index] ?? 0))
    .join(' ')
    .trimEnd();
}
