import { StorError } from '@stor/protocol';
import type { Attachment, NodeId } from '@stor/protocol';
import type { CallContext, UnaryMethod } from '../api/serve-unary.ts';
import { clusterIdKey, nodeIdKey } from './agent-peers.ts';
import type { AttachOrder, NodeCalls } from './agent-peers.ts';
import type { HostOrder } from '../host-order.ts';
import { decodedOrder } from './primary-order-wire.ts';
import type { WireOrder } from './primary-order-wire.ts';

const modes: readonly string[] = ['auto', 'manual', 'repair'] satisfies Attachment['mode'][];

function isMode(mode: string): mode is Attachment['mode'] {
  return modes.includes(mode);
}

/** The service `stor.internal.v1.Agent` of this node: checks that it is meant, then does it. */
export function agentService(
  calls: NodeCalls,
  identity: { clusterId: string; nodeId: NodeId },
): Record<string, UnaryMethod> {
  const checked =
    <Q>(run: (request: Q, context: CallContext) => Promise<object>): UnaryMethod =>
    async (request: Q, context: CallContext) => {
      const clusterId = context.header(clusterIdKey);
      const nodeId = context.header(nodeIdKey);
      if (clusterId !== identity.clusterId) {
        throw new StorError(
          'FOREIGN_DATA',
          `this node belongs to cluster ${identity.clusterId}, the caller to ${JSON.stringify(clusterId)}`,
        );
      }
      if (nodeId !== identity.nodeId) {
        throw new StorError(
          'UNAVAILABLE',
          `node ${JSON.stringify(nodeId)} was meant and ${identity.nodeId} answers: its address has changed`,
          { details: { unreachable: nodeId } },
        );
      }
      return run(request, context);
    };
  return {
    releaseAttachment: checked(async (request: Parameters<NodeCalls['releaseAttachment']>[0]) => ({
      result: await calls.releaseAttachment(request),
    })),
    attachHere: checked(async (request: Omit<AttachOrder, 'mode'> & { mode: string }) => {
      const { mode } = request;
      if (!isMode(mode)) throw new StorError('INVALID_ARGUMENT', `no attachment mode ${mode}`);
      return calls.attachHere({ ...request, mode });
    }),
    handOver: checked(async (request: Parameters<NodeCalls['handOver']>[0]) => ({
      result: await calls.handOver(request),
    })),
    liveVolumes: checked(async ({ volumeIds }: { volumeIds: string[] }) => ({
      volumes: await calls.liveVolumes(volumeIds.length > 0 ? volumeIds : undefined),
    })),
    addDisk: checked((request: Parameters<NodeCalls['addDisk']>[0]) => calls.addDisk(request)),
    removeDisk: checked(async (request: Parameters<NodeCalls['removeDisk']>[0]) => {
      await calls.removeDisk(request);
      return {};
    }),
    orderPrimary: checked(async (request: WireOrder) => {
      const { volumeId, epoch } = request;
      return calls.orderPrimary({ volumeId, epoch, order: decodedOrder(request) });
    }),
    replicaSpace: checked(async ({ volumeIds }: { volumeIds: string[] }) => ({
      replicas: await calls.replicaSpace(volumeIds),
    })),
    orderHost: checked((order: HostOrder, { signal }) => calls.orderHost(order, signal)),
  };
}
