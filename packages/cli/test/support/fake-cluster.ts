import {
  StorError,
  changedQos,
  changePolicy,
  defaultTrashKeepMs,
  publishedExportName,
  type ClusterStatus,
  type Disk,
  type DiskInspection,
  type ErrorCode,
  type EvacuationPlan,
  type Node,
  type Pool,
  type QosSpec,
  type Rebuild,
  type Snapshot,
  type Scrub,
  type ScrubSettings,
  type SnapshotDiff,
  type TrashedVolume,
  type PlacementViolation,
  type StorEvent,
  type StorApi,
  type Volume,
  type VolumeExplanation,
  type VolumePolicy,
} from '@stor/protocol';
import { FakeRebalance } from './fake-rebalance.ts';
import { FakeWatch } from './fake-watch.ts';
import { FakeDevices } from './fake-devices.ts';
import { FakeMembers } from './fake-members.ts';
import { FakeQos } from './fake-qos.ts';
import { fakeSimulation, fakeUpgrade, orderFakeNode } from './fake-node.ts';
import type { FakeNodePlan } from './fake-node.ts';
import {
  changeReplicas,
  fakeExplanation,
  fakeReplica,
  fakeSnapshot,
  fakeVolume,
  hex,
  startMs,
} from './fake-volume.ts';

export { startMs };

export function makeNode(n: number): Node {
  return {
    metadata: {
      id: hex('n', n),
      name: `n${n}`,
      labels: {},
      createdAtMs: startMs,
      resourceVersion: n,
    },
    spec: {},
    status: {
      state: 'up',
      addresses: {
        api: `127.0.0.1:17${n}10`,
        http: `127.0.0.1:17${n}11`,
        peers: [`127.0.0.1:17${n}12`],
        nbd: [`127.0.0.1:17${n}13`],
        nbdUnix: [`/run/stor/n${n}/nbd-0.sock`],
      },
      agentInstance: 'a1',
      bootId: 'b1',
      version: '0.1.0',
      raftRole: n === 1 ? 'leader' : 'voter',
      computeOnly: false,
    },
  };
}

function makeDisk(n: number): Disk {
  return {
    metadata: {
      id: hex('d', n),
      name: `n${n}-d1`,
      labels: {},
      createdAtMs: startMs,
      resourceVersion: n,
    },
    spec: { nodeId: hex('n', n), path: `/srv/n${n}/d1`, tag: 'ssd', device: '', evacuate: false },
    status: {
      state: 'online',
      message: '',
      capacityBytes: 100 * 2 ** 30,
      usedBytes: 1.5 * 2 ** 30,
      freeBytes: 98.5 * 2 ** 30,
      reservedBytes: 2 ** 30,
      provisionedBytes: 20 * 2 ** 30,
      replicas: 1,
      space: 'ok',
      lane: 0,
    },
  };
}

const fakePool: Pool = {
  tag: 'ssd',
  disks: { total: 3, online: 3 },
  nodes: 3,
  capacityBytes: 300 * 2 ** 30,
  usedBytes: 4.5 * 2 ** 30,
  freeBytes: 292.5 * 2 ** 30,
  reservedBytes: 3 * 2 ** 30,
  repairReserveBytes: 30 * 2 ** 30,
  provisionedBytes: 60 * 2 ** 30,
  provisionLimitBytes: 3000 * 2 ** 30,
  space: 'ok',
  outlook: ['if node n1 is lost, 1.5GiB are to be rebuilt, and the other nodes have 195GiB free'],
};

export function fakeScrub(of: { id: string; name: string }): Scrub {
  return {
    volume: of.name,
    volumeId: of.id,
    state: 'idle',
    message: '',
    counts: { bytes: 0, found: 0, repaired: 0, kept: 0, diverged: 0 },
    bytesRemaining: 0,
    bytesPerSecond: 0,
    etaMs: null,
    startedAtMs: null,
    nextDueMs: startMs + 86_400_000,
    history: [],
  };
}

