import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { parseByteSize } from '@stor/protocol';
import { numberOption, parseOptions, readOption } from './harness/parse-options.ts';
import { benchSystems, systemsNamed } from './matrix/systems.ts';
import { readResult, resultsPath } from './matrix/results-file.ts';
import { resultTable } from './matrix/result-table.ts';
import { writeReadme } from './matrix/write-readme.ts';
import { runPiece } from './matrix/run-piece.ts';
import { benchWorkloads, workloadsLike } from './measure/workloads.ts';

/** fio reads and writes up to 1 MiB at a time, and has to have some room to choose from (bytes). */
const minSizeBytes = 16 * 1024 * 1024;

const usage = `usage: npm run bench -- [--quick] [--systems A,B] [--only TEXT] [--rounds N] [--seconds N]
                        [--size SIZE] [--prefill 4k|1m] [--dir DIR] [--into FILE]
                        [--show FILE] [--readme FILE]
Measures Stor beside other servers on this machine, all in DIR, in interleaved rounds of random order,
and writes benchmarks/results/DATE-HOST.json.

  --systems   ${benchSystems.map(({ name }) => name).join(',')}
  --only      workloads whose name holds the text: ${benchWorkloads.map(({ id }) => id).join(', ')}
  --size      of what is measured, for example 512MiB (default: 1GiB, with --quick 256MiB)
  --into      adds the rounds to this file of results instead of writing a new one
  --show      measures nothing and prints the table of a file of results
  --readme    measures nothing: draws the picture of a file of results beside it (.svg) and writes the
              part of README.md between its two marks
  --prefill   how everything is filled before; pages that came into the cache by large writes cost
              more to overwrite on some kernels (default: 4k, the better case for a file server)
`;

const { values } = parseOptions(usage, {
  options: {
    quick: { type: 'boolean', default: false },
    systems: { type: 'string' },
    only: { type: 'string', default: '' },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    prefill: { type: 'string', default: '4k' },
    dir: { type: 'string', default: tmpdir() },
    into: { type: 'string' },
    show: { type: 'string' },
    readme: { type: 'string' },
  },
});

// before anything is started
const rounds = numberOption(usage, 'rounds', values.rounds ?? (values.quick ? '2' : '5'));
const runtimeSeconds = numberOption(usage, 'seconds', values.seconds ?? (values.quick ? '1' : '4'));
const sizeBytes = readOption(usage, '--size', () => {
  const bytes = parseByteSize(values.size ?? (values.quick ? '256MiB' : '1GiB'));
  if (bytes < minSizeBytes || bytes % 4096 !== 0) {
    throw new Error('it must be at least 16MiB, in whole blocks of 4KiB');
  }
  return bytes;
});

async function main(): Promise<void> {
  if (values.show !== undefined) {
    const shown = readResult(resolve(values.show));
    if (!shown) throw new Error(`there is no file ${values.show}`);
    process.stdout.write(resultTable(shown));
    return;
  }
  if (values.readme !== undefined) {
    await writeReadme(resolve(values.readme));
    return;
  }
  // A quick look must not take the place of a measurement of the same day.
  const path = resolve(values.into ?? resultsPath(new Date(), values.quick ? 'quick' : ''));
  const workloads = workloadsLike(values.only);
  if (workloads.length === 0) throw new Error(`no workload's name holds ${values.only}`);
  const result = await runPiece({
    systems:
      values.systems === undefined
        ? benchSystems.filter(({ isVariant }) => isVariant !== true)
        : systemsNamed(values.systems.split(',')),
    workloads,
    rounds,
    runtimeSeconds,
    sizeBytes,
    prefill: values.prefill,
    parentDir: resolve(values.dir),
    path,
    keep: values.into !== undefined,
  });
  process.stdout.write(resultTable(result));
}

await main();
