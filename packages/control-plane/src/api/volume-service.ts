import {
  blockBytes,
  changePolicy,
  checkLabels,
  checkPlacement,
  checkQos,
  checkVolumeName,
  defaultPolicy,
  errorCodes,
  formatByteSize,
  hasCode,
  knownQos,
  makeId,
  maxReplicas,
  maxSegmentBytes,
  maxSegments,
  maxVolumeBytes,
  minSegmentBytes,
  segmentCount,
  StorError,
  usualSegmentBytes,
} from '@stor/protocol';
import type {
  ErrorCode,
  NodeId,
  PlacementRules,
  QosSpec,
  Volume,
  VolumeId,
  VolumePolicy,
} from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { Attachments } from '../agent/attachments.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { countStorageNodes } from '../core/node/compute-only.ts';
import { cordonOf, cordoned } from '../core/node/node-intent.ts';
import { withAllSegments } from '../core/placement/place-segments.ts';
import { findPolicy, holdOfPolicy } from '../core/qos/policy-rules.ts';
import { describeVolume } from '../core/volume/describe-volume.ts';
import { checkUnpublished } from '../agent/used-as-device.ts';
import { checkKeepMs, deletionOf, trashingOf } from '../core/volume/trash-rules.ts';
import { nodeName } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { findVolume, readHosts, readSnapshots, readState, readVolume } from '../resources/find.ts';
import { volumeKey, volumeNameKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { NodeRecord, StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { createWaitMs } from './create-wait.ts';
import { readSoon } from './read-soon.ts';
import type { ReplicaSpaces } from './replica-spaces.ts';
import { findNode } from './find-node.ts';
import { isMadeBy, requestOf } from './creation-requests.ts';
import { liveStatus } from './live-status.ts';

/** How long a creation of few replicas may take before it is undone (ms). */
const fewReplicasMs = 20_000;
/** After an undone creation the reason is looked for this long (ms). */
const reasonWaitMs = 1_000;
/** A disk knows what a deletion has freed after this at the latest (ms). */
const freedSpaceWaitMs = 3_000;
const defaultReplicas = 3;
const maxConflicts = 20;

export interface CreateVolumeRequest {
  name: string;
  sizeBytes: number;
  replicas: number;
  labels: Record<string, string>;
  segmentBytes?: number;
  requestId?: string;
  policy?: Partial<VolumePolicy> | null;
  diskTag?: string;
  /** on the wire what is absent is null */
  placement?: PlacementRules | null;
  onNode?: string;
  qos?: QosSpec | null;
  policyName?: string;
}

/** Which volume is to be made, and by which request. */
type CreationRequest = { name: string } & ReturnType<typeof requestOf>;

/** The calls of the API that concern volumes. */
export class VolumeService {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #attachments: Attachments;
  readonly #peers: AgentPeers;
  readonly #spaces: ReplicaSpaces;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  #lastDeletionMs = -Infinity;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    attachments: Attachments;
    peers: AgentPeers;
    spaces: ReplicaSpaces;
    nodeId: NodeId;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#attachments = options.attachments;
    this.#peers = options.peers;
    this.#spaces = options.spaces;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  async create(request: CreateVolumeRequest, signal?: AbortSignal): Promise<Volume> {
    const size = checkCreate(request);
    const { name } = request;
    const made = { name, ...requestOf('createVolume', request) };
    return this.createAs(made, (state) => this.#newRecord(request, size, state), signal);
  }

  /** Creates the volume that `make` makes a record of; see StorApi.createVolume for the errors. */
  async createAs(
    request: CreationRequest,
    make: (state: ClusterState) => StoredVolume,
    signal?: AbortSignal,
  ): Promise<Volume> {
    const id = await this.#reserveWithRoom(request, make, signal);
    return this.settled(id, request.name, signal);
  }

  /** Waits until a volume that is being created is ready, or undoes it. */
  async settled(id: VolumeId, name: string, signal?: AbortSignal): Promise<Volume> {
    const settled = await this.#cache.waitFor((state) => creationOutcome(state, id), {
      timeoutMs: await this.#createWaitMs(id),
      signal,
    });
    if (settled === 'ready') return this.get(id);
    return this.#undoCreation(id, name);
  }

  async #createWaitMs(id: VolumeId): Promise<number> {
    const volume = await readVolume(this.#store, id);
    const replicas = volume?.value.status.segments.flatMap((segment) => segment.replicas) ?? [];
    return createWaitMs(replicas.length, fewReplicasMs);
  }

  async list(): Promise<Volume[]> {
    const state = await readSoon((options) => readState(this.#store, options));
    const volumes = [...state.volumes.values()];
    volumes.sort((a, b) => (a.value.metadata.name < b.value.metadata.name ? -1 : 1));
    return this.describe(volumes, state);
  }

  async get(name: string): Promise<Volume> {
    const volume = await readSoon((options) => findVolume(this.#store, name, options));
    const { id } = volume.value.metadata;
    const hosts = await this.#hosts();
    const snapshots = new Map([[id, await readSnapshots(this.#store, id, { local: true })]]);
    return this.#describeOne(volume, { ...hosts, snapshots });
  }

  /** Until when it is kept in the trash, by the wall clock; 0: it is deleted for good. */
  async delete(name: string, keepMs: number): Promise<number> {
    checkKeepMs(keepMs);
    const id = await this.#idOf(name);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const found = await readVolume(this.#store, id);
      if (found) checkUnpublished(found.value, await this.#hosts());
      const volume = await this.#attachments.detach(id, true);
      if (!volume) throw new StorError('NOT_FOUND', `volume ${name} was deleted meanwhile`);
      checkUnpublished(volume.value, await this.#hosts());
      // there is nothing to keep of one that was never ready
      const isKept = keepMs > 0 && volume.value.status.phase === 'ready';
      const deletedAtMs = this.#clock.wallMs();
      const keptUntilMs = isKept ? deletedAtMs + keepMs : 0;
      const { succeeded } = await this.#store.transact(
        isKept ? trashingOf(volume, { deletedAtMs, keptUntilMs }) : deletionOf(volume, null),
      );
      if (succeeded) {
        if (!isKept) this.#lastDeletionMs = this.#clock.monotonicMs();
        const { name: deleted } = volume.value.metadata;
        this.#logger.info({ volume: deleted, id, keptUntilMs }, 'volume deleted');
        return keptUntilMs;
      }
    }
    throw new StorError('CONFLICT', `volume ${name} changes too often to be deleted: try again`);
  }

  async attach(name: string, node: string): Promise<Volume> {
    const id = await this.#idOf(name);
    const state = await this.#hosts();
    const nodeId = node === '' ? this.#nodeId : findNode(state, node).value.id;
    const known = state.nodes.get(nodeId)?.value;
    const cordon = cordonOf(known);
    if (known && cordon !== null) await this.#checkAttachedHere(id, known, cordon);
    await this.#peers.at(nodeId).attachHere({ volumeId: id, mode: 'manual', onlyIfWanted: false });
    return this.get(id);
  }

  /** On a node that takes nothing new, only what is attached there already may be held there. */
  async #checkAttachedHere(id: VolumeId, node: NodeRecord, cordon: string): Promise<void> {
    const volume = await readVolume(this.#store, id, { local: true });
    if (volume?.value.status.attachment?.nodeId !== node.id) throw cordoned(node.name, cordon);
  }

  async detach(name: string): Promise<Volume> {
    const id = await this.#idOf(name);
    await this.#attachments.detach(id, false);
    return this.get(id);
  }

  /** Asks each primary once, all at the same time; one that does not answer is left out. */
  async describe(volumes: Versioned<StoredVolume>[], state: ClusterState): Promise<Volume[]> {
    const live = await liveStatus(volumes, state, { peers: this.#peers, logger: this.#logger });
    return volumes.map((volume) =>
      describeVolume(volume, state, live.get(volume.value.metadata.id) ?? null, this.#nodeId),
    );
  }

  /** NOT_FOUND; UNAVAILABLE without a quorum, which every verb needs that changes something. */
  async #idOf(name: string): Promise<VolumeId> {
    const volume = await readSoon((options) => findVolume(this.#store, name, options));
    return volume.value.metadata.id;
  }

  async #describeOne(volume: Versioned<StoredVolume>, state: ClusterState): Promise<Volume> {
    const [[described], spaces] = await Promise.all([
      this.describe([volume], state),
      this.#spaces.of([volume.value], state),
    ]);
    if (!described) throw new StorError('INTERNAL', 'nothing was described');
    const space = spaces.get(volume.value.metadata.id);
    if (!space) return described;
    const { allocatedBytes, snapshotBytes, reclaimableBytes } = space;
    const shown = { allocatedBytes, snapshotBytes, reclaimableBytes };
    return { ...described, status: { ...described.status, space: shown } };
  }

  /** A volume that was just deleted gives its room back a moment later: that moment is waited for. */
  async #reserveWithRoom(
    request: CreationRequest,
    make: (state: ClusterState) => StoredVolume,
    signal: AbortSignal | undefined,
  ): Promise<VolumeId> {
    const deadlineMs = this.#clock.monotonicMs() + freedSpaceWaitMs;
    for (;;) {
      try {
        return await this.#reserve(request, make);
      } catch (error) {
        const leftMs = deadlineMs - this.#clock.monotonicMs();
        if (!hasCode(error, 'NO_SPACE') || leftMs <= 0 || !this.#isSpaceComing()) throw error;
        const { disks } = this.#cache.state;
        const before = new Map([...disks].map(([id, disk]) => [id, disk.modRevision]));
        await this.#cache.waitFor(
          (state) =>
            [...state.disks].some(([id, disk]) => disk.modRevision !== before.get(id)) || undefined,
          { timeoutMs: leftMs, signal },
        );
      }
    }
  }

  /** Nodes and disks as this member has them; a read of the store that came before makes that current. */
  #hosts(): Promise<ClusterState> {
    return readHosts(this.#store, { local: true, known: this.#cache.state });
  }

  #isSpaceComing(): boolean {
    const sinceMs = this.#clock.monotonicMs() - this.#lastDeletionMs;
    return this.#cache.state.deleted.size > 0 || sinceMs < freedSpaceWaitMs;
  }

  /** Writes name and record in one transaction; the id of the same request's volume if there is one. */
  async #reserve(
    request: CreationRequest,
    make: (state: ClusterState) => StoredVolume,
  ): Promise<VolumeId> {
    const { name, requestHash } = request;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const item = await readSoon((options) => this.#store.get(volumeNameKey(name), options));
      if (item) {
        const known = new TextDecoder().decode(item.value);
        const volume = await readVolume(this.#store, known, { local: true });
        if (volume && isMadeBy(volume.value, request)) return known;
        throw new StorError('ALREADY_EXISTS', `there is a volume ${name} already`);
      }
      // what other volumes were promised may be a moment old: it only ranks the disks
      const { volumes, trash } = this.#cache.state;
      const state = { ...(await this.#hosts()), volumes, trash };
      const record = { ...make(state), ...(requestHash === '' ? {} : { requestHash }) };
      const { id } = record.metadata;
      const hold = holdOfPolicy(record, null, state);
      const { succeeded } = await this.#store.transact({
        compare: [
          ...hold.compare,
          { key: volumeNameKey(name), modRevision: 0 },
          { key: volumeKey(id), modRevision: 0 },
        ],
        operations: [
          { type: 'put', key: volumeKey(id), value: encodeRecord(record) },
          { type: 'put', key: volumeNameKey(name), value: new TextEncoder().encode(id) },
          ...hold.operations,
        ],
      });
      if (succeeded) return id;
    }
    throw new StorError('CONFLICT', `the name ${name} is taken and freed too often: try again`);
  }

  #newRecord(request: CreateVolumeRequest, size: VolumeSize, state: ClusterState): StoredVolume {
    const usual = Math.min(defaultReplicas, Math.max(1, countStorageNodes(state)));
    const replicas = request.replicas || usual;
    const tag = request.diskTag ?? '';
    const placement = checkPlacement(request.placement ?? {});
    const qos = knownQos(request.qos);
    const wanted = request.policyName ?? '';
    const policyName = wanted === '' ? '' : findPolicy(state.policies, wanted).value.name;
    const record: StoredVolume = {
      metadata: {
        id: makeId('v', this.#random.bytes(8)),
        name: request.name,
        labels: request.labels,
        createdAtMs: this.#clock.wallMs(),
        resourceVersion: 0,
      },
      spec: {
        ...size,
        replicas,
        ...(tag === '' ? {} : { diskTag: tag }),
        ...(placement ? { placement } : {}),
        policy: changePolicy(defaultPolicy(replicas), request.policy ?? {}),
        ...(Object.keys(qos).length === 0 ? {} : { qos }),
        ...(policyName === '' ? {} : { policyName }),
      },
      status: {
        phase: 'creating',
        message: '',
        epoch: 0,
        attachment: null,
        cleanRelease: true,
        segments: [],
      },
      requestId: request.requestId ?? '',
      failure: null,
    };
    const { onNode = '' } = request;
    const local = onNode === '' ? undefined : findNode(state, onNode).value.id;
    return withAllSegments(record, state, () => makeId('r', this.#random.bytes(8)), local);
  }

  /** A creation that did not become ready: undone if nobody has yet, then reported. */
  async #undoCreation(id: VolumeId, name: string): Promise<Volume> {
    const volume = await readVolume(this.#store, id);
    if (volume?.value.status.phase === 'ready') return this.get(id);
    if (volume) {
      const late = lateNodes(volume.value, this.#cache.state).join(', ');
      const message = `no word in time that each replica was created from ${late || 'the leader'}`;
      const failure = { code: 'TIMEOUT', message };
      const { succeeded } = await this.#store.transact(deletionOf(volume, failure));
      if (succeeded) throw creationFailed(name, failure);
      return this.#undoCreation(id, name);
    }
    const found = await this.#cache.waitFor((state) => state.deleted.get(id), {
      timeoutMs: reasonWaitMs,
    });
    throw creationFailed(name, found?.value.failure ?? null);
  }
}

interface VolumeSize {
  sizeBytes: number;
  segmentBytes: number;
}

/** Returns the size, rounded up to whole blocks. Throws INVALID_ARGUMENT. */
function checkCreate(request: CreateVolumeRequest): VolumeSize {
  const { name, sizeBytes, replicas, labels } = request;
  checkVolumeName(name);
  checkPlacement(request.placement ?? {});
  checkLabels(labels);
  checkQos(knownQos(request.qos));
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `size ${sizeBytes} is not valid: a volume has at least 1 byte, for example --size 20GiB`,
    );
  }
  if (sizeBytes > maxVolumeBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `size ${formatByteSize(sizeBytes)} is too large: a volume has at most ${formatByteSize(maxVolumeBytes)}`,
    );
  }
  if (!Number.isInteger(replicas) || replicas < 0 || replicas > maxReplicas) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${replicas} replicas are not possible: ask for 1 to ${maxReplicas}`,
    );
  }
  const wholeBytes = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  return { sizeBytes: wholeBytes, segmentBytes: checkSegmentBytes(wholeBytes, request) };
}

function checkSegmentBytes(sizeBytes: number, request: CreateVolumeRequest): number {
  const segmentBytes = request.segmentBytes ?? 0;
  if (segmentBytes === 0) return usualSegmentBytes(sizeBytes);
  const isWhole = Number.isSafeInteger(segmentBytes) && segmentBytes % minSegmentBytes === 0;
  if (!isWhole || segmentBytes < minSegmentBytes || segmentBytes > maxSegmentBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `segment size ${segmentBytes} is not valid: it is a multiple of ${formatByteSize(minSegmentBytes)} of at most ${formatByteSize(maxSegmentBytes)}`,
    );
  }
  const count = segmentCount(sizeBytes, segmentBytes);
  if (count > maxSegments) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a volume of ${formatByteSize(sizeBytes)} would have ${count} segments of ${formatByteSize(segmentBytes)}: it has at most ${maxSegments}, so ask for larger ones`,
    );
  }
  return segmentBytes;
}

/** `undefined` while it is under way. */
function creationOutcome(state: ClusterState, id: VolumeId): 'ready' | 'undone' | undefined {
  const volume = state.volumes.get(id);
  if (volume) return volume.value.status.phase === 'ready' ? 'ready' : undefined;
  // the cache may not have come to the creation yet; a deletion it knows is one
  return state.deleted.has(id) ? 'undone' : undefined;
}

function lateNodes(volume: StoredVolume, state: ClusterState): string[] {
  const late = volume.status.segments
    .flatMap((segment) => segment.replicas)
    .filter((replica) => !state.reports.has(replica.id));
  return [...new Set(late.map((replica) => nodeName(state, replica.nodeId)))];
}

function creationFailed(name: string, failure: StoredVolume['failure']): StorError {
  const reason = failure?.message ?? 'it was deleted meanwhile';
  const code = errorCodes.find((known) => known === failure?.code) ?? 'UNAVAILABLE';
  return new StorError(publicCode(code), `volume ${name} was not created: ${reason}`);
}

/** What a node says of its disk is not what the caller did wrong. */
function publicCode(code: ErrorCode): ErrorCode {
  const passed: ErrorCode[] = ['NO_SPACE', 'DISK_FAILED', 'UNAVAILABLE', 'TIMEOUT'];
  return passed.includes(code) ? code : 'FAILED_PRECONDITION';
}