/** The API from memory, with as much behaviour as the command line can see. */
export class FakeCluster {
  nodes: Node[];
  readonly rebalance = new FakeRebalance();
  readonly members = new FakeMembers(() => this.nodes);
  readonly qos = new FakeQos(() => this.volumes);
  readonly devices = new FakeDevices(
    (name) => this.node(name),
    (name) => this.volume(name),
  );
  disks: Disk[];
  volumes: Volume[] = [];
  calls: { method: string; request: unknown }[] = [];
  opened = 0;
  closed = 0;
  endpoints: string[] = [];
  timeoutMs = 0;
  /** the next call of this method fails with it */
  failures = new Map<keyof StorApi, StorError>();
  /** calls of these methods wait until their signal aborts */
  hanging = new Set<keyof StorApi>();
  status: Partial<ClusterStatus> = {};
  settings = { overprovisionPercent: 1000, repairReservePercent: 10 };
  /** what an evacuation of any disk would do */
  moves: EvacuationPlan['moves'] = [];
  /** replicas that any disk shows, one look after the other; the last look stays */
  diskLooks: DiskInspection['replicas'][] = [[]];
  /** what verbs of any node mean, one look after the other; the last one stays */
  nodePlans: FakeNodePlan[] = [];
  rebuilds: Rebuild[] = [];
  snapshots: Snapshot[] = [];
  trash: TrashedVolume[] = [];
  /** what differs between any two snapshots */
  changes: SnapshotDiff['extents'] = [];
  events: StorEvent[] = [];
  violations: PlacementViolation[] = [];
  explanations = new Map<string, VolumeExplanation>();
  /** what happens meanwhile: before each look at a volume, or at the rebuilds, the next one runs */
  steps: (() => void)[] = [];
  rebuildSteps: (() => void)[] = [];
  eventSteps: (() => void)[] = [];
  /** by volume; one that is not there is idle */
  scrubs = new Map<string, Scrub>();
  scrubSettings: ScrubSettings = { everyMs: 7 * 86_400_000, rateBytesPerSecond: 64 * 2 ** 20 };
  readonly watched = new FakeWatch();
  private replicaNumber = 11;

  constructor(nodes = 3) {
    const numbers = Array.from({ length: nodes }, (_, index) => index + 1);
    this.nodes = numbers.map(makeNode);
    this.disks = numbers.map(makeDisk);
  }

  fail(method: keyof StorApi, code: ErrorCode, message: string, details = {}): void {
    this.failures.set(method, new StorError(code, message, { details }));
  }

  /** As `openApiClient`. */
  open = (options: { endpoints: string[]; timeoutMs: number }) => {
    this.opened += 1;
    this.endpoints = options.endpoints;
    this.timeoutMs = options.timeoutMs;
    return {
      ...this.api(),
      watch: this.watched.watch,
      close: () => void (this.closed += 1),
    };
  };

