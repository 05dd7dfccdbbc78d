import { checkLabels, defaultTrashKeepMs, StorError } from '@stor/protocol';
import type { ClusterStatus, Node, StorApi } from '@stor/protocol';
import type { EventLog } from '../agent/event-log.ts';
import type { NodeIdentity } from '../agent/node-session.ts';
import type { ClusterStore } from '../cluster-store.ts';
import type { MoveTls } from '../core/store-move/move-records.ts';
import { countCluster, describeNode } from '../core/volume/describe-cluster.ts';
import { nodeName } from '../resources/cluster-state.ts';
import { readHosts, readState } from '../resources/find.ts';
import { nodeKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';
import { storeRoles } from './store-roles.ts';
import type { MemberService } from './member-service.ts';
import type { TenantService } from './tenant-service.ts';
import type { TokenService } from './token-service.ts';
import type { CallContext, UnaryMethod } from './serve-unary.ts';
import { deviceMethods, type DeviceService } from './device-service.ts';
import type { DiskService } from './disk-service.ts';
import { findNode } from './find-node.ts';
import type { NodeService } from './node-service.ts';
import type { PlacementService } from './placement-service.ts';
import type { PolicyService } from './policy-service.ts';
import type { QosClassService } from './qos-class-service.ts';
import { rebalanceMethods, type RebalanceService } from './rebalance-service.ts';
import type { PrimaryOrders } from './primary-orders.ts';
import type { CreateSnapshotRequest, SnapshotOrders } from './snapshot-orders.ts';
import type { SnapshotOrphans } from './snapshot-orphans.ts';
import type { SnapshotService } from './snapshot-service.ts';
import type { ScrubService } from './scrub-service.ts';
import type { CloneService, CloneVolumeRequest } from './clone-service.ts';
import type { TrashService } from './trash-service.ts';
import type { VolumeGrowthOrders } from './volume-growth.ts';
import type { VolumeChanges } from './volume-changes.ts';
import type { VolumePublications } from './volume-publications.ts';
import type { VolumeInsight } from './volume-insight.ts';
import type { CreateVolumeRequest, VolumeService } from './volume-service.ts';

/** `cluster status` must answer without a quorum too, and soon (ms). */
const quorumCheckMs = 1_000;
const maxConflicts = 20;

type Request<M extends keyof StorApi> = Parameters<StorApi[M]>[0];

interface StorServiceOptions {
  store: ClusterStore;
  disks: DiskService;
  devices: DeviceService;
  nodes: NodeService;
  members: MemberService;
  tokens: TokenService;
  volumes: VolumeService;
  changes: VolumeChanges;
  publications: VolumePublications;
  growth: VolumeGrowthOrders;
  primaries: PrimaryOrders;
  insight: VolumeInsight;
  snapshots: SnapshotService;
  snapshotOrders: SnapshotOrders;
  orphans: SnapshotOrphans;
  clones: CloneService;
  trash: TrashService;
  events: EventLog;
  scrubs: ScrubService;
  classes: QosClassService;
  placement: PlacementService;
  policies: PolicyService;
  tenants: TenantService;
  rebalance: RebalanceService;
  node: NodeIdentity;
  cluster: { id: string; name: string };
  moveStore?: StoreServiceMove | undefined;
}

export type StoreServiceMove = (request: {
  to: string;
  tls?: MoveTls | undefined;
  abort: boolean;
}) => Promise<{ keys: number }>;

/** The service `stor.v1.Stor`: every call of `StorApi`, answered by any node. */
export function storService(options: StorServiceOptions): Record<keyof StorApi, UnaryMethod> {
  const { volumes, changes, primaries, insight, disks } = options;
  const { snapshots, snapshotOrders, orphans, clones, trash } = options;
  return {
    getClusterStatus: () => clusterStatus(options),
    listNodes: async () => ({ nodes: await listNodes(options) }),
    getNode: ({ name }: Request<'getNode'>) => getNode(options, name),
    labelNode: (request: Request<'labelNode'>) => labelNode(options, request),
    ...memberMethods(options),
    ...nodeMethods(options.nodes),
    listDisks: async () => ({ disks: await disks.list() }),
    addDisk: (request: Request<'addDisk'>) => disks.add(request),
    inspectDisk: ({ disk }: Request<'inspectDisk'>) => disks.inspect(disk),
    evacuateDisk: (request: Request<'evacuateDisk'>) => disks.evacuate(request),
    setDisk: (request: Request<'setDisk'>) => disks.set(request),
    removeDisk: (request: Request<'removeDisk'>) => disks.remove(request),
    listPools: () => disks.pools(),
    setPool: (request: Request<'setPool'>) => disks.setPool(request),
    createVolume: (request: CreateVolumeRequest, { signal }: CallContext) =>
      volumes.create(request, signal),
    listVolumes: async () => ({ volumes: await volumes.list() }),
    getVolume: ({ name }: Request<'getVolume'>) => volumes.get(name),
    deleteVolume: async ({ name, keepMs }: Request<'deleteVolume'>) => ({
      // on the wire what is absent is null
      keptUntilMs: await volumes.delete(name, keepMs ?? defaultTrashKeepMs),
    }),
    undeleteVolume: ({ name, newName }: Request<'undeleteVolume'>) => trash.undelete(name, newName),
    listTrash: async () => ({ volumes: await trash.list() }),
    emptyTrash: async ({ name }: Request<'emptyTrash'>) => ({ volumes: await trash.empty(name) }),
    createSnapshot: async (request: CreateSnapshotRequest, { signal }: CallContext) => ({
      snapshots: await snapshotOrders.create(request, signal),
    }),
    deleteSnapshot: async ({ name }: Request<'deleteSnapshot'>) => {
      await orphans.insteadOf(
        name,
        () => snapshotOrders.delete(name),
        () => orphans.delete(name),
      );
      return {};
    },
    adoptSnapshot: ({ name, newName }: Request<'adoptSnapshot'>) => orphans.adopt(name, newName),
    diffSnapshots: (request: Request<'diffSnapshots'>, { signal }: CallContext) =>
      snapshotOrders.diff(request, signal),
    cloneVolume: (request: CloneVolumeRequest, { signal }: CallContext) =>
      clones.clone(request, signal),
    rollbackVolume: async (request: Request<'rollbackVolume'>, { signal }: CallContext) => {
      const { volumeId, safetySnapshot } = await snapshotOrders.rollback(request, signal);
      return { volume: await volumes.get(volumeId), safetySnapshot };
    },
    ...useMethods(options),
    ...deviceMethods(options.devices),
    updateVolume: (request: Request<'updateVolume'>) => changes.update(request),
    resizeVolume: ({ name, sizeBytes }: Request<'resizeVolume'>, { signal }: CallContext) =>
      options.growth.resize(name, sizeBytes, signal),
    moveReplica: (request: Request<'moveReplica'>) => changes.moveReplica(request),
    movePrimary: ({ name, node }: Request<'movePrimary'>, { signal }: CallContext) =>
      primaries.movePrimary(name, node, { signal }),
    fenceVolume: ({ name }: Request<'fenceVolume'>) => primaries.fence(name),
    recoverVolume: ({ name, acceptUnflushedLoss }: Request<'recoverVolume'>) =>
      primaries.recover(name, acceptUnflushedLoss),
    explainVolume: ({ name }: Request<'explainVolume'>) => insight.explain(name),
    listRebuilds: async ({ name }: Request<'listRebuilds'>) => ({
      rebuilds: await insight.rebuilds(name),
    }),
    listSnapshots: async ({ volume, orphans: isOrphans }: Request<'listSnapshots'>) => ({
      snapshots: await (isOrphans ? orphans : snapshots).list(volume),
    }),
    getSnapshot: ({ name }: Request<'getSnapshot'>) =>
      orphans.insteadOf(
        name,
        () => snapshots.get(name),
        () => orphans.get(name),
      ),
    ...scrubMethods(options.scrubs),
    ...rebalanceMethods(options.rebalance),
    ...policyMethods(options.policies),
    ...tenantMethods(options.tenants),
    ...classMethods(options.classes),
    ...sightCalls(options),
  };
}

type UseMethod = 'attachVolume' | 'detachVolume' | 'publishVolume' | 'unpublishVolume';

/** Which node serves a volume, and which host may use it. */
function useMethods({
  volumes,
  publications,
}: Pick<StorServiceOptions, 'volumes' | 'publications'>): Record<UseMethod, UnaryMethod> {
  return {
    attachVolume: ({ name, node }: Request<'attachVolume'>) => volumes.attach(name, node),
    detachVolume: ({ name }: Request<'detachVolume'>) => volumes.detach(name),
    publishVolume: (request: Request<'publishVolume'>, { signal }: CallContext) =>
      publications.publish(request, signal),
    unpublishVolume: (request: Request<'unpublishVolume'>, { signal }: CallContext) =>
      publications.unpublish(request, signal),
  };
}

type MemberMethod =
  | 'moveStore'
  | 'listMembers'
  | 'setMemberVote'
  | 'setMembers'
  | 'createToken'
  | 'listTokens'
  | 'removeToken'
  | 'joinCluster'
  | 'backupCluster';

function memberMethods(
  options: Pick<StorServiceOptions, 'members' | 'tokens' | 'moveStore'>,
): Record<MemberMethod, UnaryMethod> {
  return {
    moveStore: (request: Request<'moveStore'>) => moveStore(options, request),
    listMembers: () => options.members.list(),
    setMemberVote: (request: Request<'setMemberVote'>, { signal }: CallContext) =>
      options.members.setVote(request, signal),
    setMembers: (request: Request<'setMembers'>) => options.members.set(request),
    createToken: (request: Request<'createToken'>) => options.tokens.create(request),
    listTokens: async () => ({ tokens: await options.tokens.list() }),
    removeToken: async ({ id }: Request<'removeToken'>) => {
      await options.tokens.remove(id);
      return {};
    },
    joinCluster: (request: Request<'joinCluster'>) => options.members.join(request),
    backupCluster: () => options.members.backup(),
  };
}

function nodeMethods(
  nodes: NodeService,
): Record<'orderNode' | 'simulateLoss' | 'planUpgrade', UnaryMethod> {
  return {
    orderNode: (request: Request<'orderNode'>) => nodes.order(request),
    simulateLoss: (request: Request<'simulateLoss'>) => nodes.simulate(request),
    planUpgrade: () => nodes.upgrade(),
  };
}

type ScrubMethod = 'startScrub' | 'pauseScrub' | 'stopScrub' | 'listScrubs' | 'setScrub';

function scrubMethods(scrubs: ScrubService): Record<ScrubMethod, UnaryMethod> {
  return {
    startScrub: ({ volume }: Request<'startScrub'>) => scrubs.start(volume),
    pauseScrub: ({ volume, paused }: Request<'pauseScrub'>) => scrubs.pause(volume, paused),
    stopScrub: ({ volume }: Request<'stopScrub'>) => scrubs.stop(volume),
    listScrubs: ({ volume }: Request<'listScrubs'>) => scrubs.list(volume),
    setScrub: (request: Request<'setScrub'>) => scrubs.set(request),
  };
}

type PolicyMethod = 'listPolicies' | 'getPolicy' | 'createPolicy' | 'updatePolicy' | 'removePolicy';

type TenantMethod = 'listTenants' | 'getTenant' | 'setTenant' | 'removeTenant';

function tenantMethods(tenants: TenantService): Record<TenantMethod, UnaryMethod> {
  return {
    listTenants: async () => ({ tenants: await tenants.list() }),
    getTenant: ({ name }: Request<'getTenant'>) => tenants.get(name),
    setTenant: (request: Request<'setTenant'>) => tenants.set(request),
    removeTenant: async ({ name }: Request<'removeTenant'>) => {
      await tenants.remove(name);
      return {};
    },
  };
}

function classMethods(
  classes: QosClassService,
): Record<'listQosClasses' | 'setQosClasses', UnaryMethod> {
  return {
    listQosClasses: () => classes.list(),
    setQosClasses: (request: Request<'setQosClasses'>) => classes.set(request.classes),
  };
}

function policyMethods(policies: PolicyService): Record<PolicyMethod, UnaryMethod> {
  return {
    listPolicies: async () => ({ policies: await policies.list() }),
    getPolicy: ({ name }: Request<'getPolicy'>) => policies.get(name),
    createPolicy: (request: Request<'createPolicy'>) => policies.create(request),
    updatePolicy: (request: Request<'updatePolicy'>) => policies.update(request),
    removePolicy: async ({ name }: Request<'removePolicy'>) => {
      await policies.remove(name);
      return {};
    },
  };
}

/** On the wire a path that is absent is empty. */
function moveStore(
  options: Pick<StorServiceOptions, 'moveStore'>,
  { to, ca, cert, key, passwordFile, abort }: Request<'moveStore'>,
): Promise<{ keys: number }> {
  if (!options.moveStore) {
    throw new StorError('FAILED_PRECONDITION', 'the store of this cluster cannot be moved');
  }
  const given = Object.entries({ ca, cert, key, passwordFile }).filter(([, path]) => path);
  const tls: MoveTls | undefined = given.length > 0 ? Object.fromEntries(given) : undefined;
  return options.moveStore({ to, tls, abort });
}

/** What only tells. */
function sightCalls({ placement, events }: StorServiceOptions) {
  return {
    listEvents: (request: Request<'listEvents'>) =>
      readSoon((readOptions) => events.list(request, readOptions)),
    explainPlacement: (request: Request<'explainPlacement'>) =>
      placement.explain({ onNode: '', segment: 0, ...request }),
    listPlacementViolations: async ({ volume }: Request<'listPlacementViolations'>) => ({
      violations: await placement.violations(volume),
    }),
  };
}

async function clusterStatus(options: StorServiceOptions): Promise<ClusterStatus> {
  const { store, cluster, node } = options;
  let quorum = true;
  try {
    await store.get(nodeKey(node.id), { timeoutMs: quorumCheckMs });
  } catch {
    // the answer is what this member knows, and that there is no quorum
    quorum = false;
  }
  const state = await readState(store, { local: true });
  const { leaderId, term } = store.status();
  const described = await options.volumes.describe([...state.volumes.values()], state);
  const healths = described.map((volume) => volume.status.health);
  return {
    clusterId: cluster.id,
    name: state.cluster?.value.name ?? cluster.name,
    version: node.version,
    leader: leaderId === null ? null : { nodeId: leaderId, node: nodeName(state, leaderId) },
    term,
    quorum,
    ...countCluster(state, healths),
  };
}

async function listNodes({ store }: StorServiceOptions): Promise<Node[]> {
  const state = await readSoon((options) => readHosts(store, options));
  const roles = storeRoles(store);
  return [...state.nodes.values()]
    .map((node) => describeNode(node, state, roles))
    .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
}

async function getNode({ store }: StorServiceOptions, name: string): Promise<Node> {
  const state = await readSoon((options) => readHosts(store, options));
  return describeNode(findNode(state, name), state, storeRoles(store));
}

async function labelNode(
  options: StorServiceOptions,
  request: Request<'labelNode'>,
): Promise<Node> {
  checkLabels(request.set);
  for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
    const node = findNode(await readHosts(options.store), request.name);
    const removed = new Set(request.remove);
    const kept = Object.entries(node.value.labels).filter(([label]) => !removed.has(label));
    const labels = { ...Object.fromEntries(kept), ...request.set };
    const key = nodeKey(node.value.id);
    const { succeeded } = await options.store.transact({
      compare: [{ key, modRevision: node.modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord({ ...node.value, labels }) }],
    });
    if (succeeded) return getNode(options, node.value.id);
  }
  throw new StorError('CONFLICT', `node ${request.name} changes too often: try again`);
}
