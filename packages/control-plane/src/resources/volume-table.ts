import type { DiskId, NodeId, SegmentStatus, VolumeId } from '@stor/protocol';
import { placedSegments, promisedSizeOf } from '../core/volume/segment-size.ts';
import type { Versioned } from './cluster-state.ts';
import { addTo, removeFrom } from './disk-table.ts';
import type { StoredVolume } from './records.ts';

type Volume = Versioned<StoredVolume>;

/** What volumes have on one disk, by their records alone. */
export interface DiskShare {
  /** replicas of placed segments, also of those that are being added */
  replicas: number;
  /** sum of what those replicas are promised */
  provisionedBytes: number;
}

/**
 * Volumes by id that know where they lie and which of them are not at rest. Kept up with each change, so
 * that a question about one node or disk of a large cluster does not look at every volume. It is a map:
 * whoever puts a state together from parts of others takes the index along.
 */
export class VolumeTable extends Map<VolumeId, Volume> {
  readonly #byNode = new Map<NodeId, Set<VolumeId>>();
  readonly #byDisk = new Map<DiskId, DiskShare>();
  readonly #unsettled = new Set<VolumeId>();
  readonly #byLabel = new Map<string, Set<VolumeId>>();
  readonly #ruled = new Set<VolumeId>();

  constructor(volumes: Iterable<readonly [VolumeId, Volume]> = []) {
    // the base class would fill itself before the index is there
    super();
    for (const [id, volume] of volumes) this.set(id, volume);
  }

  override set(id: VolumeId, volume: Volume): this {
    this.#forget(id);
    super.set(id, volume);
    const { value } = volume;
    for (const nodeId of nodesOf(value)) addTo(this.#byNode, nodeId, id);
    addShares(this.#byDisk, value, 1);
    if (isUnsettled(value)) this.#unsettled.add(id);
    for (const pair of Object.entries(value.metadata.labels)) {
      addTo(this.#byLabel, labelKey(pair), id);
    }
    if (isRuled(value)) this.#ruled.add(id);
    return this;
  }

  override delete(id: VolumeId): boolean {
    this.#forget(id);
    return super.delete(id);
  }

  override clear(): void {
    super.clear();
    this.#byNode.clear();
    this.#byDisk.clear();
    this.#unsettled.clear();
    this.#byLabel.clear();
    this.#ruled.clear();
  }

  /** Volumes that have anything to do with the node: see `nodesOf`. */
  idsOn(nodeId: NodeId): ReadonlySet<VolumeId> {
    return this.#byNode.get(nodeId) ?? none;
  }

  /** Of each disk that has replicas. */
  get shares(): ReadonlyMap<DiskId, Readonly<DiskShare>> {
    return this.#byDisk;
  }

  /** Volumes whose record alone says that something is to be done or under way: see `isUnsettled`. */
  get unsettled(): ReadonlySet<VolumeId> {
    return this.#unsettled;
  }

  /** Volumes with that label. */
  idsLabelled(pair: readonly [string, string]): ReadonlySet<VolumeId> {
    return this.#byLabel.get(labelKey(pair)) ?? none;
  }

  /** Volumes with rules about other volumes: see `isRuled`. */
  get ruled(): ReadonlySet<VolumeId> {
    return this.#ruled;
  }

  #forget(id: VolumeId): void {
    const volume = this.get(id);
    if (!volume) return;
    for (const nodeId of nodesOf(volume.value)) removeFrom(this.#byNode, nodeId, id);
    addShares(this.#byDisk, volume.value, -1);
    this.#unsettled.delete(id);
    for (const pair of Object.entries(volume.value.metadata.labels)) {
      removeFrom(this.#byLabel, labelKey(pair), id);
    }
    this.#ruled.delete(id);
  }
}

/** Neither keys nor values have such a character. */
const labelKey = ([key, value]: readonly [string, string]): string => `${key}\u0000${value}`;

/** It has rules of affinity or anti-affinity. */
export function isRuled({ spec }: StoredVolume): boolean {
  const { affinity = [], antiAffinity = [] } = spec.placement ?? {};
  return affinity.length + antiAffinity.length > 0;
}

const none: ReadonlySet<string> = new Set();

/** Where it has replicas or is still to delete some, where it is attached, and where it should be. */
export function nodesOf(volume: StoredVolume): Set<NodeId> {
  const nodes = new Set<NodeId>();
  for (const { replicas, removed = [] } of placedSegments(volume)) {
    for (const { nodeId } of replicas) nodes.add(nodeId);
    for (const { nodeId } of removed) nodes.add(nodeId);
  }
  const { attachment } = volume.status;
  if (attachment) nodes.add(attachment.nodeId);
  if (volume.spec.attachTo !== undefined) nodes.add(volume.spec.attachTo);
  return nodes;
}

/** By the record alone: not every replica of it is ready, in sync and there to stay. */
export function isUnsettled({ spec, status }: StoredVolume): boolean {
  if (status.phase !== 'ready' || status.growth || status.rollback) return true;
  return status.segments.some((segment) => !isSettled(segment, spec.replicas));
}

function isSettled({ replicas, inSync, removed = [] }: SegmentStatus, wanted: number): boolean {
  if (removed.length > 0 || replicas.length !== wanted) return false;
  return replicas.every((replica, at) => {
    if (replica.state !== 'ready' || replica.leaving === true) return false;
    if (!inSync.includes(replica.id)) return false;
    return replicas.findIndex(({ nodeId }) => nodeId === replica.nodeId) === at;
  });
}

/** Counts what the volume has on disks in, or out again. */
export function addShares(
  shares: Map<DiskId, DiskShare>,
  volume: StoredVolume,
  sign: 1 | -1,
): void {
  for (const segment of placedSegments(volume)) {
    const bytes = promisedSizeOf(volume, segment.index);
    for (const { diskId } of segment.replicas) {
      const share = shares.get(diskId) ?? { replicas: 0, provisionedBytes: 0 };
      share.replicas += sign;
      share.provisionedBytes += sign * bytes;
      if (share.replicas > 0) shares.set(diskId, share);
      else shares.delete(diskId);
    }
  }
}