  api(): StorApi {
    const members = this.members.methods();
    const rebalance = this.rebalance.methods();
    const qos = this.qos.methods();
    const devices = this.devices.methods();
    const call =
      <Request, Response>(method: keyof StorApi, answer: (request: Request) => Response) =>
      async (request: Request, options?: { signal?: AbortSignal }): Promise<Response> => {
        this.calls.push({ method, request });
        const failure = this.failures.get(method);
        if (failure) throw failure;
        if (this.hanging.has(method)) {
          await new Promise((_resolve, reject) => {
            const abort = () => reject(new StorError('ABORTED', 'the call was aborted'));
            if (options?.signal?.aborted === true) abort();
            options?.signal?.addEventListener('abort', abort);
          });
        }
        return structuredClone(answer(request));
      };
    return {
      getClusterStatus: call('getClusterStatus', () => this.clusterStatus()),
      listMembers: call('listMembers', members.listMembers) as StorApi['listMembers'],
      setMemberVote: call('setMemberVote', members.setMemberVote) as StorApi['setMemberVote'],
      setMembers: call('setMembers', members.setMembers) as StorApi['setMembers'],
      createToken: call('createToken', members.createToken) as StorApi['createToken'],
      listTokens: call('listTokens', members.listTokens) as StorApi['listTokens'],
      removeToken: call('removeToken', members.removeToken) as StorApi['removeToken'],
      backupCluster: call('backupCluster', members.backupCluster) as StorApi['backupCluster'],
      joinCluster: call('joinCluster', members.joinCluster) as StorApi['joinCluster'],
      listNodes: call('listNodes', () => ({ nodes: this.nodes })),
      getNode: call('getNode', ({ name }) => this.node(name)),
      labelNode: call('labelNode', ({ name, set, remove }) => {
        const node = this.node(name);
        Object.assign(node.metadata.labels, set);
        for (const key of remove) Reflect.deleteProperty(node.metadata.labels, key);
        return node;
      }),
      orderNode: call('orderNode', (request) =>
        orderFakeNode(this.node(request.name), request, this.nodePlans, (gone) => {
          this.nodes = this.nodes.filter((each) => each !== gone);
        }),
      ),
      simulateLoss: call('simulateLoss', ({ down }) => fakeSimulation(down)),
      planUpgrade: call('planUpgrade', () => fakeUpgrade(this.nodes)),
      listDisks: call('listDisks', () => ({ disks: this.disks })),
      inspectDisk: call('inspectDisk', ({ disk }) => this.inspectDisk(disk)),
      evacuateDisk: call('evacuateDisk', ({ disk, plan, cancel }) => {
        const found = this.disk(disk);
        if (plan !== true) found.spec.evacuate = cancel !== true;
        return { disk: found, moves: this.moves, blocked: [], bytes: 2 ** 30 };
      }),
      setDisk: call('setDisk', ({ disk, iopsCapacity, bpsCapacity }) => {
        const found = this.disk(disk);
        const { iopsCapacity: _iops, bpsCapacity: _bps, ...spec } = found.spec;
        found.spec = {
          ...spec,
          ...(iopsCapacity ? { iopsCapacity } : {}),
          ...(bpsCapacity ? { bpsCapacity } : {}),
        };
        return found;
      }),
      removeDisk: call('removeDisk', ({ disk }) => {
        const found = this.disk(disk);
        this.disks = this.disks.filter((each) => each !== found);
        return {};
      }),
      moveStore: call('moveStore', () => ({ keys: 12 })),
      listPools: call('listPools', () => ({ pools: [fakePool], settings: this.settings })),
      setPool: call('setPool', (changes) => Object.assign(this.settings, changes)),
      addDisk: call('addDisk', ({ node, path, tag }) => {
        const disk = makeDisk(9);
        disk.metadata.name = `${node}-d2`;
        disk.spec = {
          nodeId: this.node(node).metadata.id,
          path,
          tag,
          device: '',
          evacuate: false,
        };
        this.disks.push(disk);
        return disk;
      }),
      createVolume: call('createVolume', (request) => this.create(request)),
      updateVolume: call('updateVolume', (request) => this.update(request)),
      resizeVolume: call('resizeVolume', ({ name, sizeBytes }) => {
        const volume = this.volume(name);
        const wanted = Math.ceil(sizeBytes / 4096) * 4096;
        if (wanted < volume.spec.sizeBytes) {
          throw new StorError(
            'INVALID_ARGUMENT',
            `volume ${volume.metadata.name} cannot become smaller`,
          );
        }
        volume.spec.sizeBytes = wanted;
        return volume;
      }),
      moveReplica: call('moveReplica', (request) => this.move(request)),
      movePrimary: call('movePrimary', ({ name, node }) => {
        const volume = this.volume(name);
        if (volume.status.primary === null) {
          throw new StorError(
            'FAILED_PRECONDITION',
            `volume ${volume.metadata.name} is attached nowhere: "storctl volume attach ${volume.metadata.name} --node ${node}" attaches it`,
          );
        }
        return this.attach(volume, node);
      }),
      fenceVolume: call('fenceVolume', ({ name }) => {
        const volume = this.volume(name);
        volume.status.epoch += 1;
        volume.status.primary = null;
        return volume;
      }),
      recoverVolume: call('recoverVolume', ({ name }) => {
        const volume = this.volume(name);
        volume.status.health = 'healthy';
        volume.status.epoch += 1;
        return volume;
      }),
      explainVolume: call('explainVolume', ({ name }) => {
        const volume = this.volume(name);
        return this.explanations.get(volume.metadata.name) ?? fakeExplanation(volume);
      }),
      listRebuilds: call('listRebuilds', ({ name }) => {
        this.rebuildSteps.shift()?.();
        if (name !== '') this.volume(name);
        return {
          rebuilds: this.rebuilds.filter((one) => ['', one.volume, one.volumeId].includes(name)),
        };
      }),
      explainPlacement: call('explainPlacement', ({ volume, replicas }) => ({
        ...{ volume, volumeId: '', segment: 0, replicas, placed: [], rules: {}, problem: '' },
        candidates: [
          {
            ...{ nodeId: 'n-1', node: 'n1', diskId: 'd-1', disk: '/mnt/d1', chosen: 1 },
            score: 10_040,
            parts: [
              { name: 'spread' as const, points: 10_000, text: 'new: zone=a' },
              { name: 'space' as const, points: 40, text: '40GiB free, 2GiB promised' },
            ],
          },
        ],
        refused: [
          {
            ...{ nodeId: 'n-2', node: 'n2', diskId: '', disk: '' },
            ...{ reason: 'is in zone a, where node n1 has one already', code: 'domain' },
          },
        ],
        violations: [],
      })),
      listPlacementViolations: call('listPlacementViolations', () => ({
        violations: this.violations,
      })),
      startRebalance: call('startRebalance', rebalance.startRebalance),
      orderRebalance: call('orderRebalance', rebalance.orderRebalance),
      getRebalance: call('getRebalance', rebalance.getRebalance),
      listTenants: call('listTenants', qos.listTenants),
      getTenant: call('getTenant', qos.getTenant),
      setTenant: call('setTenant', qos.setTenant),
      listQosClasses: call('listQosClasses', qos.listQosClasses),
      setQosClasses: call('setQosClasses', qos.setQosClasses),
      removeTenant: call('removeTenant', qos.removeTenant),
      listPolicies: call('listPolicies', qos.listPolicies),
      getPolicy: call('getPolicy', qos.getPolicy),
      createPolicy: call('createPolicy', qos.createPolicy),
      updatePolicy: call('updatePolicy', qos.updatePolicy),
      removePolicy: call('removePolicy', qos.removePolicy),
      listEvents: call('listEvents', ({ volume, afterRevision, limit }) => {
        this.eventSteps.shift()?.();
        const events = this.events
          .filter((event) => event.resourceVersion > afterRevision)
          .filter((event) => ['', event.volume, event.volumeId].includes(volume));
        const revision = Math.max(0, ...this.events.map((event) => event.resourceVersion));
        return { events: limit > 0 ? events.slice(-limit) : events, revision };
      }),
      startScrub: call('startScrub', ({ volume }) =>
        this.scrubsOf(volume, (scrub) => ({
          ...scrub,
          state: 'waiting',
          message: 'its primary begins',
          startedAtMs: startMs,
          nextDueMs: null,
        })),
      ),
      pauseScrub: call('pauseScrub', ({ volume, paused }) =>
        this.scrubsOf(volume, (scrub) =>
          scrub.state === 'idle' ? scrub : { ...scrub, state: paused ? 'paused' : 'running' },
        ),
      ),
      stopScrub: call('stopScrub', ({ volume }) =>
        this.scrubsOf(volume, (scrub) => ({ ...scrub, state: 'idle', startedAtMs: null })),
      ),
      listScrubs: call('listScrubs', ({ volume }) => ({
        ...this.scrubsOf(volume, (scrub) => scrub),
        settings: this.scrubSettings,
      })),
      setScrub: call('setScrub', (request) => {
        this.scrubSettings = { ...this.scrubSettings, ...request };
        return this.scrubSettings;
      }),
      listVolumes: call('listVolumes', () => ({ volumes: this.volumes })),
      getVolume: call('getVolume', ({ name }) => {
        this.steps.shift()?.();
        return this.volume(name);
      }),
      deleteVolume: call('deleteVolume', ({ name, keepMs = defaultTrashKeepMs }) =>
        this.delete(this.volume(name), keepMs),
      ),
      undeleteVolume: call('undeleteVolume', ({ name, newName }) => {
        const volume = this.trashed(name);
        const wanted = newName === '' ? volume.metadata.name : newName;
        if (this.volumes.some(({ metadata }) => metadata.name === wanted)) {
          throw new StorError('ALREADY_EXISTS', `there is a volume ${wanted} already`);
        }
        this.trash = this.trash.filter((other) => other !== volume);
        const back = fakeVolume(
          this.volumes.length + 1,
          {
            name: wanted,
            sizeBytes: volume.spec.sizeBytes,
            replicas: volume.spec.replicas,
            labels: volume.metadata.labels,
          },
          this.nodes,
        );
        back.metadata.id = volume.metadata.id;
        this.volumes.push(back);
        return back;
      }),
      listTrash: call('listTrash', () => ({ volumes: this.trash })),
      emptyTrash: call('emptyTrash', ({ name }) => {
        const volumes = name === '' ? this.trash : [this.trashed(name)];
        this.trash = this.trash.filter((volume) => !volumes.includes(volume));
        return { volumes };
      }),
      createSnapshot: call('createSnapshot', (request) => this.takeSnapshots(request)),
      deleteSnapshot: call('deleteSnapshot', ({ name }) => {
        const snapshot = this.snapshot(name);
        this.snapshots = this.snapshots.filter((other) => other !== snapshot);
        return {};
      }),
      adoptSnapshot: call('adoptSnapshot', ({ name, newName }) => {
        const snapshot = this.snapshot(name);
        snapshot.metadata.name = `${snapshot.status.volume}@${newName}`;
        snapshot.status = { ...snapshot.status, state: 'ready', message: '' };
        return snapshot;
      }),
      diffSnapshots: call('diffSnapshots', ({ volume, from, to, offset = 0 }) => {
        this.volume(volume);
        for (const each of [from, to]) if (each !== '') this.snapshot(`${volume}@${each}`);
        const all = this.changes.filter((extent) => extent.offset >= offset);
        return {
          sizeBytes: this.volume(volume).spec.sizeBytes,
          extents: all.slice(0, 2),
          nextOffset: all[2]?.offset ?? null,
        };
      }),
      cloneVolume: call('cloneVolume', ({ source, snapshot, name, sizeBytes, labels }) => {
        const from = this.volume(source);
        if (snapshot !== '') this.snapshot(`${from.metadata.name}@${snapshot}`);
        const { replicas } = from.spec;
        const clone = this.create({
          name,
          sizeBytes: sizeBytes || from.spec.sizeBytes,
          replicas,
          labels,
        });
        clone.status.origin = {
          volumeId: from.metadata.id,
          volume: from.metadata.name,
          snapshotId: hex('s', 1),
          snapshot,
        };
        return clone;
      }),
      rollbackVolume: call('rollbackVolume', ({ name, snapshot, safetySnapshot }) => {
        const volume = this.volume(name);
        this.snapshot(`${volume.metadata.name}@${snapshot}`);
        const safety = `${volume.metadata.name}@before-rollback-20260102-030405`;
        return { volume, safetySnapshot: safetySnapshot ? safety : '' };
      }),
      listSnapshots: call('listSnapshots', ({ volume }) => {
        if (volume === '') return { snapshots: this.snapshots };
        const { id } = this.volume(volume).metadata;
        return { snapshots: this.snapshots.filter(({ spec }) => spec.volumeId === id) };
      }),
      getSnapshot: call('getSnapshot', ({ name }) => this.snapshot(name)),
      attachVolume: call('attachVolume', ({ name, node }) =>
        this.attach(this.volume(name), node === '' ? 'n1' : node),
      ),
      detachVolume: call('detachVolume', ({ name }) => {
        const volume = this.volume(name);
        volume.status.primary = null;
        return volume;
      }),
      publishVolume: call('publishVolume', ({ name, node, readOnly = false, owner = '' }) => {
        const volume = this.volume(name);
        const id = 'u-0000000000000001';
        const exportName = publishedExportName(id, volume.metadata.name);
        const at = { nodeId: 'n-1', node: node === '' ? 'n1' : node, sinceMs: startMs };
        volume.status.publications = [{ id, readOnly, owner, exportName, ...at }];
        return volume;
      }),
      attachDevice: call('attachDevice', devices.attachDevice) as StorApi['attachDevice'],
      detachDevice: call('detachDevice', devices.detachDevice) as StorApi['detachDevice'],
      mountVolume: call('mountVolume', devices.mountVolume) as StorApi['mountVolume'],
      unmountVolume: call('unmountVolume', devices.unmountVolume) as StorApi['unmountVolume'],
      growDevice: call('growDevice', devices.growDevice) as StorApi['growDevice'],
      listDevices: call('listDevices', devices.listDevices) as StorApi['listDevices'],
      checkHost: call('checkHost', devices.checkHost) as StorApi['checkHost'],
      unpublishVolume: call('unpublishVolume', ({ name }) => {
        const volume = this.volume(name);
        volume.status.publications = [];
        return volume;
      }),
    };
  }

