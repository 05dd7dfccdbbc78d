import { StorError } from '@stor/protocol';
import type { NodeIntent, NodeVerb } from '@stor/protocol';
import type { IntendedNode } from './node-intent.ts';

/** Characters of the reason of a cordon. */
export const maxReasonLength = 200;

export interface IntentOrder {
  verb: NodeVerb;
  cancel?: boolean;
  reason?: string;
  /** of a maintenance */
  forMs?: number;
}

/** How long a maintenance lasts at least and at most (ms): replicas lack copies meanwhile. */
export const minMaintenanceMs = 1_000;
export const maxMaintenanceMs = 7 * 86_400_000;

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
  const { cancel = false } = order;
  switch (order.verb) {
    case 'cordon':
      return cordoned(intent, order, nowMs);
    case 'uncordon':
      return uncordoned(node);
    case 'drain':
    case 'evacuate':
    case 'decommission':
      return wished(node, order.verb, cancel, nowMs);
    case 'maintenance':
      return cancel ? without(intent, 'maintenance') : maintained(intent, order, nowMs);
    default:
      throw new StorError(
        'INVALID_ARGUMENT',
        `verb ${JSON.stringify(order.verb)} is not known: use cordon, uncordon, drain, evacuate, maintenance, decommission or forget`,
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

function without(intent: NodeIntent, part: keyof NodeIntent): NodeIntent | null {
  if (intent[part] === undefined) return null;
  const { [part]: _ended, ...kept } = intent;
  return kept;
}

function wished(
  { name, spec = {} }: NamedNode,
  verb: 'drain' | 'evacuate' | 'decommission',
  cancel: boolean,
  nowMs: number,
): NodeIntent | null {
  if (cancel) return without(spec, verb);
  if (spec.decommission && verb !== 'decommission') {
    throw new StorError(
      'FAILED_PRECONDITION',
      `node ${name} is being decommissioned, which does that too`,
    );
  }
  return spec[verb] ? null : { ...spec, [verb]: { sinceMs: nowMs } };
}

function maintained(intent: NodeIntent, { forMs = 0 }: IntentOrder, nowMs: number): NodeIntent {
  if (!Number.isInteger(forMs) || forMs < minMaintenanceMs || forMs > maxMaintenanceMs) {
    const days = maxMaintenanceMs / 86_400_000;
    throw new StorError(
      'INVALID_ARGUMENT',
      `a maintenance of ${forMs} ms is not possible: give a time from 1 second to ${days} days`,
    );
  }
  const sinceMs = intent.maintenance?.sinceMs ?? nowMs;
  return { ...intent, maintenance: { sinceMs, untilMs: nowMs + forMs } };
}
