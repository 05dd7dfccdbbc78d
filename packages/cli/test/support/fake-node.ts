import type { Node, NodePlan, StorApi } from '@stor/protocol';
import { startMs } from './fake-volume.ts';

type NodeOrder = Parameters<StorApi['orderNode']>[0];

/** What a control plane without any volume answers. */
export function orderFakeNode(node: Node, order: NodeOrder): NodePlan {
  const { verb, plan = false, cancel = false, reason = '' } = order;
  const spec = { ...node.spec };
  if (verb === 'cordon') spec.cordoned = { sinceMs: startMs, reason };
  if (verb === 'uncordon') delete spec.cordoned;
  if (!plan && !cancel) node.spec = spec;
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
    safe: true,
    reasons: [],
  };
}