  private scrubsOf(volume: string, change: (scrub: Scrub) => Scrub): { scrubs: Scrub[] } {
    const volumes = volume === '' ? this.volumes : [this.volume(volume)];
    const scrubs = volumes.map(({ metadata }) => {
      const scrub = change(this.scrubs.get(metadata.name) ?? fakeScrub(metadata));
      this.scrubs.set(metadata.name, scrub);
      return scrub;
    });
    return { scrubs };
  }

  volume(name: string): Volume {
    const found = this.volumes.find(
      ({ metadata }) => metadata.name === name || metadata.id === name,
    );
    if (found) return found;
    throw new StorError('NOT_FOUND', `volume "${name}" does not exist`);
  }

  private delete(volume: Volume, keepMs: number): { keptUntilMs: number } {
    this.volumes = this.volumes.filter((other) => other !== volume);
    if (keepMs === 0) return { keptUntilMs: 0 };
    const { metadata, spec, status } = volume;
    const keptUntilMs = startMs + keepMs;
    this.trash.unshift({
      metadata,
      spec: { sizeBytes: spec.sizeBytes, replicas: spec.replicas },
      status: {
        deletedAtMs: startMs,
        keptUntilMs,
        snapshots: this.snapshots.filter((each) => each.spec.volumeId === metadata.id).length,
        nodes: status.replicas.map(({ node }) => node),
        allocatedBytes: status.allocatedBytes,
      },
    });
    return { keptUntilMs };
  }

