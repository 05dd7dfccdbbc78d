import { join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { runCommand } from '../../harness/run-command.ts';
import type { ControlStage } from './stage.ts';

/** Some six seconds of a processor each. */
const defaultSeeds = 100;
const timeoutMs = 4 * 60 * 60_000;

/**
 * Whole clusters from seeds, in which an operator drains, evacuates and decommissions nodes beside every
 * fault: no write is lost, no client gets an error, and all is healthy in the end. STOR_SEEDS says how many.
 */
export async function nodeOrders({ report, figures }: ControlStage): Promise<void> {
  const seeds = Number(process.env['STOR_SEEDS'] ?? defaultSeeds);
  const program = join(checkoutRoot(), 'packages/sim/bin/sim.mjs');
  const args = [program, '--node-orders', '--seeds', String(seeds), '--minutes', '3'];
  const { code, stdout, stderr } = await runCommand(process.execPath, args, { timeoutMs });
  process.stderr.write(`${stdout}${stderr}`);
  const [, run = '0', failed = '?'] = /^(\d+) seeds, (\d+) failed$/m.exec(stdout) ?? [];
  for (const [, name = '', count] of stdout.matchAll(/^ {2}(order-\w+|node-left) +(\d+) /gm)) {
    figures[name.replaceAll('-', '_')] = Number(count);
  }
  report.add(
    'nodes are drained, evacuated and decommissioned beside every fault, from seeds',
    `${run} seeds, ${failed} failed`,
    `${seeds} seeds, 0 failed`,
    code === 0 && Number(run) === seeds && failed === '0',
  );
}
