import type { Command } from 'commander';
import type { RunAction } from '../command-context.ts';
import { nodePlanText } from '../node-plan-views.ts';

export function addCordonCommands(node: Command, run: RunAction): void {
  node
    .command('cordon')
    .argument('<node>', 'name or id')
    .option('--reason <text>', 'why; shown wherever the node is passed over', '')
    .option('--plan', 'change nothing, only show what it means')
    .description('let a node take no new replica and no new attachment')
    .addHelpText(
      'after',
      `
What the node has stays and is served. To move it away use drain and evacuate.

Examples:
  storctl node cordon n3 --reason "new disks on Tuesday"`,
    )
    .action(async (name: string, options: { reason: string; plan?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const isPlan = options.plan === true;
        const request = { name, verb: 'cordon' as const, reason: options.reason, plan: isPlan };
        const plan = await api.orderNode(request, call);
        if (isPlan) print.answer({ ...plan }, nodePlanText(plan));
        else print.changed(plan.node, `node ${plan.node.metadata.name} takes nothing new`);
      }),
    );
  node
    .command('uncordon')
    .argument('<node>', 'name or id')
    .description('let a node take replicas and attachments again')
    .addHelpText(
      'after',
      `
It ends a cordon, a drain and an evacuation; what has moved away stays where it is. A maintenance ends
with "storctl node maintenance NODE --end".

Examples:
  storctl node uncordon n3`,
    )
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { node: changed } = await api.orderNode({ name, verb: 'uncordon' }, call);
        const { name: known } = changed.metadata;
        const still = changed.spec.maintenance ? ' once its maintenance is over' : '';
        print.changed(changed, `node ${known} takes replicas and attachments again${still}`);
      }),
    );
}