  private trashed(name: string): TrashedVolume {
    const found = this.trash.find(({ metadata }) => metadata.name === name || metadata.id === name);
    if (found) return found;
    throw new StorError('NOT_FOUND', `there is no volume "${name}" in the trash`);
  }

  private takeSnapshots(request: {
    volume: string;
    selector: Record<string, string>;
    name: string;
    labels: Record<string, string>;
  }): { snapshots: Snapshot[] } {
    const { volume, selector, name, labels } = request;
    const wanted =
      volume === ''
        ? this.volumes.filter(({ metadata }) =>
            Object.entries(selector).every(([key, value]) => metadata.labels[key] === value),
          )
        : [this.volume(volume)];
    const groupId = wanted.length > 1 ? hex('g', 1) : '';
    const snapshots = wanted.map((each): Snapshot => {
      const number = this.snapshots.length + 1;
      const snapshot = fakeSnapshot(each, number, { name, labels, groupId });
      this.snapshots.push(snapshot);
      return snapshot;
    });
    return { snapshots };
  }

  snapshot(name: string): Snapshot {
    const found = this.snapshots.find(
      ({ metadata }) => metadata.name === name || metadata.id === name,
    );
    if (found) return found;
    throw new StorError('NOT_FOUND', `there is no snapshot "${name}"`);
  }

