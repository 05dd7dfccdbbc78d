import { MemoryVolumes } from '@stor/host-attach/testing';
import {
  changePolicy,
  changedQos,
  checkLabels,
  checkPlacement,
  checkSnapshotName,
  checkVolumeName,
  defaultPolicy,
  knownQos,
  makeId,
  StorError,
} from '@stor/protocol';
import type {
  CallOptions,
  ClusterSettings,
  Disk,
  Node,
  Pool,
  Snapshot,
  SnapshotDiff,
  StorApi,
  Volume,
} from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import type { CsiApi } from '../csi-api.ts';

type Method = keyof CsiApi;
type Request<M extends Method> = Parameters<StorApi[M]>[0];

const takenAtMs = Date.UTC(2026, 3, 5, 6, 7, 8) + 250;
const diskBytes = 100 * 2 ** 30;
/** of a diff, so that tests see several pages */
const extentsPerAnswer = 2;

/** A cluster of a few volumes in memory, as far as the driver asks: the same answers and errors. */
export class MemoryCluster implements CsiApi {
  readonly volumes = new MemoryVolumes();
  readonly clusterId = 'c-00000000000000c1';
  /** of the control plane; '' while there is none */
  leaderId = '';
  hasQuorum = true;
  /** names of policies that there are */
  readonly policies = new Set(['gold', 'silver']);
  /** calls that were carried out, by method */
  readonly calls: Method[] = [];
  /** ids of volumes in the trash, with what the deletion said of the time */
  readonly trash = new Map<string, number | undefined>();
  readonly #random = new SeededRandom(11);
  readonly #snapshots = new Map<string, Snapshot>();
  readonly #extents = new Map<string, { offset: number; length: number }[]>();
  readonly #requests = new Map<string, string>();
  readonly #failures = new Map<Method, { error: StorError; isDone: boolean }[]>();
  readonly #holds = new Map<Method, Promise<void>>();
  #version = 1_000;

  /** The next such call fails with it; `isDone`: having done everything, as when an answer is lost. */
  failNext(method: Method, error: StorError, isDone = false): void {
    this.#failures.set(method, [...(this.#failures.get(method) ?? []), { error, isDone }]);
  }

