import {
  StorError,
  changePolicy,
  defaultPolicy,
  effectiveQos,
  type Node,
  type QosSpec,
  type ReplicaPurpose,
  type Snapshot,
  type Volume,
  type VolumeExplanation,
  type VolumePolicy,
} from '@stor/protocol';

export const startMs = Date.UTC(2026, 0, 2, 3, 4, 5);
export const hex = (kind: string, n: number) => `${kind}-${n.toString(16).padStart(16, '0')}`;

type FakeReplica = Volume['status']['replicas'][number];

export function fakeReplica(
  node: Node,
  index: number,
  purpose: ReplicaPurpose,
  state: FakeReplica['state'],
): FakeReplica {
  return {
    id: hex('r', index),
    segment: 0,
    nodeId: node.metadata.id,
    node: node.metadata.name,
    diskId: node.metadata.id.replace('n-', 'd-'),
    state,
    bytesRemaining: 0,
    purpose,
    leaving: false,
  };
}

export function fakeVolume(
  number: number,
  request: {
    name: string;
    sizeBytes: number;
    replicas: number;
    labels: Record<string, string>;
    segmentBytes?: number;
    policy?: Partial<VolumePolicy>;
    qos?: QosSpec;
    policyName?: string;
  },
  nodes: readonly Node[],
): Volume {
  const replicas = request.replicas || 3;
  const { segmentBytes } = request;
  const segments = segmentBytes ? Math.ceil(request.sizeBytes / segmentBytes) : 1;
  return {
    metadata: {
      id: hex('v', number),
      name: request.name,
      labels: request.labels,
      createdAtMs: startMs,
      resourceVersion: 7,
    },
    spec: {
      sizeBytes: Math.ceil(request.sizeBytes / 4096) * 4096,
      ...(segmentBytes ? { segmentBytes } : {}),
      replicas,
      policy: changePolicy(defaultPolicy(replicas), request.policy ?? {}),
      ...(request.qos ? { qos: request.qos } : {}),
      ...(request.policyName ? { policyName: request.policyName } : {}),
    },
    status: {
      health: 'healthy',
      message: '',
      serving: '',
      primary: null,
      epoch: 0,
      setRevision: 1,
      replicas: Array.from({ length: segments }, (_, segment) =>
        nodes.slice(0, replicas).map((node, index) => ({
          ...fakeReplica(node, segment * replicas + index + 1, 'volume', 'in-sync'),
          segment,
        })),
      ).flat(),
      allocatedBytes: 256 * 1024,
      snapshots: 0,
      origin: null,
      space: null,
      publications: [],
      nbdUri: `nbd://127.0.0.1:17113/${request.name}`,
      qos: fakeQos(request.qos ?? {}),
    },
  };
}

function fakeQos(own: QosSpec): NonNullable<Volume['status']['qos']> {
  const { qos, sources } = effectiveQos(own, null);
  return { effective: qos, sources };
}

/** As the control plane: more replicas are placed and empty, surplus ones are marked. */
export function changeReplicas(volume: Volume, count: number, nodes: readonly Node[]): void {
  const { spec, status } = volume;
  const staying = status.replicas.filter((replica) => !replica.leaving);
  for (const replica of staying.slice(count)) replica.leaving = true;
  const free = nodes.filter(
    (node) => !status.replicas.some((replica) => replica.nodeId === node.metadata.id),
  );
  const missing = count - staying.length;
  if (missing > free.length) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${volume.metadata.name} needs ${count} nodes that are up and have a disk, there are ${staying.length + free.length}`,
    );
  }
  for (const node of free.slice(0, Math.max(0, missing))) {
    status.replicas.push(fakeReplica(node, status.replicas.length + 1, 'update', 'creating'));
  }
  spec.replicas = count;
}

/** Everything that was asked for has happened: the new ones are in sync, the leaving ones gone. */
export function settleReplicas(volume: Volume): void {
  const { status } = volume;
  status.replicas = status.replicas.filter((replica) => !replica.leaving);
  for (const replica of status.replicas) {
    Object.assign(replica, { state: 'in-sync', bytesRemaining: 0 });
  }
}

export function fakeExplanation(volume: Volume): VolumeExplanation {
  const { metadata, status } = volume;
  return {
    name: metadata.name,
    volumeId: metadata.id,
    health: status.health,
    state: `all ${volume.spec.replicas} replicas are in sync; it is attached nowhere`,
    causes: [],
    holder: '',
    sinceMs: null,
    next: ['it is attached when a client connects'],
    advice: [],
  };
}

export function fakeSnapshot(
  volume: Volume,
  number: number,
  request: { name: string; labels?: Record<string, string>; groupId?: string; atMs?: number },
): Snapshot {
  const { id, name } = volume.metadata;
  return {
    metadata: {
      id: hex('s', number),
      name: `${name}@${request.name}`,
      labels: request.labels ?? {},
      createdAtMs: request.atMs ?? startMs,
      resourceVersion: 9,
    },
    spec: { volumeId: id, sizeBytes: volume.spec.sizeBytes, groupId: request.groupId ?? '' },
    status: { volume: name, state: 'ready', message: '', pausedMs: 3.5, ownBytes: 512 * 1024 },
  };
}
