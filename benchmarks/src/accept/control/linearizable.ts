import { join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { runCommand } from '../../harness/run-command.ts';
import type { ControlStage } from './stage.ts';

/** About half a second of a processor each. */
const defaultSeeds = 2_000;
const timeoutMs = 4 * 60 * 60_000;

/**
 * The embedded cluster store from seeds: linearizable keys, watches and leases while its members are
 * cut off, stopped, killed and changed. STOR_SEEDS says how many.
 */
export async function linearizable({ report, figures }: ControlStage): Promise<void> {
  const seeds = Number(process.env['STOR_SEEDS'] ?? defaultSeeds);
  const program = join(checkoutRoot(), 'packages/sim/bin/kv.mjs');
  const args = [program, '--seeds', String(seeds)];
  const { code, stdout, stderr } = await runCommand(process.execPath, args, { timeoutMs });
  process.stderr.write(`${stdout}${stderr}`);
  const [, run = '0', failed = '?'] = /^(\d+) seeds, (\d+) failed$/m.exec(stdout) ?? [];
  for (const [, name = '', count] of stdout.matchAll(/^ {2}([\w ]+): (\d+)$/gm)) {
    figures[name.replaceAll(' ', '_')] = Number(count);
  }
  report.add(
    'the cluster store alone, from seeds: linearizable, no lease too short',
    `${run} seeds, ${failed} failed`,
    `${seeds} seeds, 0 failed`,
    code === 0 && Number(run) === seeds && failed === '0',
  );
}