  /** Calls of that kind wait, before they do anything, until what is returned is called. */
  hold(method: Method): () => void {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#holds.set(method, held);
    return () => {
      if (this.#holds.get(method) === held) this.#holds.delete(method);
      release();
    };
  }

  addNode(name: string, labels: Record<string, string> = {}): Node {
    const node = this.volumes.addNode(name);
    node.metadata.labels = labels;
    return node;
  }

  /** What differs between an empty image and a snapshot, or between any two: the later one's. */
  setExtents(snapshotId: string, extents: { offset: number; length: number }[]): void {
    this.#extents.set(snapshotId, extents);
  }

  setSnapshotState(id: string, state: Snapshot['status']['state']): void {
    const snapshot = this.#snapshots.get(id);
    if (snapshot) snapshot.status.state = state;
  }

  getClusterStatus(
    _request: Record<string, never>,
    options?: CallOptions,
  ): ReturnType<StorApi['getClusterStatus']> {
    return this.#call('getClusterStatus', options, () => ({
      clusterId: this.clusterId,
      name: 'memory',
      version: '0.1.0',
      leader: this.leaderId === '' ? null : { nodeId: this.leaderId, node: this.leaderId },
      term: 1,
      quorum: this.hasQuorum,
      nodes: { total: 1, up: 1 },
      disks: { total: 1, online: 1, capacityBytes: diskBytes, usedBytes: 0 },
      volumes: { total: 0, healthy: 0, degraded: 0, suspended: 0, unavailable: 0 },
    }));
  }

  listNodes(_request: Record<string, never>, options?: CallOptions): Promise<{ nodes: Node[] }> {
    return this.#call('listNodes', options, () => this.volumes.listNodes({}));
  }

  getNode({ name }: Request<'getNode'>, options?: CallOptions): Promise<Node> {
    return this.#call('getNode', options, async () => {
      const { nodes } = await this.volumes.listNodes({});
      const found = nodes.find(({ metadata }) => metadata.id === name || metadata.name === name);
      if (found) return found;
      throw new StorError('NOT_FOUND', `there is no node ${JSON.stringify(name)}`);
    });
  }

  listDisks(_request: Record<string, never>, options?: CallOptions): Promise<{ disks: Disk[] }> {
    return this.#call('listDisks', options, async () => {
      const { nodes } = await this.volumes.listNodes({});
      return { disks: nodes.map((node, index) => diskOf(node, index)) };
    });
  }

  listPools(
    _request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ pools: Pool[]; settings: ClusterSettings }> {
    return this.#call('listPools', options, () => ({
      pools: [],
      settings: { overprovisionPercent: 100, repairReservePercent: 10 },
    }));
  }

  listVolumes(
    _request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: Volume[] }> {
    return this.#call('listVolumes', options, () => this.volumes.listVolumes({}));
  }

  getVolume({ name }: Request<'getVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('getVolume', options, () => this.volumes.getVolume({ name }));
  }

  createVolume(request: Request<'createVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('createVolume', options, async () => {
      const { name, sizeBytes, labels, replicas, policy, diskTag = '', placement } = request;
      const made = this.#madeBefore(name, request);
      if (made) return made;
      checkVolumeName(name);
      checkLabels(labels);
      this.#checkPolicy(request.policyName);
      const { nodes } = await this.volumes.listNodes({});
      if (replicas > nodes.length) {
        throw new StorError('FAILED_PRECONDITION', `${replicas} replicas need as many nodes`);
      }
      const copies = replicas || Math.min(3, nodes.length);
      const volume = this.volumes.add(name, { sizeBytes, labels });
      const rules = checkPlacement(placement ?? {});
      const qos = knownQos(request.qos);
      volume.spec = {
        ...volume.spec,
        replicas: copies,
        policy: changePolicy(defaultPolicy(copies), policy ?? {}),
        placement: rules ?? {},
        qos,
        ...(diskTag === '' ? {} : { diskTag }),
        ...((request.policyName ?? '') === '' ? {} : { policyName: request.policyName ?? '' }),
      };
      this.#note(volume, request);
      return structuredClone(volume);
    });
  }

  cloneVolume(request: Request<'cloneVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('cloneVolume', options, async () => {
      const { name, labels, policy, snapshot: snapshotId } = request;
      const made = this.#madeBefore(name, request);
      if (made) return made;
      const source = this.volumes.find(request.source);
      const snapshot = snapshotId === '' ? null : this.#snapshot(snapshotId);
      const least = snapshot?.spec.sizeBytes ?? source.spec.sizeBytes;
      const sizeBytes = request.sizeBytes || least;
      if (sizeBytes < least) throw new StorError('INVALID_ARGUMENT', 'a clone cannot be smaller');
      const volume = this.volumes.add(name, { sizeBytes, labels });
      const spec = structuredClone(source.spec);
      volume.spec = { ...spec, sizeBytes, policy: changePolicy(spec.policy, policy ?? {}) };
      Object.assign(this.volumes.content(name), this.volumes.content(request.source));
      this.#note(volume, request);
      return structuredClone(volume);
    });
  }

  updateVolume(request: Request<'updateVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('updateVolume', options, () => {
      const volume = this.volumes.find(request.name);
      const { spec } = volume;
      this.#checkPolicy(request.policyName);
      const policy = changePolicy(spec.policy, request.policy ?? {});
      const qos = changedQos(knownQos(spec.qos), request.qos ?? {}, request.clearQos ?? []);
      const { policyName = spec.policyName ?? '', replicas = spec.replicas } = request;
      const placement = request.placement ?? spec.placement ?? {};
      const { policyName: _before, ...rest } = spec;
      volume.spec = { ...rest, policy, qos, replicas, placement };
      if (policyName !== '') volume.spec.policyName = policyName;
      this.#changed(volume);
      return structuredClone(volume);
    });
  }

  resizeVolume(
    { name, sizeBytes }: Request<'resizeVolume'>,
    options?: CallOptions,
  ): Promise<Volume> {
    return this.#call('resizeVolume', options, () => {
      const volume = this.volumes.find(name);
      if (sizeBytes < volume.spec.sizeBytes) {
        throw new StorError('INVALID_ARGUMENT', 'a volume cannot be made smaller');
      }
      volume.spec.sizeBytes = sizeBytes;
      this.#changed(volume);
      return structuredClone(volume);
    });
  }

  deleteVolume(
    { name, keepMs, resourceVersion = 0 }: Request<'deleteVolume'>,
    options?: CallOptions,
  ): Promise<{ keptUntilMs: number }> {
    return this.#call('deleteVolume', options, () => {
      const { metadata, status } = this.volumes.find(name);
      if (resourceVersion !== 0 && resourceVersion !== metadata.resourceVersion) {
        throw new StorError('CONFLICT', `volume ${name} has changed`);
      }
      const [publication] = status.publications;
      if (publication) {
        throw new StorError('FAILED_PRECONDITION', `used as a device on node ${publication.node}`);
      }
      for (const [id, { spec }] of this.#snapshots) {
        if (spec.volumeId === metadata.id) this.#snapshots.delete(id);
      }
      this.trash.set(metadata.id, keepMs);
      this.volumes.remove(name);
      return { keptUntilMs: 1 };
    });
  }

  publishVolume(request: Request<'publishVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('publishVolume', options, () => this.volumes.publishVolume(request));
  }

  unpublishVolume(request: Request<'unpublishVolume'>, options?: CallOptions): Promise<Volume> {
    return this.#call('unpublishVolume', options, () => this.volumes.unpublishVolume(request));
  }

  listSnapshots(
    { volume }: Request<'listSnapshots'>,
    options?: CallOptions,
  ): Promise<{ snapshots: Snapshot[] }> {
    return this.#call('listSnapshots', options, () => {
      const id = volume === '' ? '' : this.volumes.find(volume).metadata.id;
      const all = [...this.#snapshots.values()];
      const shown = all.filter(({ spec }) => id === '' || spec.volumeId === id);
      return { snapshots: structuredClone(shown) };
    });
  }

  getSnapshot({ name }: Request<'getSnapshot'>, options?: CallOptions): Promise<Snapshot> {
    return this.#call('getSnapshot', options, () => structuredClone(this.#snapshot(name)));
  }

  createSnapshot(
    request: Request<'createSnapshot'>,
    options?: CallOptions,
  ): Promise<{ snapshots: Snapshot[] }> {
    return this.#call('createSnapshot', options, () => {
      const { volume, volumes = [], name, labels, requestId = '' } = request;
      checkSnapshotName(name);
      checkLabels(labels);
      const named = volume === '' ? volumes : [volume];
      const of = named.map((each) => this.volumes.find(each));
      const known = [...this.#snapshots.values()].filter(
        ({ metadata }) => this.#requests.get(metadata.id) === requestId && requestId !== '',
      );
      if (known.length > 0) return { snapshots: structuredClone(known) };
      for (const { metadata } of of) {
        const full = `${metadata.name}@${name}`;
        const same = [...this.#snapshots.values()].some((each) => each.metadata.name === full);
        if (same) throw new StorError('ALREADY_EXISTS', `there is a snapshot ${full} already`);
      }
      const groupId = of.length > 1 ? makeId('g', this.#random.bytes(8)) : '';
      const snapshots = of.map((each) => this.#take(each, { name, labels, groupId, requestId }));
      return { snapshots: structuredClone(snapshots) };
    });
  }

  deleteSnapshot(
    { name }: Request<'deleteSnapshot'>,
    options?: CallOptions,
  ): Promise<Record<string, never>> {
    return this.#call('deleteSnapshot', options, () => {
      this.#snapshots.delete(this.#snapshot(name).metadata.id);
      return {};
    });
  }

  diffSnapshots(
    { to, offset = 0 }: Request<'diffSnapshots'>,
    options?: CallOptions,
  ): Promise<SnapshotDiff> {
    return this.#call('diffSnapshots', options, () => {
      const { sizeBytes } = this.#snapshot(to).spec;
      const rest = (this.#extents.get(to) ?? []).filter((each) => each.offset >= offset);
      const extents = rest.slice(0, extentsPerAnswer);
      return { sizeBytes, extents, nextOffset: rest[extentsPerAnswer]?.offset ?? null };
    });
  }

  async #call<T>(
    method: Method,
    options: CallOptions | undefined,
    run: () => Promise<T> | T,
  ): Promise<T> {
    await this.#holds.get(method);
    if (options?.signal?.aborted) throw new StorError('ABORTED', `${method} was aborted`);
    const [failure, ...rest] = this.#failures.get(method) ?? [];
    this.#failures.set(method, rest);
    if (failure && !failure.isDone) throw failure.error;
    this.calls.push(method);
    const answer = await run();
    if (failure) throw failure.error;
    return answer;
  }

  #take(
    volume: Volume,
    order: { name: string; labels: Record<string, string>; groupId: string; requestId: string },
  ): Snapshot {
    const id = makeId('s', this.#random.bytes(8));
    const { name, labels, groupId, requestId } = order;
    const snapshot: Snapshot = {
      metadata: {
        id,
        name: `${volume.metadata.name}@${name}`,
        labels,
        createdAtMs: takenAtMs,
        resourceVersion: this.#version++,
      },
      spec: { volumeId: volume.metadata.id, sizeBytes: volume.spec.sizeBytes, groupId },
      status: {
        volume: volume.metadata.name,
        state: 'ready',
        message: '',
        pausedMs: 1,
        ownBytes: null,
      },
    };
    this.#snapshots.set(id, snapshot);
    this.#requests.set(id, requestId);
    this.#changed(volume);
    return snapshot;
  }

  #snapshot(id: string): Snapshot {
    const found = this.#snapshots.get(id);
    if (found) return found;
    throw new StorError('NOT_FOUND', `there is no snapshot ${JSON.stringify(id)}`);
  }

  #madeBefore(name: string, { requestId = '' }: { requestId?: string }): Volume | null {
    if (!this.volumes.has(name)) return null;
    const volume = this.volumes.find(name);
    if (requestId !== '' && this.#requests.get(volume.metadata.id) === requestId) {
      return structuredClone(volume);
    }
    throw new StorError('ALREADY_EXISTS', `there is a volume ${name} already`);
  }

  #note(volume: Volume, { requestId = '' }: { requestId?: string }): void {
    this.#requests.set(volume.metadata.id, requestId);
  }

  #changed(volume: Volume): void {
    volume.metadata.resourceVersion = this.#version++;
  }

  #checkPolicy(name = ''): void {
    if (name === '' || this.policies.has(name)) return;
    throw new StorError('NOT_FOUND', `there is no policy ${name}`);
  }
}

function diskOf(node: Node, index: number): Disk {
  const name = `${node.metadata.name}:/disk`;
  return {
    metadata: {
      id: `d-000000000000000${index}`,
      name,
      labels: {},
      createdAtMs: 0,
      resourceVersion: 1,
    },
    spec: {
      nodeId: node.metadata.id,
      path: '/disk',
      tag: 'ssd',
      device: '',
      evacuate: false,
    },
    status: {
      state: 'online',
      message: '',
      capacityBytes: diskBytes,
      usedBytes: 0,
      freeBytes: diskBytes,
      reservedBytes: 0,
      provisionedBytes: 0,
      replicas: 0,
      space: 'ok',
      lane: 0,
    },
  };
}
