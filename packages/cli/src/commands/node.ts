import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { parseLabelChanges } from '../core/label-arguments.ts';
import { formatLabels, nodeColumns, nodeSheet } from '../resource-views.ts';
import { watchFlag, watchHelp, watchObjects, watchText } from '../watch-objects.ts';
import { nodesView } from '../watch-views.ts';
import { addCordonCommands } from './node-cordon.ts';
import { addForgetCommand } from './node-forget.ts';
import { addMaintenanceCommand } from './node-maintenance.ts';
import { addMovingVerbs } from './node-verbs.ts';

export function addNodeCommands(program: Command, run: RunAction): void {
  const node = program.command('node').description('hosts that run a Stor agent');
  node
    .command('ls')
    .alias('list')
    .option(watchFlag, watchText)
    .description('list the nodes')
    .addHelpText(
      'after',
      `${watchHelp}\nExamples:\n  storctl node ls\n  storctl node ls -o wide\n  storctl node ls -w`,
    )
    .action(async (options: { watch?: true }, command: Command) =>
      run(
        command.optsWithGlobals(),
        async (context) => {
          if (options.watch === true) {
            await watchObjects(context, nodesView(context));
            return;
          }
          const { nodes } = await context.api.listNodes({}, context.call);
          context.print.list(nodes, nodeColumns(context.nowMs));
        },
        { longRunning: options.watch === true },
      ),
    );
  node
    .command('inspect')
    .argument('<node>', 'name or id')
    .description('show everything about a node')
    .addHelpText(
      'after',
      '\nExamples:\n  storctl node inspect n1\n  storctl node inspect n1 -o json',
    )
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const found = await api.getNode({ name }, call);
        print.one(found, nodeSheet(found));
      }),
    );
  node
    .command('label')
    .argument('<node>', 'name or id')
    .argument('<changes...>', 'key=value sets a label, key- removes it')
    .description('set and remove labels, for example failure domains')
    .addHelpText(
      'after',
      '\nExamples:\n  storctl node label n1 zone=eu-1 rack=r7\n  storctl node label n1 rack-',
    )
    .action(async (name: string, changes: string[], _options: object, command: Command) => {
      const { set, remove } = parseLabelChanges(changes);
      if (Object.keys(set).length + remove.length === 0) {
        throw new StorError('INVALID_ARGUMENT', 'no label given: write key=value or key-');
      }
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const labelled = await api.labelNode({ name, set, remove }, call);
        const labels = formatLabels(labelled.metadata.labels) || 'no labels';
        print.changed(labelled, `node ${labelled.metadata.name} labelled: ${labels}`);
      });
    });
  addCordonCommands(node, run);
  addMovingVerbs(node, run);
  addMaintenanceCommand(node, run);
  addForgetCommand(node, run);
}
