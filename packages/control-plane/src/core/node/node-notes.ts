import type { EventNote, EventReason, NodePlan, NodeVerb } from '@stor/protocol';

/** A node, as events name it. */
export interface NotedNode {
  id: string;
  name: string;
}

function noteOf(node: NotedNode, reason: EventReason, message: string): EventNote {
  const { id, name } = node;
  return { type: 'normal', reason, object: { kind: 'node', id, name }, message };
}

const counted = (count: number, noun: string): string =>
  `${count} ${noun}${count === 1 ? '' : 's'}`;

/**
 * Tells of an order that was taken: with what it begins. `isCancel`: it takes one back; `until`: when a
 * maintenance ends, in words.
 */
export function orderNotes(
  plan: Pick<NodePlan, 'verb' | 'node' | 'remaining' | 'safe' | 'reasons'>,
  { isCancel, until }: { isCancel: boolean; until: string },
): EventNote[] {
  const { verb, node, remaining, safe, reasons } = plan;
  const { id, name } = node.metadata;
  const noted = { id, name };
  if (isCancel) return [cancelNote(noted, verb)];
  const begun = begunNote(noted, plan, until);
  const { attachments, replicas } = remaining;
  if (!safe) {
    const message = `${begun.message}; an operator said so, although that is not safe: ${reasons[0] ?? ''}`;
    return [{ ...begun, type: 'warning', message }];
  }
  // who carries it out sees it end only when there is something to do
  if (verb === 'drain' && attachments === 0) return [begun, doneNote(noted, 'drain')];
  if (verb === 'evacuate' && replicas === 0) return [begun, doneNote(noted, 'evacuate')];
  return [begun];
}

function begunNote(
  node: NotedNode,
  { verb, node: { spec }, remaining }: Pick<NodePlan, 'verb' | 'node' | 'remaining'>,
  until: string,
): EventNote {
  const { name } = node;
  const attachments = counted(remaining.attachments, 'attachment');
  const replicas = counted(remaining.replicas, 'replica');
  switch (verb) {
    case 'cordon': {
      const reason = spec.cordoned?.reason ?? '';
      const why = reason === '' ? '' : ` (${reason})`;
      return noteOf(node, 'node-cordoned', `node ${name} takes nothing new${why}`);
    }
    case 'uncordon':
      return noteOf(node, 'node-uncordoned', `node ${name} takes replicas and attachments again`);
    case 'drain':
      return noteOf(
        node,
        'node-drain-started',
        `node ${name} is being drained: ${attachments} to move`,
      );
    case 'evacuate':
      return noteOf(
        node,
        'node-evacuation-started',
        `node ${name} is being evacuated: ${replicas} to move`,
      );
    case 'maintenance':
      return noteOf(
        node,
        'node-maintenance-started',
        `node ${name} is in maintenance until ${until}: its replicas are not replaced`,
      );
    case 'decommission':
      return noteOf(
        node,
        'node-decommission-started',
        `node ${name} is being decommissioned: ${attachments} and ${replicas} to move`,
      );
    case 'forget':
      return forgottenNote(node, []);
  }
}

function cancelNote(node: NotedNode, verb: NodeVerb): EventNote {
  const { name } = node;
  if (verb === 'maintenance') return maintenanceOverNote(node);
  const words: Partial<Record<NodeVerb, string>> = {
    drain: 'drained',
    evacuate: 'evacuated',
    decommission: 'decommissioned',
  };
  const message = `node ${name} is not ${words[verb] ?? verb} any more: that was taken back`;
  return noteOf(node, 'node-order-cancelled', message);
}

export function maintenanceOverNote(node: NotedNode): EventNote {
  const message = `the maintenance of node ${node.name} is over: its replicas are replaced again`;
  return noteOf(node, 'node-maintenance-ended', message);
}

/** What was ordered is done, as far as it is seen. */
export function doneNote(node: NotedNode, verb: 'drain' | 'evacuate'): EventNote {
  return verb === 'drain'
    ? noteOf(node, 'node-drained', `node ${node.name} has no attachment any more`)
    : noteOf(node, 'node-evacuated', `node ${node.name} has no replica any more`);
}

export function decommissionedNote(node: NotedNode): EventNote {
  const message = `node ${node.name} held nothing any more and has left the cluster`;
  return noteOf(node, 'node-decommissioned', message);
}

/** `lost`: volumes that went with it. */
export function forgottenNote(node: NotedNode, lost: readonly string[]): EventNote {
  const named = lost.slice(0, 5).join(', ');
  const more = lost.length > 5 ? `, ... (${lost.length})` : '';
  const what = lost.length === 0 ? '' : `, with the last copy of ${named}${more}`;
  const message = `node ${node.name} is lost for ever, as an operator said${what}`;
  return { ...noteOf(node, 'node-forgotten', message), type: 'warning' };
}

export function refusedNote(node: NotedNode, message: string): EventNote {
  return { ...noteOf(node, 'node-order-refused', message), type: 'warning' };
}
