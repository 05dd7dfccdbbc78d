import {
  StorError,
  blockBytes,
  formatByteSize,
  maxSegments,
  maxVolumeBytes,
  segmentBytesOf,
  segmentCount,
  segmentSizeBytes,
} from '@stor/protocol';
import type { ReplicaId } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { settingsOf } from '../placement/cluster-limits.ts';
import { refusalOf } from '../placement/disk-room.ts';
import { diskUses, unused } from '../placement/disk-use.ts';
import { withAllSegments } from '../placement/place-segments.ts';
import { checkChangeable } from './change-volume.ts';
import { checkNotRollingBack } from './rollback-rules.ts';

/**
 * `volume resize` as changes of the record: `begun` places the segments that are added, `done` takes
 * them and the size over, `undone` gives them up. Nothing but the replicas of what is added knows the
 * new size before `done`, so a growth that nobody ends leaves the volume as it was.
 */
export interface GrowthContext {
  state: ClusterState;
  wallMs: number;
  newReplicaId: () => ReplicaId;
}

/** INVALID_ARGUMENT */
export function checkNewSize(record: StoredVolume, sizeBytes: number): number {
  const { metadata, spec } = record;
  const now = formatByteSize(spec.sizeBytes);
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw invalid(`size ${sizeBytes} is not valid: volume ${metadata.name} has ${now}`);
  }
  const wholeBytes = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  const asked = formatByteSize(wholeBytes);
  if (wholeBytes < spec.sizeBytes) {
    throw invalid(
      `volume ${metadata.name} has ${now} and cannot become smaller (${asked}): what is behind the new end would be lost, and file systems do not survive that; copy what you need to a smaller volume`,
    );
  }
  if (wholeBytes > maxVolumeBytes) {
    throw invalid(
      `size ${asked} is too large: a volume has at most ${formatByteSize(maxVolumeBytes)}`,
    );
  }
  const segmentBytes = segmentBytesOf(spec);
  const count = segmentCount(wholeBytes, segmentBytes);
  if (count > maxSegments) {
    throw invalid(
      `volume ${metadata.name} cannot have ${asked}: with segments of ${formatByteSize(segmentBytes)}, which never change, it has at most ${maxSegments} of them, so ${formatByteSize(maxSegments * segmentBytes)}`,
    );
  }
  return wholeBytes;
}

/**
 * The record with the growth begun; null when there is nothing to begin: it has that size, or is on
 * its way to it. INVALID_ARGUMENT, FAILED_PRECONDITION, UNAVAILABLE, NO_SPACE.
 */
export function growthBegun(
  record: StoredVolume,
  wantedBytes: number,
  context: GrowthContext,
): StoredVolume | null {
  checkChangeable(record);
  checkNotRollingBack(record);
  const sizeBytes = checkNewSize(record, wantedBytes);
  const { metadata, status } = record;
  // said from now on: for older records it follows from the size that they had
  const spec = { ...record.spec, segmentBytes: segmentBytesOf(record.spec) };
  const { growth } = status;
  if (growth) {
    if (growth.sizeBytes === sizeBytes) return null;
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${metadata.name} is being grown to ${formatByteSize(growth.sizeBytes)}: wait until that has ended`,
    );
  }
  if (sizeBytes === spec.sizeBytes) return null;
  checkRoom(record, sizeBytes, context.state);
  // as it will be, so that what is placed counts with its new size
  const grown = withAllSegments(
    { ...record, spec: { ...spec, sizeBytes } },
    context.state,
    context.newReplicaId,
  );
  const segments = grown.status.segments.slice(status.segments.length);
  const begun = { sizeBytes, sinceMs: context.wallMs, segments };
  return { ...record, spec, status: { ...status, growth: begun } };
}

/** Whether every replica of what is added is on its disk; why it never will be; null: not yet. */
export function growthOutcome(
  record: StoredVolume,
  state: ClusterState,
): 'ready' | { failure: StorError } | null {
  const replicas = record.status.growth?.segments.flatMap((segment) => segment.replicas) ?? [];
  let isReady = true;
  for (const { id, nodeId, diskId } of replicas) {
    const report = state.reports.get(id)?.value;
    if (report?.state === 'ready') continue;
    const node = nodeName(state, nodeId);
    if (report?.state === 'failed') {
      const path = state.disks.get(diskId)?.value.path ?? diskId;
      return failed(`disk ${path} of node ${node} could not take a replica: ${report.message}`);
    }
    if (!isUp(state, nodeId)) return failed(`node ${node} went down before it had its replica`);
    isReady = false;
  }
  return isReady ? 'ready' : null;
}

/**
 * The record with the new size, in use. Every in-sync replica of what there was must be as large by
 * then; new ones are all empty, so all are equal: the first in-sync set is all of them.
 */
export function growthDone(record: StoredVolume, wallMs: number): StoredVolume {
  const { growth, ...status } = record.status;
  if (!growth) return record;
  const added = growth.segments.map((segment) => ({
    ...segment,
    setRevision: 1,
    changedAtMs: wallMs,
    replicas: segment.replicas.map((replica) => ({ ...replica, state: 'ready' as const })),
    inSync: segment.replicas.map(({ id }) => id),
  }));
  return {
    ...record,
    spec: { ...record.spec, sizeBytes: growth.sizeBytes },
    status: { ...status, segments: [...status.segments, ...added] },
  };
}

/** The record without the growth; the replicas that were placed for it are deleted by their nodes. */
export function growthUndone(record: StoredVolume): StoredVolume {
  const { growth, ...status } = record.status;
  if (!growth) return record;
  const placed = growth.segments.flatMap((segment) => segment.replicas);
  const gone = placed.map(({ id, nodeId, diskId }) => ({ id, nodeId, diskId, unused: true }));
  const segments = status.segments.map((segment, index) =>
    index === 0 && gone.length > 0
      ? { ...segment, removed: [...(segment.removed ?? []), ...gone] }
      : segment,
  );
  return { ...record, status: { ...status, segments } };
}

/** What the last segment grows by must be admitted on the disks of its replicas, as at a creation. */
function checkRoom(record: StoredVolume, sizeBytes: number, state: ClusterState): void {
  const last = record.status.segments.at(-1);
  if (!last) return;
  const segmentBytes = segmentBytesOf(record.spec);
  const now = segmentSizeBytes(record.spec.sizeBytes, segmentBytes, last.index);
  const more = segmentSizeBytes(sizeBytes, segmentBytes, last.index) - now;
  if (more === 0) return;
  const uses = diskUses(state);
  for (const { diskId, nodeId } of last.replicas) {
    const disk = state.disks.get(diskId)?.value;
    if (!disk) continue;
    const need = { kind: 'new' as const, sizeBytes: more, fillBytes: 0, tag: '' };
    const refusal = refusalOf(disk, uses.get(diskId) ?? unused, need, settingsOf(state));
    if (refusal?.noSpace !== true) continue;
    throw new StorError(
      'NO_SPACE',
      `volume ${record.metadata.name} cannot have ${formatByteSize(sizeBytes)}: node ${nodeName(state, nodeId)} ${refusal.reason}; add a disk and move the replica, or change the limits ("storctl pool set")`,
    );
  }
}

function failed(message: string): { failure: StorError } {
  return { failure: new StorError('UNAVAILABLE', message) };
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
