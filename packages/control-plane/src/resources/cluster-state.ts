import type {
  DiskId,
  NodeId,
  ReplicaId,
  ScrubSettings,
  SnapshotId,
  VolumeId,
} from '@stor/protocol';
import { StorError } from '@stor/protocol';
import { decodeRebalance, type RebalanceRecord } from '../core/rebalance/rebalance-record.ts';
import type { ScrubRecord } from '../core/scrub/scrub-record.ts';
import { DiskTable } from './disk-table.ts';
import { decodeForgotten, type ForgottenRecord } from './forgotten-record.ts';
import * as keys from './keys.ts';
import { decodeMember, type MemberRecord } from './member-record.ts';
import { decodeMemberSettings, type MemberSettings } from './member-settings.ts';
import { decodeQosClasses, type QosClassesRecord } from './qos-classes-record.ts';
import { decodePolicy, decodeShippedPolicies } from './policy-record.ts';
import type { PolicyRecord, ShippedPolicies } from './policy-record.ts';
import * as records from './records.ts';
import { ReportTable } from './report-table.ts';
import { decodeSharesApplied, decodeTenant, decodeTenantShares } from './tenant-record.ts';
import type { TenantRecord, TenantShares } from './tenant-record.ts';
import { VolumeTable } from './volume-table.ts';

/** A record and the revision of its last change: what compare-and-set needs. */
export interface Versioned<T> {
  value: T;
  modRevision: number;
}

/**
 * All resources as one member of the store sees them, decoded. Tables are maps; those of `emptyState`
 * keep indexes of themselves, which `state-index.ts` asks.
 */
export interface ClusterState {
  revision: number;
  cluster: Versioned<records.ClusterRecord> | null;
  /** null: the defaults hold */
  settings: Versioned<records.SettingsRecord> | null;
  nodes: Map<NodeId, Versioned<records.NodeRecord>>;
  /** nodes that are gone for ever: what lay on them is lost, or was moved away before */
  forgotten: Map<NodeId, Versioned<ForgottenRecord>>;
  /** nodes that are up */
  leases: Map<NodeId, Versioned<records.NodeLeaseRecord>>;
  disks: Map<DiskId, Versioned<records.DiskRecord>>;
  volumes: Map<VolumeId, Versioned<records.StoredVolume>>;
  names: Map<string, Versioned<VolumeId>>;
  trash: Map<VolumeId, Versioned<records.StoredVolume>>;
  deleted: Map<VolumeId, Versioned<records.StoredVolume>>;
  reports: Map<ReplicaId, Versioned<records.ReplicaReport>>;
  scrubs: Map<VolumeId, Versioned<ScrubRecord>>;
  /** null: nobody has changed them */
  scrubSettings: Versioned<ScrubSettings> | null;
  /** null: nobody has changed them */
  qosClasses: Versioned<QosClassesRecord> | null;
  /** null: there never was one */
  rebalance: Versioned<RebalanceRecord> | null;
  /** of the embedded cluster store, by node */
  members: Map<NodeId, Versioned<MemberRecord>>;
  /** null: nobody has changed them */
  memberSettings: Versioned<MemberSettings> | null;
  /** wishes that volumes share, by name */
  policies: Map<string, Versioned<PolicyRecord>>;
  /** by name */
  tenants: Map<string, Versioned<TenantRecord>>;
  tenantShares: Map<string, Versioned<TenantShares>>;
  /** by node */
  sharesApplied: Map<NodeId, Versioned<{ revision: number }>>;
  /** null: none was made yet */
  shippedPolicies: Versioned<ShippedPolicies> | null;
  /** of each volume, also of one in the trash; a volume without snapshots has no entry */
  snapshots: Map<VolumeId, SnapshotTable>;
}

export type SnapshotTable = Map<SnapshotId, Versioned<records.SnapshotRecord>>;

export function emptyState(): ClusterState {
  return {
    revision: 0,
    cluster: null,
    settings: null,
    nodes: new Map(),
    forgotten: new Map(),
    leases: new Map(),
    disks: new DiskTable(),
    volumes: new VolumeTable(),
    names: new Map(),
    trash: new VolumeTable(),
    deleted: new VolumeTable(),
    reports: new ReportTable(),
    scrubs: new Map(),
    scrubSettings: null,
    qosClasses: null,
    rebalance: null,
    members: new Map(),
    memberSettings: null,
    policies: new Map(),
    tenants: new Map(),
    tenantShares: new Map(),
    sharesApplied: new Map(),
    shippedPolicies: null,
    snapshots: new Map(),
  };
}

/** True when the node holds its lease. */
export function isUp(state: ClusterState, nodeId: NodeId): boolean {
  return state.leases.has(nodeId);
}

/**
 * True only when that is recorded. A record that is missing, or cannot be read, says nothing: its node may
 * have the only copy of something.
 */
export function isForgotten(state: ClusterState, nodeId: NodeId): boolean {
  return state.forgotten.has(nodeId);
}

/** A node's name, also of one that is gone for ever, or its id while it is not known. */
export function nodeName(state: ClusterState, nodeId: NodeId): string {
  const node = state.nodes.get(nodeId) ?? state.forgotten.get(nodeId);
  return node?.value.name ?? nodeId;
}

/** A primary knows other nodes by their ids only; people know them by their names. */
export function withNodeNames(state: ClusterState, text: string): string {
  return text.replaceAll(/\bn-[0-9a-f]{16}\b/g, (id) => nodeName(state, id));
}

