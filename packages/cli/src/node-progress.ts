import { StorError, formatByteSize, hasCode } from '@stor/protocol';
import type { Node, NodePlan, Rebuild } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import { formatRate } from './core/rebuild-text.ts';
import { countOf } from './node-plan-views.ts';
import { pause } from './pause.ts';
import { StatusLine } from './status-line.ts';

/** Time between two looks at a node that is being emptied (ms). */
const lookEveryMs = 1_000;
/** A control plane that does not answer for longer ends the wait (ms): elections take less. */
const maxSilenceMs = 60_000;

/**
 * Waits until the node has nothing more of what the verb moves away, or, when it is decommissioned, until it
 * is no node any more: then the last that was known of it is returned. The line on stderr says how far it
 * is. ABORTED when somebody cancels it.
 */
export async function waitForNode(
  context: CommandContext,
  order: { node: Node; verb: 'drain' | 'evacuate' | 'decommission' },
): Promise<Node> {
  const { api, io, print, call, clock, signal } = context;
  const { verb } = order;
  const { id, name } = order.node.metadata;
  context.goesOn(
    `it goes on by itself: "storctl node ${verb} ${name} --plan" shows what is left of it`,
  );
  const line = new StatusLine(io, print.quiet);
  let answeredMs = clock.monotonicMs();
  let last: Node | null = null;
  try {
    for (;;) {
      try {
        const [node, plan, { rebuilds }] = await Promise.all([
          api.getNode({ name: id }, call),
          api.orderNode({ name: id, verb, plan: true }, call),
          api.listRebuilds({ name: '' }, call),
        ]);
        answeredMs = clock.monotonicMs();
        const { attachments, replicas } = plan.remaining;
        last = node;
        if (verb !== 'decommission' && attachments + replicas === 0) return node;
        if (!node.spec[verb] && !node.spec.decommission) {
          throw new StorError('ABORTED', `the ${verb} of node ${name} was cancelled`);
        }
        line.show(...progressOf(plan, rebuilds));
      } catch (error) {
        // it was there when the order was taken
        if (verb === 'decommission' && hasCode(error, 'NOT_FOUND')) return last ?? order.node;
        if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT') || signal.aborted) throw error;
        if (clock.monotonicMs() - answeredMs > maxSilenceMs) throw error;
        line.show(`waiting: ${error.message}`, 'unavailable');
      }
      await pause(clock, lookEveryMs, signal);
    }
  } finally {
    line.clear();
  }
}

/** The line, and what of it is worth a new one in a log. */
function progressOf(
  { verb, remaining, blocked, notes }: NodePlan,
  rebuilds: Rebuild[],
): [string, string] {
  const { attachments, replicas } = remaining;
  const counts = [
    attachments > 0 ? countOf(attachments, 'attachment') : '',
    replicas > 0 ? countOf(replicas, 'replica') : '',
  ];
  const moving = counts.filter((count) => count !== '').join(' and ');
  // only a node that is decommissioned is waited for with nothing to move
  const last = verb === 'decommission' && notes[0] !== undefined ? `: ${notes[0]}` : '';
  const text =
    moving === '' ? `waiting for the node to leave${last}` : `waiting for ${moving} to move`;
  const [first] = blocked;
  const stuck = first
    ? `; ${first.replicaId === '' ? 'the attachment' : 'that'} of volume ${first.volume} can go nowhere: ${first.reason}`
    : '';
  const copying = replicas > 0 ? copyText(rebuilds) : '';
  return [`${text}${copying}${stuck}`, `${text}${stuck}`];
}

function copyText(rebuilds: Rebuild[]): string {
  const moving = rebuilds.filter(({ reason }) => reason === 'move');
  const left = moving.reduce((sum, { bytesRemaining }) => sum + bytesRemaining, 0);
  const rate = moving.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
  if (left === 0) return '';
  return `, ${formatByteSize(left)} left${rate > 0 ? ` at ${formatRate(rate)}` : ''}`;
}
