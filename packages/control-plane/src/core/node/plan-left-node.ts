import type { NodePlan, NodeVerb } from '@stor/protocol';
import { textOfEnd } from '../../resources/forgotten-record.ts';
import type { ForgottenRecord } from '../../resources/forgotten-record.ts';

/**
 * What the order answers that took a node out of the cluster, when it is sent again: what was lost or moved
 * with it is not known any more. Null: no order of this kind ends in that.
 */
export function planOfLeft(verb: NodeVerb, left: ForgottenRecord): NodePlan | null {
  if (verb !== 'forget' && verb !== 'decommission') return null;
  if (verb === 'decommission' && left.how !== 'decommissioned') return null;
  const { id, name } = left;
  return {
    verb,
    node: {
      metadata: { id, name, labels: {}, createdAtMs: 0, resourceVersion: 0 },
      spec: {},
      status: {
        state: 'down',
        addresses: { api: '', http: '', peers: [], nbd: [], nbdUnix: [] },
        agentInstance: '',
        bootId: '',
        version: '',
        raftRole: 'none',
        computeOnly: false,
      },
    },
    attachments: [],
    moves: [],
    bytes: 0,
    effects: [],
    blocked: [],
    remaining: { attachments: 0, replicas: 0 },
    safe: true,
    reasons: [],
    notes: [textOfEnd(left)],
    rate: { bytesPerSecond: 0, source: 'assumed' },
    etaMs: 0,
  };
}
