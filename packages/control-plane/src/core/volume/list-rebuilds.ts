import type { Rebuild, SegmentStatus, VolumeReplica } from '@stor/protocol';
import { isUp, nodeName, withNodeNames } from '../../resources/cluster-state.ts';
import { formatWait } from './volume-sight.ts';
import type { VolumeSight } from './volume-sight.ts';

/**
 * Replicas of one volume that are being made equal, or wait for it. Failed ones are not: they never
 * will be; nor are those that are to leave.
 */
export function rebuildsOf(sight: VolumeSight): Rebuild[] {
  const { status } = sight.volume.value;
  if (status.phase !== 'ready') return [];
  return status.segments.flatMap((segment) =>
    segment.replicas
      .filter((r) => r.state !== 'failed' && r.leaving !== true)
      .filter((r) => !segment.inSync.includes(r.id))
      .map((replica) => rebuildOf(sight, segment, replica)),
  );
}

function rebuildOf(sight: VolumeSight, segment: SegmentStatus, replica: VolumeReplica): Rebuild {
  const { volume, state, nowWallMs } = sight;
  const { metadata, status } = volume.value;
  const live = sight.live?.epoch === status.attachment?.epoch ? sight.live : null;
  const seen = live?.replicas.find(({ replicaId }) => replicaId === replica.id);
  const resync = seen?.resync;
  const isSyncing = seen !== undefined && ['syncing', 'joining'].includes(seen.state);
  const { purpose = 'volume', filled = false } = replica;
  const base = {
    volume: metadata.name,
    volumeId: metadata.id,
    replicaId: replica.id,
    nodeId: replica.nodeId,
    node: nodeName(state, replica.nodeId),
    reason: purpose === 'volume' || filled ? ('returned' as const) : purpose,
    source: sourceName(sight, segment, resync?.sourceReplicaId ?? null),
    bytesTotal: resync?.bytesTotal ?? 0,
    bytesRemaining: resync?.bytesRemaining ?? seen?.bytesRemaining ?? 0,
    bytesCopied: resync?.bytesCopied ?? 0,
    bytesPerSecond: resync?.bytesPerSecond ?? 0,
  };
  const isRunning = resync ? resync.state === 'running' : isSyncing;
  if (isRunning && isUp(state, replica.nodeId)) {
    const { bytesRemaining, bytesPerSecond } = base;
    const etaMs = bytesPerSecond > 0 ? Math.ceil((bytesRemaining / bytesPerSecond) * 1000) : null;
    const startedAtMs = resync ? nowWallMs - resync.elapsedMs : null;
    return { ...base, state: 'running', message: '', etaMs, startedAtMs };
  }
  const isPaused = resync?.state === 'paused' || volume.value.spec.policy.rebuildPaused;
  return {
    ...base,
    state: isPaused ? 'paused' : 'waiting',
    message: waitingText(sight, segment, replica, { isPaused, said: resync?.message ?? '' }),
    etaMs: null,
    startedAtMs: null,
  };
}

function sourceName(sight: VolumeSight, segment: SegmentStatus, replicaId: string | null): string {
  const source = segment.replicas.find(({ id }) => id === replicaId);
  return source ? nodeName(sight.state, source.nodeId) : '';
}

function waitingText(
  sight: VolumeSight,
  segment: SegmentStatus,
  replica: VolumeReplica,
  now: { isPaused: boolean; said: string },
): string {
  const { volume, state, nowWallMs, live } = sight;
  const node = state.nodes.get(replica.nodeId)?.value;
  if (!isUp(state, replica.nodeId)) {
    const name = nodeName(state, replica.nodeId);
    const waitMs = volume.value.spec.policy.replacementWaitMs;
    const { untilMs = 0 } = node?.spec?.maintenance ?? {};
    const dueMs = Math.max((node?.downSinceMs ?? nowWallMs) + waitMs, untilMs);
    const leftMs = dueMs - nowWallMs;
    const isSurplus =
      segment.replicas.filter((r) => r.leaving !== true).length > volume.value.spec.replicas;
    if (isSurplus) return `node ${name} is down; another replica takes its place`;
    return leftMs > 0
      ? `node ${name} is down; replaced in ${formatWait(leftMs)} if it is not back`
      : `node ${name} is down; to be replaced, see "storctl volume explain ${volume.value.metadata.name}"`;
  }
  if (now.isPaused) return 'paused for this volume';
  if (replica.state === 'creating') return 'being created on its disk';
  if (now.said !== '') return withNodeNames(state, now.said);
  if (!volume.value.status.attachment) return 'attached nowhere: a node is asked to attach it';
  return live ? 'about to begin' : 'its primary does not answer';
}
