import { StorError } from '@stor/protocol';
import type { Node, NodePlan, StorApi } from '@stor/protocol';
import { startMs } from './fake-volume.ts';

type NodeOrder = Parameters<StorApi['orderNode']>[0];
export type FakeNodePlan = Partial<Omit<NodePlan, 'verb' | 'node'>>;

/** What a control plane answers whose plans look like this, one after the other; the last one stays. */
export function orderFakeNode(node: Node, order: NodeOrder, looks: FakeNodePlan[]): NodePlan {
  const { verb, plan = false, cancel = false, force = false, reason = '', forMs = 0 } = order;
  const spec = { ...node.spec };
  const sinceMs = startMs;
  if (verb === 'cordon') spec.cordoned = { sinceMs, reason };
  if (verb === 'uncordon') node.spec = {};
  if (verb === 'drain' || verb === 'evacuate') spec[verb] = cancel ? null : { sinceMs };
  if (verb === 'maintenance') {
    spec.maintenance = cancel ? null : { sinceMs, untilMs: startMs + forMs };
  }
  const body = (looks.length > 1 ? looks.shift() : looks[0]) ?? {};
  if (body.safe === false && !plan && !force && !cancel) {
    throw new StorError('UNSAFE_PLAN', `node ${node.metadata.name}: ${body.reasons?.[0] ?? ''}`);
  }
  if (!plan && verb !== 'uncordon') node.spec = spec;
  return {
    verb,
    node: plan ? { ...node, spec } : node,
    attachments: [],
    moves: [],
    bytes: 0,
    rate: { bytesPerSecond: 64 * 2 ** 20, source: 'assumed' },
    etaMs: 0,
    effects: [],
    blocked: [],
    remaining: { attachments: 0, replicas: 0 },
    safe: true,
    reasons: [],
    notes: [],
    ...body,
  };
}
