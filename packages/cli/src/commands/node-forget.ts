import type { Command } from 'commander';
import type { RunAction } from '../command-context.ts';
import { countOf, nodePlanText } from '../node-plan-views.ts';

interface ForgetOptions {
  plan?: true;
  yes?: true;
}

export function addForgetCommand(node: Command, run: RunAction): void {
  node
    .command('forget')
    .argument('<node>', 'name or id')
    .option('--plan', 'change nothing, only show what is lost with the node')
    .option('-y, --yes', 'also when the last copy of some volume is lost with it')
    .description('give up a node that never comes back')
    .addHelpText(
      'after',
      `
For a node that is lost: its host or its disks are gone. Its replicas count as failed for good and are made
anew elsewhere at once, its vote in the control plane goes, and nothing waits for it any more. It is refused
while the node is up, and without --yes when a volume has its last in-sync copy there. That cannot be taken
back: if the host comes back after all, its agent is refused, and its copies are not used.

A node that is only down for a while needs none of this: see "storctl node maintenance".

Examples:
  storctl node forget n3 --plan
  storctl node forget n3`,
    )
    .action(async (name: string, options: ForgetOptions, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { plan: isPlan = false, yes: force = false } = options;
        const plan = await api.orderNode({ name, verb: 'forget', plan: isPlan, force }, call);
        if (isPlan) {
          print.answer({ ...plan }, nodePlanText(plan));
          return;
        }
        if (plan.node.metadata.resourceVersion === 0) {
          // it had no record any more: this is the same --request-id again, and what was lost was said then
          print.changed(plan.node, plan.notes.join('; '));
          return;
        }
        const lost = plan.effects.filter(({ becomes }) => becomes === 'lost').length;
        const what = countOf(plan.remaining.replicas, 'replica');
        const sum = lost === 0 ? '' : `, and ${countOf(lost, 'volume')} with it`;
        print.changed(
          plan.node,
          `node ${plan.node.metadata.name} is forgotten: ${what} lost${sum}`,
        );
      }),
    );
}
