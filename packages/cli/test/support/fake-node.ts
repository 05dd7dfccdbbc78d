import { StorError } from '@stor/protocol';
import type { LossSimulation, Node, NodePlan, StorApi, UpgradePlan } from '@stor/protocol';
import { hex, startMs } from './fake-volume.ts';

type NodeOrder = Parameters<StorApi['orderNode']>[0];
export type FakeNodePlan = Partial<Omit<NodePlan, 'verb' | 'node'>>;

/** What a control plane answers whose plans look like this, one after the other; the last one stays. */
export function orderFakeNode(
  node: Node,
  order: NodeOrder,
  looks: FakeNodePlan[],
  leave: (node: Node) => void,
): NodePlan {
  const { verb, plan = false, cancel = false, force = false, reason = '', forMs = 0 } = order;
  const spec = { ...node.spec };
  const sinceMs = startMs;
  if (verb === 'cordon') spec.cordoned = { sinceMs, reason };
  if (verb === 'uncordon') node.spec = {};
  if (verb === 'drain' || verb === 'evacuate' || verb === 'decommission') {
    spec[verb] = cancel ? null : { sinceMs };
  }
  if (verb === 'maintenance') {
    spec.maintenance = cancel ? null : { sinceMs, untilMs: startMs + forMs };
  }
  // a look at the last plan finds what it said to be done
  const isLast = looks.length <= 1;
  const body = (isLast ? looks[0] : looks.shift()) ?? {};
  if (body.safe === false && !plan && !force && !cancel) {
    throw new StorError('UNSAFE_PLAN', `node ${node.metadata.name}: ${body.reasons?.[0] ?? ''}`);
  }
  if (verb === 'forget' && node.status.state === 'up') {
    throw new StorError('FAILED_PRECONDITION', `node ${node.metadata.name} is up`);
  }
  const isGone = plan ? isLast && node.spec.decommission : verb === 'forget';
  if (isGone) leave(node);
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

export function fakeSimulation(down: string[]): LossSimulation {
  const volume = { volume: 'db', volumeId: hex('v', 1) };
  const text = '1 of 2 replicas in sync, and it is served';
  return {
    nodes: down.map((word) => word.replace('node=', '')),
    disks: [],
    counts: { readWrite: 4, degraded: 1, suspended: 0, unavailable: 0, lost: 0 },
    volumes: [{ ...volume, becomes: 'degraded', inSync: 1, wanted: 2, text }],
    recovery: {
      replicas: 1,
      bytes: 2 ** 30,
      rate: { bytesPerSecond: 2 ** 26, source: 'assumed' },
      etaMs: 16_000,
      blocked: [{ ...volume, segment: 0, replicaId: hex('r', 2), reason: 'n1 is cordoned' }],
    },
    raft: { voters: 3, left: 2, needed: 2, hasQuorum: true },
  };
}

/** A node that is down is in the way. */
export function fakeUpgrade(nodes: Node[]): UpgradePlan {
  const down = nodes.filter(({ status }) => status.state === 'down');
  const reasons = down.map(({ metadata }) => `${metadata.name} is down: start that first`);
  return {
    versions: [{ version: '0.1.0', nodes: nodes.map(({ metadata }) => metadata.name) }],
    steps: nodes.map(({ metadata, status }) => ({
      node: metadata.name,
      nodeId: metadata.id,
      version: status.version,
      raftRole: status.raftRole,
      attachments: 0,
      effects: [],
      reasons: [],
    })),
    safe: reasons.length === 0,
    reasons,
  };
}
