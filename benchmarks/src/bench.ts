import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, hostname, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { prefill } from './fio/fio.ts';
import { checkoutRoot } from './harness/checkout.ts';
import { TestCluster } from './harness/test-cluster.ts';
import { runRounds, summarise, workloads, type Sample, type Summary } from './measure/rounds.ts';
import type { BlockServer } from './servers/block-server.ts';
import { QemuNbd } from './servers/qemu-nbd.ts';
import { createStorVolume } from './servers/stor-volume.ts';

const usage = `usage: npm run bench -- [--quick] [--dir DIR] [--rounds N] [--seconds N] [--size BYTES]
                        [--prefill 4k|1m] [--only TEXT]
Measures Stor with three replicas, Stor with one, and qemu-nbd on a file, all on this machine and
in DIR, over UNIX sockets, in rounds of random order. Writes benchmarks/results/DATE-HOST.json.`;

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    dir: { type: 'string', default: tmpdir() },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    // Pages that came into the cache by large writes cost more to overwrite on some kernels, so
    // how a file was filled is part of the result. 4k favours the file server.
    prefill: { type: 'string', default: '4k' },
    only: { type: 'string', default: '' },
    help: { type: 'boolean', default: false },
  },
});

const MiB = 1024 * 1024;
const settings = {
  rounds: Number(values.rounds ?? (values.quick ? 2 : 5)),
  runtimeSeconds: Number(values.seconds ?? (values.quick ? 1 : 4)),
  sizeBytes: Number(values.size ?? (values.quick ? 256 * MiB : 1024 * MiB)),
  prefill: values.prefill,
};

function machine(dir: string): Record<string, string | number> {
  const run = (command: string, args: string[]): string =>
    execFileSync(command, args, { encoding: 'utf8' }).trim();
  return {
    host: hostname(),
    kernel: release(),
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? '',
    node: process.version,
    fileSystem: run('stat', ['-f', '-c', '%T', dir]),
    fio: run('fio', ['--version']),
    qemuNbd: run('qemu-nbd', ['--version']).split('\n')[0] ?? '',
    commit: run('git', ['-C', checkoutRoot(), 'describe', '--always', '--dirty']),
  };
}

function printTable(summaries: Summary[]): void {
  const line = (cells: string[]): void => {
    const widths = [34, 10, 28, 9, 9, 9, 12];
    const text = cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join(' ');
    process.stdout.write(`${text.trimEnd()}\n`);
  };
  line(['workload', 'server', 'IOPS min/median/max', 'p50 us', 'p99 us', 'CPU us', 'vs qemu-nbd']);
  for (const summary of summaries) {
    const yardstick = summaries.find(
      (other) => other.workload === summary.workload && other.server === 'qemu-nbd',
    );
    const ratio = yardstick ? summary.iops.median / yardstick.iops.median : NaN;
    const { min, median, max } = summary.iops;
    line([
      summary.workload,
      summary.server,
      [min, median, max].map((value) => value.toFixed(0)).join(' / '),
      summary.p50Us.median.toFixed(0),
      summary.p99Us.median.toFixed(0),
      summary.cpuUsPerIo.median.toFixed(1),
      `${ratio.toFixed(2)}x`,
    ]);
  }
}

function writeResult(dir: string, samples: Sample[], summaries: Summary[]): string {
  const folder = join(checkoutRoot(), 'benchmarks/results');
  mkdirSync(folder, { recursive: true });
  const date = new Date().toISOString();
  // A quick look must not take the place of a measurement of the same day.
  const suffix = values.quick ? '-quick' : '';
  const path = join(folder, `${date.slice(0, 10)}-${hostname()}${suffix}.json`);
  const result = { date, machine: machine(dir), settings, summaries, samples };
  writeFileSync(path, `${JSON.stringify(result, null, 2)}\n`);
  return path;
}

async function main(): Promise<void> {
  const dir = mkdtempSync(join(values.dir, 'stor-bench-'));
  const cluster = await TestCluster.create({ dir: join(dir, 'cluster') });
  let qemu: QemuNbd | null = null;
  try {
    await cluster.start();
    qemu = await QemuNbd.start(dir, settings.sizeBytes);
    const servers: BlockServer[] = [
      await createStorVolume(cluster, 'three', settings.sizeBytes, 3),
      await createStorVolume(cluster, 'one', settings.sizeBytes, 1),
      qemu,
    ];
    for (const server of servers) {
      process.stderr.write(`prefill ${server.name}\n`);
      await prefill(server.uri, settings.sizeBytes, settings.prefill, dir);
    }
    const chosen = workloads.filter((workload) => workload.name.includes(values.only));
    const samples = await runRounds({
      servers,
      workloads: chosen,
      rounds: settings.rounds,
      runtimeSeconds: settings.runtimeSeconds,
      sizeBytes: settings.sizeBytes,
      dir,
      onSample: (s) =>
        process.stderr.write(
          `round ${s.round} ${s.workload} ${s.server}: ${s.iops.toFixed(0)} IOPS\n`,
        ),
    });
    const summaries = chosen.flatMap((workload) =>
      servers.map((server) => summarise(samples, workload.name, server.name)),
    );
    printTable(summaries);
    process.stdout.write(`\nwritten: ${writeResult(dir, samples, summaries)}\n`);
  } finally {
    await qemu?.close();
    await cluster.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

if (values.help) process.stdout.write(`${usage}\n`);
else await main();
