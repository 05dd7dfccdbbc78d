import type { DiskId, NodeId, ReplicaId, SnapshotId, VolumeId } from '@stor/protocol';

/** Everything that Stor keeps in the cluster store lies under this prefix. */
export const rootPrefix = '/stor/';

/** Everything of ours, with what is beside the resources: who reads it sees every revision of the store. */
export const everythingPrefix = '/stor';

export const clusterKey = '/stor/cluster';
export const settingsKey = '/stor/settings';
/** how disks are made equally full */
export const rebalanceKey = '/stor/rebalance';
export const nodesPrefix = '/stor/nodes/';
export const nodeLeasesPrefix = '/stor/node-leases/';
/** nodes that are gone for ever, by their ids, which are never used again */
export const forgottenPrefix = '/stor/forgotten/';
export const disksPrefix = '/stor/disks/';
export const volumesPrefix = '/stor/volumes/';
export const volumeNamesPrefix = '/stor/volume-names/';
/** volumes whose replicas are still to be removed: their names are free already */
export const deletedPrefix = '/stor/deleted/';
/** snapshots, under the id of their volume */
export const snapshotsPrefix = '/stor/snapshots/';
/** names of snapshots, under the id of their volume */
export const snapshotNamesPrefix = '/stor/snapshot-names/';
/** deleted volumes that are kept for a while: their names are free already */
export const trashPrefix = '/stor/trash/';
/** what the node of a replica says of it */
export const replicaReportsPrefix = '/stor/replica-status/';

export const nodeKey = (id: NodeId): string => nodesPrefix + id;
export const forgottenKey = (id: NodeId): string => forgottenPrefix + id;
/** exists as long as the node holds its lease */
export const nodeLeaseKey = (id: NodeId): string => nodeLeasesPrefix + id;
export const diskKey = (id: DiskId): string => disksPrefix + id;
export const volumeKey = (id: VolumeId): string => volumesPrefix + id;
export const volumeNameKey = (name: string): string => volumeNamesPrefix + name;
export const trashKey = (id: VolumeId): string => trashPrefix + id;
export const deletedKey = (id: VolumeId): string => deletedPrefix + id;
export const replicaReportKey = (id: ReplicaId): string => replicaReportsPrefix + id;
/** all snapshots of one volume lie under it */
export const snapshotsOfPrefix = (id: VolumeId): string => `${snapshotsPrefix}${id}/`;
export const snapshotKey = (volumeId: VolumeId, id: SnapshotId): string =>
  snapshotsOfPrefix(volumeId) + id;
export const snapshotNamesOfPrefix = (id: VolumeId): string => `${snapshotNamesPrefix}${id}/`;
export const snapshotNameKey = (volumeId: VolumeId, name: string): string =>
  snapshotNamesOfPrefix(volumeId) + name;
/** how far the scrub of a volume is, and what the last ones found */
export const scrubsPrefix = '/stor/scrubs/';
export const scrubKey = (id: VolumeId): string => scrubsPrefix + id;
export const scrubSettingsKey = '/stor/scrub-settings';

/** wishes that volumes share, by their names */
export const policiesPrefix = '/stor/policies/';
export const policyKey = (name: string): string => policiesPrefix + name;
/** which of the policies that come with Stor were made once: deleted ones do not come back */
export const shippedPoliciesKey = '/stor/shipped-policies';

/** limits that volumes of a tenant share, by its name */
export const tenantsPrefix = '/stor/tenants/';
export const tenantKey = (name: string): string => tenantsPrefix + name;
/** what each node may use of a tenant's limits, by its name; written by the leader */
export const tenantSharesPrefix = '/stor/tenant-shares/';
export const tenantSharesKey = (name: string): string => tenantSharesPrefix + name;
/** up to which revision a node has told its lanes what shares they have; written by the node */
export const sharesAppliedPrefix = '/stor/shares-applied/';
export const sharesAppliedKey = (id: NodeId): string => sharesAppliedPrefix + id;

/** how clients and background work share lanes */
export const qosClassesKey = '/stor/qos-classes';

/**
 * Not below `rootPrefix`: whoever reads or watches the resources need not read what once happened.
 * Ids of events begin with their time.
 */
export const eventsPrefix = '/stor-events/';
export const eventKey = (id: string): string => eventsPrefix + id;

/** members of the embedded cluster store; not in a backup, for a restored store has members of its own */
export const membersPrefix = '/stor/members/';
export const memberKey = (id: NodeId): string => membersPrefix + id;
/** which node has a name: two that join at once must not share one */
export const nodeNamesPrefix = '/stor/node-names/';
export const nodeNameKey = (name: string): string => nodeNamesPrefix + name;
export const tokensPrefix = '/stor/tokens/';
export const tokenKey = (id: string): string => tokensPrefix + id;
export const memberSettingsKey = '/stor/member-settings';

/** Not below `rootPrefix` either: requests that clients gave an id. */
export const requestsPrefix = '/stor-requests/';
export const requestKey = (id: string): string => requestsPrefix + id;

/** Written with every order about a node: two that are each safe alone may not be safe together. */
export const nodeOrdersKey = '/stor-node-orders';

/** Written with every volume that takes a policy: one that is about to go must not get a new user. */
export const policyUsesKey = '/stor-policy-uses';