const decodeName = (_key: string, value: Uint8Array): string => new TextDecoder().decode(value);

interface Table {
  prefix: string;
  of: (state: ClusterState) => Map<string, Versioned<unknown>>;
  decode: (key: string, value: Uint8Array) => unknown;
}

const tables: readonly Table[] = [
  { prefix: keys.nodeLeasesPrefix, of: ({ leases }) => leases, decode: records.decodeNodeLease },
  { prefix: keys.nodesPrefix, of: ({ nodes }) => nodes, decode: records.decodeNode },
  { prefix: keys.forgottenPrefix, of: ({ forgotten }) => forgotten, decode: decodeForgotten },
  { prefix: keys.disksPrefix, of: ({ disks }) => disks, decode: records.decodeDisk },
  { prefix: keys.volumesPrefix, of: ({ volumes }) => volumes, decode: records.decodeVolume },
  { prefix: keys.volumeNamesPrefix, of: ({ names }) => names, decode: decodeName },
  { prefix: keys.trashPrefix, of: ({ trash }) => trash, decode: records.decodeVolume },
  { prefix: keys.deletedPrefix, of: ({ deleted }) => deleted, decode: records.decodeVolume },
  {
    prefix: keys.replicaReportsPrefix,
    of: ({ reports }) => reports,
    decode: records.decodeReplicaReport,
  },
  { prefix: keys.scrubsPrefix, of: ({ scrubs }) => scrubs, decode: records.decodeScrub },
  { prefix: keys.membersPrefix, of: ({ members }) => members, decode: decodeMember },
  { prefix: keys.policiesPrefix, of: ({ policies }) => policies, decode: decodePolicy },
  { prefix: keys.tenantsPrefix, of: ({ tenants }) => tenants, decode: decodeTenant },
  {
    prefix: keys.tenantSharesPrefix,
    of: ({ tenantShares }) => tenantShares,
    decode: decodeTenantShares,
  },
  {
    prefix: keys.sharesAppliedPrefix,
    of: ({ sharesApplied }) => sharesApplied,
    decode: decodeSharesApplied,
  },
];

/**
 * Applies one change. Returns the error of a record that cannot be read: the entry is then left out
 * of the state, and since nothing is written without comparing its revision, it stays as it is.
 * A record that `known` has of the same revision is taken from there: decoding thousands takes long.
 */
export function applyChange(
  state: ClusterState,
  change: { key: string; value: Uint8Array | null; modRevision: number },
  known: ClusterState | null = null,
): StorError | null {
  const { key, value, modRevision } = change;
  try {
    if (key === keys.clusterKey) {
      state.cluster = value ? { value: records.decodeCluster(key, value), modRevision } : null;
      return null;
    }
    if (key === keys.settingsKey) {
      state.settings = value ? { value: records.decodeSettings(key, value), modRevision } : null;
      return null;
    }
    if (key.startsWith(keys.snapshotsPrefix)) {
      applySnapshot(state, change);
      return null;
    }
    if (key === keys.scrubSettingsKey) {
      state.scrubSettings = value
        ? { value: records.decodeScrubSettings(key, value), modRevision }
        : null;
      return null;
    }
    if (key === keys.qosClassesKey) {
      state.qosClasses = value ? { value: decodeQosClasses(key, value), modRevision } : null;
      return null;
    }
    if (key === keys.rebalanceKey) {
      state.rebalance = value ? { value: decodeRebalance(key, value), modRevision } : null;
      return null;
    }
    if (key === keys.memberSettingsKey) {
      state.memberSettings = value
        ? { value: decodeMemberSettings(key, value), modRevision }
        : null;
      return null;
    }
    if (key === keys.shippedPoliciesKey) {
      state.shippedPolicies = value
        ? { value: decodeShippedPolicies(key, value), modRevision }
        : null;
      return null;
    }
    for (const { prefix, of, decode } of tables) {
      if (!key.startsWith(prefix)) continue;
      const id = key.slice(prefix.length);
      const table = of(state);
      table.delete(id);
      const same = known && of(known).get(id);
      if (value && same?.modRevision === modRevision) table.set(id, same);
      else if (value) table.set(id, { value: decode(key, value), modRevision });
      return null;
    }
    return null;
  } catch (error) {
    return StorError.from(error);
  }
}

/** Their keys have two parts: the volume, and the snapshot. */
function applySnapshot(
  state: ClusterState,
  change: { key: string; value: Uint8Array | null; modRevision: number },
): void {
  const { key, value, modRevision } = change;
  const [volumeId = '', id = ''] = key.slice(keys.snapshotsPrefix.length).split('/');
  const table = state.snapshots.get(volumeId) ?? (new Map() as SnapshotTable);
  table.delete(id);
  if (value) table.set(id, { value: records.decodeSnapshot(key, value), modRevision });
  if (table.size > 0) state.snapshots.set(volumeId, table);
  else state.snapshots.delete(volumeId);
}

/** A volume's snapshots, in the order in which they were taken. */
export function snapshotsOf(
  state: ClusterState,
  volumeId: VolumeId,
): Versioned<records.SnapshotRecord>[] {
  const all = [...(state.snapshots.get(volumeId)?.values() ?? [])];
  return all.sort(
    (a, b) => a.value.createdAtMs - b.value.createdAtMs || (a.value.id < b.value.id ? -1 : 1),
  );
}
