import { StorError } from '@stor/protocol';
import type { DiskId, NodeId, SegmentStatus } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, StoredVolume } from '../../resources/records.ts';
import { cordonOf } from '../node/node-intent.ts';
import { settingsOf } from './cluster-limits.ts';
import { anyNeed, refusalOf } from './disk-room.ts';
import type { DiskNeed } from './disk-room.ts';
import { diskUses, expectedBytes, unused } from './disk-use.ts';
import type { DiskUse } from './disk-use.ts';
import { segmentSizeOf } from '../volume/segment-size.ts';

export interface Place {
  nodeId: NodeId;
  diskId: DiskId;
}

interface Candidate extends Place {
  /** free space of the disk without what is promised already (bytes) */
  score: number;
  capacityBytes: number;
  use: DiskUse;
}

/**
 * Disks whose free space differs by less than this share of the smaller one count as equally free. What
 * disks report is some seconds old, and several may lie on one file system, whose free space changes
 * between their reports: small volumes would all go to the disk that reported last.
 */
const nearShare = 0.01;

type Verdict = { place: Candidate } | { reason: string; noSpace: boolean };

/** Disks that are not to be taken, and what to say of a node that has no other. */
export type AvoidedDisks = ReadonlyMap<DiskId, string>;

const noDisks: AvoidedDisks = new Map();

/** What one more replica of this segment asks of a disk. */
export function needOf(
  state: ClusterState,
  volume: StoredVolume,
  segment: SegmentStatus,
  kind: DiskNeed['kind'],
): DiskNeed {
  const sizeBytes = segmentSizeOf(volume, segment.index);
  const tag = volume.spec.diskTag ?? '';
  return { kind, sizeBytes, fillBytes: expectedBytes(state, segment), tag };
}

interface Judging {
  state: ClusterState;
  need: DiskNeed;
  uses: Map<DiskId, DiskUse>;
  avoid: AvoidedDisks;
}

function judgeNode(judging: Judging, nodeId: NodeId): Verdict {
  const { state, uses, avoid } = judging;
  if (!isUp(state, nodeId)) return { reason: 'is down', noSpace: false };
  const cordon = cordonOf(state.nodes.get(nodeId)?.value);
  if (cordon !== null) return { reason: cordon, noSpace: false };
  const disks = [...state.disks.values()].map((d) => d.value).filter((d) => d.nodeId === nodeId);
  if (disks.length === 0) return { reason: 'has no disk', noSpace: false };
  const online = disks.filter((disk) => disk.state === 'online');
  const firstBad = disks[0];
  if (online.length === 0) {
    const why = firstBad?.message ? ` (${firstBad.message})` : '';
    return { reason: `has no disk that is online${why}`, noSpace: false };
  }
  const fit: Candidate[] = [];
  const refusals: { reason: string; noSpace: boolean }[] = [];
  for (const disk of online) {
    const refusal = judgeDisk(judging, disk);
    if (refusal) {
      refusals.push(refusal);
      continue;
    }
    const use = uses.get(disk.id) ?? unused;
    const score = disk.freeBytes - use.comingBytes - use.provisionedBytes;
    fit.push({ nodeId, diskId: disk.id, score, capacityBytes: disk.capacityBytes, use });
  }
  const best = bestOf(fit);
  if (best) return { place: best };
  const avoided = online.find((disk) => avoid.has(disk.id));
  // a disk that would do but for its space says most; then one that is to be left alone
  const tight = refusals.find(({ noSpace }) => noSpace);
  if (tight) return tight;
  if (avoided) return { reason: avoid.get(avoided.id) ?? '', noSpace: false };
  return refusals[0] ?? { reason: 'has no disk', noSpace: false };
}

function judgeDisk(
  { state, need, uses, avoid }: Judging,
  disk: DiskRecord,
): { reason: string; noSpace: boolean } | null {
  const avoided = avoid.get(disk.id);
  if (avoided !== undefined) return { reason: avoided, noSpace: false };
  return refusalOf(disk, uses.get(disk.id) ?? unused, need, settingsOf(state));
}

/** It has more free, or about as much. */
function isAsFree({ score, capacityBytes }: Candidate, other: Candidate): boolean {
  return other.score - score <= nearShare * Math.min(capacityBytes, other.capacityBytes);
}