  private disk(name: string): Disk {
    const found = this.disks.find(({ metadata }) => [metadata.id, metadata.name].includes(name));
    if (!found) throw new StorError('NOT_FOUND', `there is no disk ${name}`);
    return found;
  }

  private inspectDisk(name: string): DiskInspection {
    const [first = [], ...later] = this.diskLooks;
    if (later.length > 0) this.diskLooks = later;
    const next = ['when nothing is free, writes that need new space get "no space" (ENOSPC)'];
    return { disk: this.disk(name), replicas: first, next, advice: ['add a disk'] };
  }

  private node(name: string): Node {
    const found = this.nodes.find(({ metadata }) => metadata.name === name || metadata.id === name);
    if (found) return found;
    throw new StorError('NOT_FOUND', `node "${name}" does not exist`);
  }

  private attach(volume: Volume, node: string): Volume {
    const holder = this.node(node);
    volume.status.epoch += 1;
    volume.status.serving = 'serving';
    volume.status.primary = {
      nodeId: holder.metadata.id,
      node: holder.metadata.name,
      mode: 'manual',
      sinceMs: startMs + 1000,
    };
    volume.status.nbdUri = `nbd://${holder.status.addresses.nbd[0]}/${volume.metadata.name}`;
    return volume;
  }

  private create(request: {
    name: string;
    sizeBytes: number;
    replicas: number;
    labels: Record<string, string>;
    policy?: Partial<VolumePolicy>;
    policyName?: string;
  }): Volume {
    if (this.volumes.some((volume) => volume.metadata.name === request.name)) {
      throw new StorError('ALREADY_EXISTS', `volume "${request.name}" exists already`);
    }
    if (request.policyName) this.qos.find(request.policyName);
    const volume = fakeVolume(this.volumes.length + 1, request, this.nodes);
    this.qos.show(volume);
    this.volumes.push(volume);
    return volume;
  }

