import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { describeResult, mustRun, runCommand } from '../../harness/run-command.ts';
import { median } from '../../measure/statistics.ts';
import type { StoreStage } from './stage.ts';

interface Opened {
  openMs: number;
  allocatedBytes: number;
  rssBytes: number;
}

const GiB = 1024 ** 3;
const fillDeadlineMs = 1_800_000;
/** An agent that restarts must be back before clients notice (ms). */
const targetMs = 1_000;

/**
 * Opening a disk reads its map (4 bytes per chunk) and replays at most two journals; never data. Shown with
 * one block in each chunk, which allocates as much as full chunks do.
 */
export async function startUp({ dir, report, rounds, quick }: StoreStage): Promise<void> {
  const times = new Map<number, number>();
  for (const gib of quick ? [1, 10] : [1, 10, 100]) {
    const disk = join(dir, `disk-${gib}`);
    await mustRun(process.execPath, [program(), 'fill', disk, String(gib)], {
      timeoutMs: fillDeadlineMs,
    });
    for (const end of ['clean', 'killed']) {
      const opened: Opened[] = [];
      // the first one opens what the other kind of end left
      for (let round = 0; round <= rounds; round += 1) opened.push(await openOnce(disk, end));
      const openMs = median(opened.slice(1).map((one) => one.openMs));
      const rssMiB = median(opened.map((one) => one.rssBytes)) / 1024 ** 2;
      if (end === 'killed') times.set(gib, openMs);
      report.add(
        `opening a disk with ${gib} GiB allocated, ${end} before`,
        `${openMs.toFixed(0)} ms, ${rssMiB.toFixed(0)} MiB RSS`,
        `< ${targetMs} ms`,
        openMs < targetMs && opened.every((one) => one.allocatedBytes === gib * GiB),
      );
    }
  }
  addGrowth(report, times);
}

function addGrowth(report: StoreStage['report'], times: ReadonlyMap<number, number>): void {
  const sizes = [...times.keys()].sort((a, b) => a - b);
  const [small = 1, large = 1] = [sizes[0], sizes.at(-1)];
  const msPerGib = ((times.get(large) ?? 0) - (times.get(small) ?? 0)) / (large - small);
  report.add(
    'growth with what is allocated (4 bytes of map per 256 KiB)',
    `${msPerGib.toFixed(2)} ms per GiB`,
    '< 5 ms per GiB',
    msPerGib < 5,
  );
}

async function openOnce(disk: string, end: string): Promise<Opened> {
  const result = await runCommand(process.execPath, [program(), 'open', disk, end]);
  const asSaid = end === 'killed' ? result.signal === 'SIGKILL' : result.code === 0;
  if (!asSaid) throw new Error(describeResult(result));
  return JSON.parse(result.stdout) as Opened;
}

/** It works on the store itself, so it lies beside the store's tests. */
function program(): string {
  const file = join(checkoutRoot(), 'packages/replicator/dist/test/measure/start-up.js');
  if (!existsSync(file)) throw new Error(`${file} is missing: build first`);
  return file;
}
