import type { Command } from 'commander';
import type { NodeVerb } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { waitForNode } from '../node-progress.ts';
import { countOf, nodePlanText } from '../node-plan-views.ts';

/** A verb that moves something away, which takes its time. */
interface MovingVerb {
  verb: Extract<NodeVerb, 'drain' | 'evacuate' | 'decommission'>;
  description: string;
  help: string;
  /** `node n3 is being evacuated` */
  begun: string;
  done: string;
  /** what there is to do then; '': nothing */
  next: string;
  cancelled: string;
}

const uncordon = 'lets it take replicas and attachments again';

const movingVerbs: MovingVerb[] = [
  {
    verb: 'drain',
    description: 'move every attachment of a node to other nodes, live',
    help: `
Each volume that is attached there, by its clients or by hand, is handed over to the node that has most of
its data. Clients that are connected to the node stay connected and are relayed until its agent stops. The
node takes nothing new until "storctl node uncordon".

Examples:
  storctl node drain n3 --plan
  storctl node drain n3`,
    begun: 'is being drained',
    done: 'has no attachment any more',
    next: uncordon,
    cancelled: 'is not drained any more',
  },
  {
    verb: 'evacuate',
    description: 'move every replica of a node to other nodes',
    help: `
Each replica is filled elsewhere before the one on the node leaves: volumes are served meanwhile and keep
their number of replicas. The node takes nothing new until "storctl node uncordon". It is refused when some
replica has no place.

Examples:
  storctl node evacuate n3 --plan
  storctl node evacuate n3`,
    begun: 'is being evacuated',
    done: 'has no replica any more',
    next: uncordon,
    cancelled: 'is not evacuated any more; what has moved stays where it is',
  },
  {
    verb: 'decommission',
    description: 'move everything away from a node, and take it out of the cluster for ever',
    help: `
Its attachments and replicas move away as by drain and evacuate, and its vote in the control plane goes. When it
holds nothing any more, its record and those of its disks are removed. Its agent is refused from then on:
stop it, and start it with an empty data folder and a token to use the host again. What is left on its disks
is not erased. Until then --cancel ends it.

A node that is lost already is taken out by "storctl node forget".

Examples:
  storctl node decommission n3 --plan
  storctl node decommission n3`,
    begun: 'is being decommissioned',
    done: 'has left the cluster',
    next: '',
    cancelled: 'is not decommissioned any more; what has moved stays where it is',
  },
];

interface MoveOptions {
  plan?: true;
  yes?: true;
  cancel?: true;
  wait: boolean;
}

export function addMovingVerbs(node: Command, run: RunAction): void {
  for (const each of movingVerbs) {
    node
      .command(each.verb)
      .argument('<node>', 'name or id')
      .option('--plan', 'change nothing, only show what would move, and what is in the way')
      .option('-y, --yes', 'also when the plan is not safe; what can go nowhere stays until it can')
      .option('--cancel', 'take it back; what has moved stays where it is')
      .option('--no-wait', 'return at once instead of when it is done')
      .description(each.description)
      .addHelpText('after', each.help)
      .action(async (name: string, options: MoveOptions, command: Command) =>
        run(command.optsWithGlobals(), (context) => move(context, each, name, options), {
          longRunning: options.wait && options.plan === undefined && options.cancel === undefined,
        }),
      );
  }
}

async function move(
  context: CommandContext,
  { verb, begun, done, next, cancelled }: MovingVerb,
  name: string,
  options: MoveOptions,
): Promise<void> {
  const { api, print, call } = context;
  const cancel = options.cancel ?? false;
  if (options.plan === true) {
    const plan = await api.orderNode({ name, verb, plan: true, cancel }, call);
    print.answer({ ...plan }, nodePlanText(plan));
    return;
  }
  const plan = await api.orderNode({ name, verb, cancel, force: options.yes ?? false }, call);
  const { metadata } = plan.node;
  if (cancel) {
    print.changed(plan.node, `node ${metadata.name} ${cancelled}`);
    return;
  }
  const { attachments, replicas } = plan.remaining;
  if (!options.wait || print.forPeople) {
    const counts = {
      drain: countOf(attachments, 'attachment'),
      evacuate: countOf(replicas, 'replica'),
      decommission: `${countOf(attachments, 'attachment')} and ${countOf(replicas, 'replica')}`,
    };
    const what = counts[verb];
    print.changed(plan.node, `node ${metadata.name} ${begun}: ${what} to move`);
  }
  if (!options.wait) return;
  const ended = await waitForNode(context, { node: plan.node, verb });
  const advice = next === '' ? '' : `\nnext: "storctl node uncordon ${metadata.name}" ${next}`;
  print.changed(ended, `node ${metadata.name} ${done}${advice}`);
}
