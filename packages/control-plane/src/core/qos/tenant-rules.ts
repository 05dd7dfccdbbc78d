import { knownQos, qosLimitNames, StorError, tenantLabel } from '@stor/protocol';
import type { NodeId, Tenant, VolumeQos } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { volumesLabelled } from '../../resources/state-index.ts';
import type { TenantRecord, TenantShares } from '../../resources/tenant-record.ts';
import { divideTenant, firstParts, shareOf } from './divide-tenant.ts';
import type { SharingNode } from './divide-tenant.ts';
import { targetsByDemand } from './tenant-demand.ts';
import type { NodeDemand } from './tenant-demand.ts';

/**
 * How long after a node was seen without its lease what it had is given to others (ms): it counts the
 * lease from before it asked for it, and looks at it twice a second.
 */
export const goneAfterMs = 2_000;

/** Volumes with the tenant's label. */
export function volumesOf(state: ClusterState, name: string): StoredVolume[] {
  return volumesLabelled(state.volumes, { [tenantLabel]: name }).map(({ value }) => value);
}

/** Nodes where some of them are attached. */
export function usersOfTenant(state: ClusterState, name: string): Set<NodeId> {
  const holders = volumesOf(state, name).map(({ status }) => status.attachment?.nodeId);
  return new Set(holders.filter((id) => id !== undefined));
}

/**
 * What the primary of a volume on this node has of its tenant's limits; absent: it has no tenant with
 * limits. `isLeased` false: the node has lost its lease, so what it was given may go to others.
 */
export function tenantOf(
  { metadata, status }: StoredVolume,
  state: ClusterState,
  isLeased: boolean,
): VolumeQos['tenant'] {
  const name = metadata.labels[tenantLabel];
  const nodeId = status.attachment?.nodeId;
  const tenant = name === undefined ? undefined : state.tenants.get(name)?.value;
  if (name === undefined || nodeId === undefined || !tenant) return undefined;
  const qos = knownQos(tenant.qos);
  if (!qosLimitNames.some((limit) => (qos[limit] ?? 0) > 0)) return undefined;
  const given = state.tenantShares.get(name)?.value.nodes[nodeId]?.parts ?? 0;
  const parts = (isLeased ? given : 0) + firstParts(state.nodes.size);
  return { name, share: shareOf(qos, parts) };
}

export function describeTenant(
  { value, modRevision }: Versioned<TenantRecord>,
  state: ClusterState,
): Tenant {
  const { id, name, createdAtMs, qos } = value;
  const shares = state.tenantShares.get(name)?.value.nodes ?? {};
  const nodes = [...usersOfTenant(state, name)].map((nodeId) => ({
    nodeId,
    node: nodeName(state, nodeId),
    parts: (shares[nodeId]?.parts ?? 0) + firstParts(state.nodes.size),
  }));
  nodes.sort((a, b) => (a.node < b.node ? -1 : 1));
  return {
    metadata: { id, name, labels: {}, createdAtMs, resourceVersion: modRevision },
    spec: { qos: knownQos(qos) },
    status: { volumes: volumesOf(state, name).length, nodes },
  };
}

/** By name, or else by id. NOT_FOUND. */
export function findTenant(state: ClusterState, nameOrId: string): Versioned<TenantRecord> {
  const { tenants } = state;
  const found =
    tenants.get(nameOrId) ?? [...tenants.values()].find(({ value }) => value.id === nameOrId);
  if (found) return found;
  const name = JSON.stringify(nameOrId.slice(0, 128));
  throw new StorError('NOT_FOUND', `there is no tenant ${name}: see "storctl tenant ls"`);
}

/** A division that the leader is to write; `shares` null: the tenant is gone, and so is its division. */
export interface ShareStep {
  type: 'share-tenant';
  name: string;
  /** of the division as it is; 0: there is none */
  modRevision: number;
  shares: TenantShares | null;
}

/** What each node lately needed of each tenant's limits, as far as it is known. */
export type TenantDemands = ReadonlyMap<string, ReadonlyMap<NodeId, NodeDemand>>;

/** Divisions that must change now; none while volumes stay where they are and nobody needs more. */
export function planShares(
  state: ClusterState,
  wallMs: number,
  demands: TenantDemands = new Map(),
): ShareStep[] {
  const steps: ShareStep[] = [];
  for (const name of state.tenants.keys()) {
    const now = state.tenantShares.get(name);
    const present = now?.value.nodes ?? {};
    const users = usersOfTenant(state, name);
    if (users.size === 0) continue;
    const ids = new Set([...users, ...Object.keys(present).filter((id) => state.nodes.has(id))]);
    const nodes = [...ids].map((id): SharingNode => {
      const applied = state.sharesApplied.get(id)?.value.revision ?? 0;
      const hasConfirmed = now !== undefined && applied >= now.modRevision;
      return { id, isUser: users.has(id), isGone: isGone(state, id, wallMs), hasConfirmed };
    });
    const demanding = nodes
      .filter(({ isUser, isGone: hasGone }) => isUser && !hasGone)
      .map(({ id }) => {
        const demand = demands.get(name)?.get(id) ?? null;
        return { id, parts: present[id]?.parts ?? 0, demand };
      });
    const next = divideTenant(present, nodes, targetsByDemand(demanding));
    const modRevision = now?.modRevision ?? 0;
    const shares = next && { ...now?.value, nodes: next };
    if (shares) steps.push({ type: 'share-tenant', name, modRevision, shares });
  }
  for (const [name, { modRevision }] of state.tenantShares) {
    if (state.tenants.has(name)) continue;
    steps.push({ type: 'share-tenant', name, modRevision, shares: null });
  }
  return steps;
}

function isGone(state: ClusterState, id: NodeId, wallMs: number): boolean {
  if (isUp(state, id)) return false;
  const { downSinceMs } = state.nodes.get(id)?.value ?? {};
  return downSinceMs !== undefined && wallMs - downSinceMs >= goneAfterMs;
}

/** The revision up to which this node is to confirm its shares; null: nobody waits for it. */
export function awaitedShares(state: ClusterState, nodeId: NodeId): number | null {
  const applied = state.sharesApplied.get(nodeId)?.value.revision ?? 0;
  let awaited: number | null = null;
  for (const { value, modRevision } of state.tenantShares.values()) {
    const share = value.nodes[nodeId];
    if (!share || share.atMost <= share.parts || modRevision <= applied) continue;
    awaited = Math.max(awaited ?? 0, modRevision);
  }
  return awaited;
}
