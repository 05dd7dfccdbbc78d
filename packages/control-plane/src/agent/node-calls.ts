import { StorError } from '@stor/protocol';
import type { AgentPort } from '../agent-port.ts';
import type { NodeCalls } from './agent-peers.ts';
import type { Attachments } from './attachments.ts';
import type { DiskReporter } from './disk-reporter.ts';

/** What other nodes, and this one itself, may ask of this node. */
export function nodeCalls(parts: {
  agent: AgentPort;
  attachments: Attachments;
  disks: DiskReporter;
}): NodeCalls {
  const { agent, attachments, disks } = parts;
  return {
    releaseAttachment: ({ volumeId, epoch, ifIdle }) =>
      attachments.releaseHere(volumeId, epoch, ifIdle),
    attachHere: ({ volumeId, mode, ...options }) => attachments.attachHere(volumeId, mode, options),
    liveVolumes: (volumeIds) => agent.liveVolumes(volumeIds),
    handOver: ({ volumeId, epoch }) => agent.handOver(volumeId, epoch),
    addDisk: (order) => disks.addDisk(order),
    removeDisk: ({ diskId, lost }) => disks.removeDisk(diskId, lost),
    orderPrimary: ({ volumeId, epoch, order }) => agent.orderPrimary(volumeId, epoch, order),
    replicaSpace: (volumeIds) => agent.replicaSpace(volumeIds),
    orderHost: async (order, signal) => {
      if (agent.orderHost) return agent.orderHost(order, signal);
      throw new StorError('FAILED_PRECONDITION', 'this agent makes no devices on its host');
    },
  };
}
