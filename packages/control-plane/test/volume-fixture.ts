import { defaultPolicy } from '@stor/protocol';
import type { Attachment, VolumePolicy, VolumeReplica } from '@stor/protocol';
import type { LiveReplica, LiveVolume } from '../src/agent-port.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../src/resources/records.ts';

export const gib = 2 ** 30;
const addresses = { api: 'h:1', http: 'h:2', peers: ['h:3'], nbd: ['h:4'], nbdUnix: [] };

export interface NodeFacts {
  up?: boolean;
  downSinceMs?: number;
  freeBytes?: number;
  disk?: { state: string; message?: string; unusableSinceMs?: number };
  noDisk?: boolean;
}

/** A cluster with a node for each name; node `a` has disk `d-a`. */
export function clusterOf(nodes: Record<string, NodeFacts>): ClusterState {
  const state = emptyState();
  for (const [id, facts] of Object.entries(nodes)) addNode(state, id, facts);
  return state;
}

export function addNode(state: ClusterState, id: string, facts: NodeFacts = {}): void {
  const { up = true, downSinceMs, freeBytes = 50 * gib, disk = { state: 'online' } } = facts;
  const value = {
    id,
    name: id,
    labels: {},
    createdAtMs: 0,
    addresses,
    agentInstance: `i-${id}`,
    bootId: 'b',
    version: '1',
    ...(downSinceMs === undefined ? {} : { downSinceMs }),
  };
  state.nodes.set(id, { value, modRevision: 1 });
  if (up) setUp(state, id);
  if (facts.noDisk === true) return;
  const { message = '', ...rest } = disk;
  addDisk(state, id, `d-${id}`, { freeBytes, message, ...rest });
}

/** One more disk of a node. */
export function addDisk(
  state: ClusterState,
  nodeId: string,
  diskId: string,
  facts: Partial<DiskRecord> = {},
): void {
  state.disks.set(diskId, {
    modRevision: 1,
    value: {
      id: diskId,
      nodeId,
      path: `/disk/${diskId.startsWith('d-') ? diskId.slice(2) : diskId}`,
      tag: '',
      createdAtMs: 0,
      state: 'online',
      message: '',
      capacityBytes: 100 * gib,
      usedBytes: 0,
      freeBytes: 50 * gib,
      ...facts,
    },
  });
}

export function setUp(state: ClusterState, id: string, agentInstance = `i-${id}`): void {
  state.leases.set(id, { modRevision: 1, value: { agentInstance, bootId: 'b', addresses } });
}

export interface VolumeFacts {
  /** wanted number @default as many as there are */
  replicas?: number;
  policy?: Partial<VolumePolicy>;
  inSync?: string[];
  /** by node */
  of?: Record<string, Partial<VolumeReplica>>;
  holder?: Pick<Attachment, 'nodeId'> & Partial<Attachment>;
  status?: Partial<StoredVolume['status']>;
  name?: string;
}

/** Volume db with replica `r-a` on disk `d-a` of node `a`, and so on. */
export function volumeOn(nodeIds: string[], facts: VolumeFacts = {}): StoredVolume {
  const { replicas: wanted = nodeIds.length, name = 'db' } = facts;
  const prefix = name === 'db' ? '' : `${name}-`;
  const replicas = nodeIds.map((nodeId) => ({
    id: `r-${prefix}${nodeId}`,
    nodeId,
    diskId: `d-${nodeId}`,
    state: 'ready' as const,
    ...facts.of?.[nodeId],
  }));
  const inSync = (facts.inSync ?? nodeIds).map((nodeId) => `r-${prefix}${nodeId}`);
  const attachment: Attachment | null = facts.holder
    ? {
        agentInstance: `i-${facts.holder.nodeId}`,
        epoch: 1,
        mode: 'auto',
        sinceMs: 1_000,
        ...facts.holder,
      }
    : null;
  return {
    metadata: { id: `v-${name}`, name, labels: {}, createdAtMs: 5, resourceVersion: 0 },
    spec: {
      sizeBytes: gib,
      replicas: wanted,
      policy: { ...defaultPolicy(wanted), ...facts.policy },
    },
    status: {
      phase: 'ready',
      message: '',
      epoch: attachment?.epoch ?? 0,
      attachment,
      cleanRelease: true,
      segments: [{ index: 0, setRevision: 1, replicas, inSync }],
      ...facts.status,
    },
    requestId: '',
    failure: null,
  };
}

export function put(state: ClusterState, volume: StoredVolume): void {
  const { id, name } = volume.metadata;
  state.volumes.set(id, { value: volume, modRevision: 1 });
  state.names.set(name, { value: id, modRevision: 1 });
}

export function live(
  state: string,
  facts: Partial<LiveVolume> = {},
  replicas: LiveReplica[] = [],
): LiveVolume {
  return {
    volumeId: 'v-db',
    epoch: 1,
    state,
    reason: '',
    stateAgeMs: 4_000,
    connections: 1,
    allocatedBytes: 8192,
    settleBytesRemaining: 0,
    replicas,
    ...facts,
  };
}
