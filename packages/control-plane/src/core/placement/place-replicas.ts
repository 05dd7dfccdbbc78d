import { StorError, formatByteSize } from '@stor/protocol';
import type { DiskId, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { segmentSizeOf } from '../volume/segment-size.ts';

/** A disk with less free space than this takes no new replica (bytes; smaller on small disks). */
const reserveBytes = 64 * 1024 * 1024;
const reserveShare = 0.05;

/** Whether a disk takes new replicas, as far as its space goes. */
export function hasRoom(disk: { capacityBytes: number; freeBytes: number }): boolean {
  return disk.freeBytes > Math.min(reserveBytes, disk.capacityBytes * reserveShare);
}

export interface Place {
  nodeId: NodeId;
  diskId: DiskId;
}

interface Candidate extends Place {
  score: number;
}

type Verdict = { place: Candidate } | { reason: string; noSpace: boolean };

/** Disks that are not to be taken, and what to say of a node that has no other. */
export type AvoidedDisks = ReadonlyMap<DiskId, string>;

const noDisks: AvoidedDisks = new Map();

/** Bytes promised to volumes on each disk; volumes are thin, so they may exceed its size. */
function provisionedBytes(state: ClusterState): Map<DiskId, number> {
  const sums = new Map<DiskId, number>();
  for (const { value } of state.volumes.values()) {
    for (const segment of value.status.segments) {
      for (const replica of segment.replicas) {
        const sum = sums.get(replica.diskId) ?? 0;
        sums.set(replica.diskId, sum + segmentSizeOf(value, segment.index));
      }
    }
  }
  return sums;
}

function judgeNode(
  state: ClusterState,
  nodeId: NodeId,
  provisioned: Map<DiskId, number>,
  avoid: AvoidedDisks,
): Verdict {
  if (!isUp(state, nodeId)) return { reason: 'is down', noSpace: false };
  const disks = [...state.disks.values()].map((d) => d.value).filter((d) => d.nodeId === nodeId);
  if (disks.length === 0) return { reason: 'has no disk', noSpace: false };
  const online = disks.filter((disk) => disk.state === 'online');
  const firstBad = disks[0];
  if (online.length === 0) {
    const why = firstBad?.message ? ` (${firstBad.message})` : '';
    return { reason: `has no disk that is online${why}`, noSpace: false };
  }
  let best: Candidate | null = null;
  for (const disk of online) {
    if (!hasRoom(disk) || avoid.has(disk.id)) continue;
    const score = disk.freeBytes - (provisioned.get(disk.id) ?? 0);
    const isBetter = !best || score > best.score || (score === best.score && disk.id < best.diskId);
    if (isBetter) best = { nodeId, diskId: disk.id, score };
  }
  if (best) return { place: best };
  const avoided = online.find((disk) => avoid.has(disk.id) && hasRoom(disk));
  if (avoided) return { reason: avoid.get(avoided.id) ?? '', noSpace: false };
  const freeBytes = Math.max(...online.map((disk) => disk.freeBytes));
  return { reason: `has no disk with room (${formatByteSize(freeBytes)} free)`, noSpace: true };
}

/**
 * Chooses a disk for each of `replicas` copies, on distinct nodes that are up and have room, most
 * free space minus already promised first. Throws FAILED_PRECONDITION or NO_SPACE with how many
 * nodes qualify and why each other one does not.
 */
export function placeReplicas(state: ClusterState, replicas: number): Place[] {
  const provisioned = provisionedBytes(state);
  const candidates: Candidate[] = [];
  const refusals: string[] = [];
  let tight = 0;
  const nodes = [...state.nodes.values()].map((node) => node.value);
  nodes.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const node of nodes) {
    const verdict = judgeNode(state, node.id, provisioned, noDisks);
    if ('place' in verdict) {
      candidates.push(verdict.place);
      continue;
    }
    refusals.push(`${node.name} ${verdict.reason}`);
    if (verdict.noSpace) tight += 1;
  }
  if (candidates.length < replicas) {
    throw refusal({ replicas, nodes: nodes.length, fit: candidates.length, refusals, tight });
  }
  candidates.sort((a, b) => b.score - a.score || (a.nodeId < b.nodeId ? -1 : 1));
  return candidates.slice(0, replicas).map(({ nodeId, diskId }) => ({ nodeId, diskId }));
}

/**
 * Chooses a disk for one more replica of a segment, on a node that has none of it: `taken` says why
 * for each node that is out of the question. Same order as at creation; null with the reasons, node by node, when there is none.
 */
export function placeAnother(
  state: ClusterState,
  taken: ReadonlyMap<NodeId, string>,
  avoid: AvoidedDisks = noDisks,
): { place: Place; refusals: [] } | { place: null; refusals: string[]; noSpace: boolean } {
  const provisioned = provisionedBytes(state);
  const refusals: string[] = [];
  let noSpace = false;
  let best: Candidate | null = null;
  const nodes = [...state.nodes.values()].map((node) => node.value);
  nodes.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const node of nodes) {
    const reason = taken.get(node.id);
    const verdict: Verdict =
      reason === undefined
        ? judgeNode(state, node.id, provisioned, avoid)
        : { reason, noSpace: false };
    if (!('place' in verdict)) {
      refusals.push(`${node.name} ${verdict.reason}`);
      noSpace ||= verdict.noSpace;
      continue;
    }
    if (!best || verdict.place.score > best.score) best = verdict.place;
  }
  if (!best) return { place: null, refusals, noSpace };
  return { place: { nodeId: best.nodeId, diskId: best.diskId }, refusals: [] };
}

/** Whether a replica may go to this node, and to which of its disks; else why not. */
export function placeOn(
  state: ClusterState,
  nodeId: NodeId,
  avoid: AvoidedDisks = noDisks,
): Place | { reason: string; noSpace: boolean } {
  const verdict = judgeNode(state, nodeId, provisionedBytes(state), avoid);
  if (!('place' in verdict)) return verdict;
  return { nodeId, diskId: verdict.place.diskId };
}

function refusal(facts: {
  replicas: number;
  nodes: number;
  fit: number;
  refusals: string[];
  tight: number;
}): StorError {
  const { replicas, nodes, fit, refusals, tight } = facts;
  const wanted = `${replicas} ${replicas === 1 ? 'replica needs a node' : 'replicas need as many nodes'}`;
  if (replicas > nodes) {
    const count = `the cluster has ${nodes} ${nodes === 1 ? 'node' : 'nodes'}`;
    const advice = nodes > 0 ? `: ask for at most ${nodes}, or add nodes` : '';
    return new StorError('FAILED_PRECONDITION', `${wanted}, and ${count}${advice}`);
  }
  // room is the one thing that lacks when the nodes without room would have been enough
  const code = fit + tight >= replicas ? 'NO_SPACE' : 'FAILED_PRECONDITION';
  const are = fit === 1 ? '1 node qualifies' : `${fit} nodes qualify`;
  return new StorError(
    code,
    `${wanted} that are up and have a disk with room; ${are}: ${refusals.join('; ')}`,
  );
}
