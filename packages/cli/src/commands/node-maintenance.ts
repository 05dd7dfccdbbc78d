import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { parseDurationMs } from '../core/duration.ts';
import { nodePlanText } from '../node-plan-views.ts';
import { formatTime } from '../resource-views.ts';

interface MaintenanceOptions {
  for?: string;
  end?: true;
  plan?: true;
  yes?: true;
}

export function addMaintenanceCommand(node: Command, run: RunAction): void {
  node
    .command('maintenance')
    .argument('<node>', 'name or id')
    .option('--for <time>', 'how long the node may be away, for example 30m or 4h (at most 7d)')
    .option('--end', 'it is over')
    .option('--plan', 'change nothing, only show which volumes suffer while the node is away')
    .option('-y, --yes', 'also when volumes are not served while the node is away')
    .description('let a node be away for a while without replacing its replicas')
    .addHelpText(
      'after',
      `
Until the time is over, or --end is given, nothing is placed on the node, and its replicas are not replaced
while it is away. Drain it before its agent is stopped, so that no client is cut off. Replicas that failed
for good are replaced all the same.

Examples:
  storctl node maintenance n3 --for 30m --plan
  storctl node maintenance n3 --for 30m
  storctl node maintenance n3 --end`,
    )
    .action(async (name: string, options: MaintenanceOptions, command: Command) => {
      const { end: cancel = false, plan: isPlan = false } = options;
      if (cancel === (options.for !== undefined)) {
        const what = cancel ? '--for and --end exclude each other' : '--for is missing';
        throw new StorError(
          'INVALID_ARGUMENT',
          `${what}: give --for TIME to begin a maintenance, or --end to end it`,
        );
      }
      const forMs = options.for === undefined ? 0 : parseDurationMs(options.for);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const force = options.yes ?? false;
        const request = { name, verb: 'maintenance' as const, forMs, cancel, force, plan: isPlan };
        const plan = await api.orderNode(request, call);
        if (isPlan) {
          print.answer({ ...plan }, nodePlanText(plan));
          return;
        }
        const { metadata, spec } = plan.node;
        if (cancel) {
          print.changed(plan.node, `the maintenance of node ${metadata.name} is over`);
          return;
        }
        const until = spec.maintenance ? formatTime(spec.maintenance.untilMs) : '';
        const notes = plan.notes.map((note) => `\nnote: ${note}`).join('');
        print.changed(
          plan.node,
          `node ${metadata.name} is in maintenance until ${until}: its replicas are not replaced${notes}`,
        );
      });
    });
}