  private update(request: {
    name: string;
    replicas?: number;
    policy?: Partial<VolumePolicy>;
    qos?: QosSpec;
    clearQos?: string[];
    policyName?: string;
  }): Volume {
    const volume = this.volume(request.name);
    volume.spec.policy = changePolicy(volume.spec.policy, request.policy ?? {});
    volume.spec.qos = changedQos(volume.spec.qos ?? {}, request.qos ?? {}, request.clearQos ?? []);
    const { policyName } = request;
    if (policyName === '') delete volume.spec.policyName;
    else if (policyName !== undefined) {
      volume.spec.policyName = this.qos.find(policyName).metadata.name;
    }
    this.qos.show(volume);
    if (request.replicas !== undefined) changeReplicas(volume, request.replicas, this.nodes);
    return volume;
  }

  private move(request: { name: string; replica: string; node: string }): Volume {
    const volume = this.volume(request.name);
    const { replicas } = volume.status;
    const from = replicas.find(
      ({ id, node }) => request.replica === id || request.replica === node,
    );
    if (from === undefined) {
      throw new StorError(
        'NOT_FOUND',
        `volume ${request.name} has no replica ${JSON.stringify(request.replica)}`,
      );
    }
    from.leaving = true;
    replicas.push(fakeReplica(this.node(request.node), this.replicaNumber++, 'move', 'creating'));
    return volume;
  }

  private clusterStatus(): ClusterStatus {
    const count = (health: string) =>
      this.volumes.filter((volume) => volume.status.health === health).length;
    return {
      clusterId: hex('c', 1),
      name: 'checkout',
      version: '0.1.0',
      leader: { nodeId: hex('n', 1), node: 'n1' },
      term: 4,
      quorum: true,
      nodes: { total: 3, up: this.nodes.filter((node) => node.status.state === 'up').length },
      disks: { total: 3, online: 3, capacityBytes: 300 * 2 ** 30, usedBytes: 4.5 * 2 ** 30 },
      volumes: {
        total: this.volumes.length,
        healthy: count('healthy'),
        degraded: count('degraded'),
        suspended: count('suspended'),
        unavailable: count('unavailable'),
      },
      ...this.status,
    };
  }
}
