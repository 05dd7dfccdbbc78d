import { StorError } from '@stor/protocol';
import type { NodeIntent, NodeVerb } from '@stor/protocol';
import type { IntendedNode } from './node-intent.ts';

/** Characters of the reason of a cordon. */
export const maxReasonLength = 200;

export interface IntentOrder {
  verb: NodeVerb;
  cancel?: boolean;
  reason?: string;
}

type NamedNode = IntendedNode & { name: string };

/**
 * What is wanted of the node after this order; null: nothing changes. INVALID_ARGUMENT,
 * FAILED_PRECONDITION. `nowMs` is of the wall clock.
 */
export function changedIntent(
  node: NamedNode,
  order: IntentOrder,
  nowMs: number,
): NodeIntent | null {
  const intent: NodeIntent = node.spec ?? {};
  switch (order.verb) {
    case 'cordon':
      return cordoned(intent, order, nowMs);
    case 'uncordon':
      return uncordoned(node);
    default:
      throw new StorError(
        'INVALID_ARGUMENT',
        `verb ${JSON.stringify(order.verb)} is not known: use cordon or uncordon`,
      );
  }
}

function cordoned(intent: NodeIntent, order: IntentOrder, nowMs: number): NodeIntent | null {
  const { reason = '' } = order;
  if (reason.length > maxReasonLength) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `the reason has ${reason.length} characters: use at most ${maxReasonLength}`,
    );
  }
  if (intent.cordoned && (reason === '' || reason === intent.cordoned.reason)) return null;
  return { ...intent, cordoned: { sinceMs: intent.cordoned?.sinceMs ?? nowMs, reason } };
}

/** It takes everything again: what else kept it from that ends too. */
function uncordoned({ name, spec = {} }: NamedNode): NodeIntent | null {
  if (spec.decommission) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `node ${name} is being decommissioned: "storctl node decommission ${name} --cancel" ends that`,
    );
  }
  const { cordoned, drain, evacuate, ...kept } = spec;
  return cordoned || drain || evacuate ? kept : null;
}
