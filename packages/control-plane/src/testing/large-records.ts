import { defaultPolicy, type VolumeReplica } from '@stor/protocol';
import type { Operation } from '../cluster-store.ts';
import * as keys from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type {
  DiskRecord,
  NodeLeaseRecord,
  NodeRecord,
  ReplicaReport,
  StoredVolume,
} from '../resources/records.ts';

const GiB = 2 ** 30;
const replicas = 3;

/** Ids have the length of real ones, so that records have their size. */
const hex = (n: number): string => n.toString(16).padStart(16, '0');
export const nodeIdOf = (node: number): string => `n-${hex(node)}`;
export const diskIdOf = (node: number): string => `d-${hex(node)}`;
export const volumeIdOf = (volume: number): string => `v-${hex(volume)}`;
const replicaIdOf = (volume: number, copy: number): string => `r-${hex(volume * 8 + copy)}`;

export interface LargeShape {
  nodes: number;
  volumes: number;
}

/**
 * What a cluster of this size keeps in its store, as real clusters write it: three replicas of each
 * volume on neighbouring nodes, three volumes of four attached. At least four nodes.
 */
export function* largeRecords({ nodes, volumes }: LargeShape): Generator<Operation> {
  yield put(keys.clusterKey, { clusterId: `c-${hex(1)}`, name: 'large', createdAtMs: 1 });
  const placed = Array.from({ length: nodes }, () => [] as string[]);
  const all = Array.from({ length: volumes }, (_, volume) => volumeOf(volume, nodes));
  for (const { status } of all) {
    for (const { id, nodeId } of status.segments[0]?.replicas ?? []) {
      placed[parseInt(nodeId.slice(2), 16)]?.push(id);
    }
  }
  for (let node = 0; node < nodes; node += 1) {
    yield put(keys.nodeKey(nodeIdOf(node)), nodeOf(node));
    yield put(keys.nodeLeaseKey(nodeIdOf(node)), leaseOf(node));
    yield put(keys.diskKey(diskIdOf(node)), diskOf(node, placed[node] ?? []));
  }
  for (const volume of all) {
    const { id, name } = volume.metadata;
    yield put(keys.volumeKey(id), volume);
    yield { type: 'put', key: keys.volumeNameKey(name), value: new TextEncoder().encode(id) };
    for (const { id: replicaId, nodeId } of volume.status.segments[0]?.replicas ?? []) {
      const facts = { state: 'ready', code: '', message: '' };
      const report: ReplicaReport = { replicaId, volumeId: id, nodeId, ...facts };
      yield put(keys.replicaReportKey(replicaId), report);
    }
  }
}

function put(key: string, record: object): Operation {
  return { type: 'put', key, value: encodeRecord(record) };
}

function addressesOf(node: number): NodeRecord['addresses'] {
  const host = `10.${node >> 16}.${(node >> 8) & 255}.${node & 255}`;
  return {
    api: `${host}:7001`,
    http: `${host}:7000`,
    peers: [`${host}:7002`],
    nbd: [`${host}:10809`],
    nbdUnix: ['/run/stor/nbd-0.sock'],
  };
}

function nodeOf(node: number): NodeRecord {
  return {
    id: nodeIdOf(node),
    name: `node-${node}`,
    labels: { zone: `z${node % 3}`, rack: `r${Math.floor(node / 20)}` },
    createdAtMs: 1_700_000_000_000,
    addresses: addressesOf(node),
    ...instanceOf(node),
    version: '0.1.0',
  };
}

const instanceOf = (node: number): { agentInstance: string; bootId: string } => ({
  agentInstance: `a-${hex(node)}${hex(node)}`,
  bootId: `${hex(node)}-${hex(node)}`,
});

function leaseOf(node: number): NodeLeaseRecord {
  return { ...instanceOf(node), addresses: addressesOf(node) };
}

function diskOf(node: number, placed: readonly string[]): DiskRecord {
  const replicaBytes = Object.fromEntries(placed.map((id) => [id, 3 * GiB]));
  const usedBytes = placed.length * 3 * GiB;
  const capacityBytes = 8_000 * GiB;
  return {
    id: diskIdOf(node),
    nodeId: nodeIdOf(node),
    path: '/var/lib/stor/data/disk-0',
    tag: 'ssd',
    createdAtMs: 1_700_000_000_000,
    state: 'online',
    message: '',
    capacityBytes,
    usedBytes,
    freeBytes: capacityBytes - usedBytes,
    replicaBytes,
  };
}

function volumeOf(volume: number, nodes: number): StoredVolume {
  // a step that has no factor in common with any usual number of nodes spreads neighbours
  const first = (volume * 7_919) % nodes;
  const copies = Array.from({ length: replicas }, (_, copy): VolumeReplica => {
    const node = (first + copy) % nodes;
    return {
      id: replicaIdOf(volume, copy),
      nodeId: nodeIdOf(node),
      diskId: diskIdOf(node),
      state: 'ready',
    };
  });
  const holder = volume % 4 === 3 ? null : (first + (volume % replicas)) % nodes;
  const epoch = holder === null ? 0 : 1;
  const { agentInstance } = instanceOf(holder ?? 0);
  const nodeId = nodeIdOf(holder ?? 0);
  return {
    metadata: {
      id: volumeIdOf(volume),
      name: `pvc-${hex(volume)}-${hex(volume)}`,
      labels: { app: `app-${volume % 100}`, team: `team-${volume % 10}` },
      createdAtMs: 1_700_000_000_000,
      resourceVersion: 0,
    },
    spec: {
      sizeBytes: 10 * GiB,
      segmentBytes: 64 * GiB,
      replicas,
      policy: defaultPolicy(replicas),
    },
    status: {
      phase: 'ready',
      message: '',
      epoch,
      attachment:
        holder === null ? null : { nodeId, agentInstance, epoch, mode: 'auto', sinceMs: 1 },
      cleanRelease: holder === null,
      segments: [
        {
          index: 0,
          setRevision: 1,
          changedAtMs: 1_700_000_000_000,
          replicas: copies,
          inSync: copies.map(({ id }) => id),
        },
      ],
    },
    requestId: `${hex(volume)}-${hex(volume)}`,
    failure: null,
  };
}