/** The freest disk; of those that are about as free the one with the least promised. */
function bestOf(candidates: readonly Candidate[]): Candidate | null {
  const [freest] = [...candidates].sort((a, b) => b.score - a.score);
  if (!freest) return null;
  const near = candidates.filter((candidate) => isAsFree(candidate, freest));
  near.sort(
    (a, b) =>
      a.use.provisionedBytes - b.use.provisionedBytes ||
      a.use.replicas - b.use.replicas ||
      b.score - a.score ||
      (a.nodeId < b.nodeId || (a.nodeId === b.nodeId && a.diskId < b.diskId) ? -1 : 1),
  );
  return near[0] ?? null;
}

/**
 * Chooses a disk for each of `replicas` copies, on distinct nodes that are up and have room, most
 * free space minus already promised first. Throws FAILED_PRECONDITION or NO_SPACE with how many
 * nodes qualify and why each other one does not.
 */
export function placeReplicas(
  state: ClusterState,
  replicas: number,
  need: DiskNeed = { ...anyNeed, kind: 'new' },
): Place[] {
  const judging = { state, need, uses: diskUses(state), avoid: noDisks };
  const candidates: Candidate[] = [];
  const refusals: string[] = [];
  let tight = 0;
  const nodes = [...state.nodes.values()].map((node) => node.value);
  nodes.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const node of nodes) {
    const verdict = judgeNode(judging, node.id);
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
  const places: Place[] = [];
  while (places.length < replicas) {
    const best = bestOf(candidates);
    if (!best) break;
    places.push({ nodeId: best.nodeId, diskId: best.diskId });
    candidates.splice(candidates.indexOf(best), 1);
  }
  return places;
}

/** Where a replica may go, as far as the segment's other replicas decide it; see `sitesOf`. */
export interface AllowedSites {
  taken: ReadonlyMap<NodeId, string>;
  beside: ReadonlySet<NodeId>;
  avoid: AvoidedDisks;
}

/**
 * Chooses a disk for one more replica of a segment. One that replaces a lost one goes to a node that
 * has none when there is such a node: that keeps copies apart should the lost one come back. One that
 * moves off a disk goes where most is free, and stays on its node when that is no worse. Same order as
 * at creation; null with the reasons, node by node, when there is none.
 */
export function placeAnother(
  state: ClusterState,
  sites: AllowedSites,
  need: DiskNeed = anyNeed,
  purpose: 'replacement' | 'update' | 'move' = 'replacement',
): { place: Place; refusals: [] } | { place: null; refusals: string[]; noSpace: boolean } {
  const { taken, beside, avoid } = sites;
  const judging = { state, need, uses: diskUses(state), avoid };
  const refusals: string[] = [];
  let noSpace = false;
  const fit: { apart: Candidate[]; beside: Candidate[] } = { apart: [], beside: [] };
  const nodes = [...state.nodes.values()].map((node) => node.value);
  nodes.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const node of nodes) {
    const reason = taken.get(node.id);
    const verdict: Verdict =
      reason === undefined ? judgeNode(judging, node.id) : { reason, noSpace: false };
    if (!('place' in verdict)) {
      refusals.push(`${node.name} ${verdict.reason}`);
      noSpace ||= verdict.noSpace;
      continue;
    }
    fit[beside.has(node.id) ? 'beside' : 'apart'].push(verdict.place);
  }
  const apart = bestOf(fit.apart);
  const neighbour = bestOf(fit.beside);
  const stays = neighbour && (!apart || (purpose === 'move' && isAsFree(neighbour, apart)));
  const chosen = stays ? neighbour : apart;
  if (!chosen) return { place: null, refusals, noSpace };
  return { place: { nodeId: chosen.nodeId, diskId: chosen.diskId }, refusals: [] };
}

/** Whether a replica may go to this node, and to which of its disks; else why not. */
export function placeOn(
  state: ClusterState,
  nodeId: NodeId,
  avoid: AvoidedDisks = noDisks,
  need: DiskNeed = anyNeed,
): Place | { reason: string; noSpace: boolean } {
  const verdict = judgeNode({ state, need, uses: diskUses(state), avoid }, nodeId);
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
    `${wanted} that are up and have a disk with room; ${are}: ${refusals.join('; ')}${advice(code)}`,
  );
}

function advice(code: 'NO_SPACE' | 'FAILED_PRECONDITION'): string {
  if (code !== 'NO_SPACE') return '';
  return '; delete volumes, add a disk ("storctl disk add"), or change the limits ("storctl pool set")';
}
