import type { Command } from 'commander';
import type { NodeVerb } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { waitForNode } from '../node-progress.ts';
import { countOf, nodePlanText } from '../node-plan-views.ts';

/** A verb that moves something away, which takes its time. */
interface MovingVerb {
  verb: Extract<NodeVerb, 'drain' | 'evacuate'>;
  description: string;
  help: string;
  /** `node n3 is being evacuated` */
  begun: string;
  done: string;
  cancelled: string;
}

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
    cancelled: 'is not evacuated any more; what has moved stays where it is',
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
  { verb, begun, done, cancelled }: MovingVerb,
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
    const what =
      verb === 'drain' ? countOf(attachments, 'attachment') : countOf(replicas, 'replica');
    print.changed(plan.node, `node ${metadata.name} ${begun}: ${what} to move`);
  }
  if (!options.wait) return;
  const ended = await waitForNode(context, { id: metadata.id, name: metadata.name, verb });
  const next = `next: "storctl node uncordon ${metadata.name}" lets it take replicas and attachments again`;
  print.changed(ended, `node ${metadata.name} ${done}\n${next}`);
}
