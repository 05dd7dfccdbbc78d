import type { Command } from 'commander';
import { formatByteSize, StorError } from '@stor/protocol';
import type { QosClass } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { parseClasses } from '../core/class-text.ts';
import { renderTable, type Column } from '../core/table.ts';

const columns: Column<QosClass>[] = [
  { title: 'CLASS', cell: ({ name }) => name },
  { title: 'WEIGHT', cell: ({ weight }) => String(weight), right: true },
  { title: 'IOPS', cell: ({ iops }) => (iops > 0 ? String(iops) : ''), right: true },
  { title: 'BPS', cell: ({ bps }) => (bps > 0 ? formatByteSize(bps) : ''), right: true },
];

export function addQosClassCommands(cluster: Command, run: RunAction): void {
  cluster
    .command('qos')
    .description('show how clients, rebuild, resync, scrub and backup share every node')
    .addHelpText('after', '\nExamples:\n  storctl cluster qos\n  storctl cluster qos -o yaml')
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { classes } = await api.listQosClasses({}, call);
        print.rows(classes, columns, ({ name }) => name);
      }),
    );
  cluster
    .command('update')
    .description('change settings of the whole cluster, while it is in use')
    .option('--qos-class <values>', 'rebuild.weight=20,rebuild.bps=100MiB,scrub.iops=50', collect)
    .addHelpText(
      'after',
      `
--qos-class is a list of CLASS.NAME=VALUE, separated by commas. Classes are client, rebuild (a replica that
has nothing yet), resync (one that was away), scrub and backup (kept for later).
  weight   share of a busy node beside the other classes, 1 to 10000; clients have theirs together
  iops     pieces of work per second and node at most (a piece has up to 256 KiB)
  bps      bytes per second and node at most: 100MiB
none (or -) takes a value back. Clients have no limit as a class: give them to volumes, policies or tenants.

Examples:
  storctl cluster update --qos-class rebuild.weight=20,rebuild.bps=200MiB
  storctl cluster update --qos-class rebuild.bps=none
  storctl cluster qos`,
    )
    .action(async ({ qosClass }: { qosClass?: string[] }, command: Command) => {
      if (!qosClass) {
        throw new StorError('INVALID_ARGUMENT', 'nothing to change was given: give --qos-class');
      }
      const classes = parseClasses(qosClass);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const changed = await api.setQosClasses({ classes }, call);
        print.facts(
          { ...changed },
          renderTable(changed.classes, columns, { wide: false, headers: true }),
        );
      });
    });
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
