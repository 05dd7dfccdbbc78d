import { StorError } from '@stor/protocol';
import type { NodeId, SegmentStatus } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { chooseSites } from './choose-sites.ts';
import { anyNeed } from './disk-room.ts';
import type { DiskNeed, Refusal } from './disk-room.ts';
import { expectedBytes } from './disk-use.ts';
import { PlacementBoard, subjectOf } from './placement-board.ts';
import { domainRefusal, nodeRefusal, preferredDomains, siteOf } from './placement-rules.ts';
import {
  anySite,
  bestOf,
  bestOfEach,
  isAsFree,
  nodeRefusals,
  noSite,
  rank,
  rankNode,
} from './rank.ts';
import type { AllowedSites, AvoidedDisks, Candidate, Place, Ranking } from './rank.ts';
import { chosenOf, compareScores, scoreOf, withSite } from './spread.ts';
import type { Site, SpreadScore } from './spread.ts';
import { segmentSizeOf } from '../volume/segment-size.ts';

export type { AllowedSites, AvoidedDisks, Place } from './rank.ts';

/** What one more replica of this segment asks of a disk. */
export function needOf(
  state: ClusterState,
  volume: StoredVolume,
  segment: SegmentStatus,
  kind: DiskNeed['kind'],
): DiskNeed {
  return { ...volumeNeed(volume, segment.index, kind), fillBytes: expectedBytes(state, segment) };
}

/** What one of the replicas of a new segment asks of a disk. */
export function volumeNeed(
  volume: StoredVolume,
  segment: number,
  kind: DiskNeed['kind'] = 'new',
): DiskNeed {
  const sizeBytes = segmentSizeOf(volume, segment);
  const tag = volume.spec.diskTag ?? '';
  return { kind, sizeBytes, fillBytes: 0, tag, subject: subjectOf(volume) };
}

/**
 * Chooses a disk for each of `replicas` copies, on distinct nodes that are up and have room, in
 * different required domains, spread over most preferred ones, most free space minus already promised
 * first. Throws FAILED_PRECONDITION or NO_SPACE with how many nodes qualify and why others do not.
 */
export function placeReplicas(
  from: ClusterState | PlacementBoard,
  replicas: number,
  need: DiskNeed = { ...anyNeed, kind: 'new' },
): Place[] {
  const board = PlacementBoard.of(from);
  const ranking = rank(board, need);
  const pool = bestOfEach(ranking.candidates);
  const facts = { board, need, replicas, ranking, fit: pool.length };
  if (pool.length < replicas) throw tooFewNodes(facts);
  const choice = chooseAmong(board, need, pool, replicas);
  if (choice.chosen.length < replicas) throw tooFewDomains(facts, choice);
  return choice.chosen.map(({ nodeId, diskId }) => ({ nodeId, diskId }));
}

/** The best `count` of the pool, which has one disk of each node; fewer than that: there is no way. */
export function chooseAmong<T extends { nodeId: NodeId; site: Site } = Candidate>(
  board: PlacementBoard,
  need: DiskNeed,
  pool: readonly T[],
  count: number,
  pickBest: (candidates: readonly T[]) => T | null = (some) =>
    bestOf(some as unknown as readonly Candidate[]) as unknown as T | null,
  fixed: readonly NodeId[] = [],
): { chosen: T[]; most: number; isExact: boolean } {
  const rules = need.subject?.rules ?? {};
  const required = rules.required?.length ?? 0;
  const levels = need.subject ? preferredDomains(board, rules).length : 0;
  const first = pool.find(({ nodeId }) => nodeId === need.subject?.local);
  const there = sitesAt(board, need, fixed);
  return chooseSites(pool, { fixed: there, count, required, levels, pickBest, first });
}

/**
 * Chooses a disk for one more replica of a segment: in a required domain of its own, in a preferred one
 * that the others do not cover, on the node that uses the volume. Then one that replaces a lost one
 * goes to a node that
 * has none when there is such a node: that keeps copies apart should the lost one come back. One that
 * moves off a disk goes where most is free, and stays on its node when that is no worse. Same order as
 * at creation; null with the reasons, node by node, when there is none.
 */
export function placeAnother(
  from: ClusterState | PlacementBoard,
  sites: AllowedSites,
  need: DiskNeed = anyNeed,
  purpose: 'replacement' | 'update' | 'move' = 'replacement',
): { place: Place; refusals: [] } | { place: null; refusals: string[]; noSpace: boolean } {
  const board = PlacementBoard.of(from);
  const ranking = rank(board, need, sites);
  const pool = bestFor(board, bestOfEach(ranking.candidates), need, sites);
  const apart = bestOf(pool.filter(({ beside }) => !beside));
  const neighbour = bestOf(pool.filter(({ beside }) => beside));
  const stays = neighbour && (!apart || (purpose === 'move' && isAsFree(neighbour, apart)));
  const chosen = stays ? neighbour : apart;
  if (chosen) return { place: { nodeId: chosen.nodeId, diskId: chosen.diskId }, refusals: [] };
  const refused = nodeRefusals(ranking);
  const noSpace = refused.some((each) => each.noSpace);
  return { place: null, refusals: refused.map((each) => refusalText(board, each)), noSpace };
}

/** Of the candidates those that spread best beside the replicas that stay, nothing else compared. */
function bestFor(
  board: PlacementBoard,
  pool: readonly Candidate[],
  need: DiskNeed,
  { fixed = [] }: AllowedSites,
): readonly Candidate[] {
  const { subject } = need;
  if (!subject || pool.length === 0) return pool;
  const levels = preferredDomains(board, subject.rules).length;
  const there = chosenOf(sitesAt(board, need, fixed), { required: 0, levels });
  let best: { score: SpreadScore; pool: Candidate[] } | null = null;
  for (const each of pool) {
    const [points = 0, ...spread] = scoreOf(withSite(there, each.site)).toReversed();
    const isLocal = each.nodeId === subject.local ? 1 : 0;
    const score = [...spread.toReversed(), each.isShort ? 0 : 1, isLocal, points];
    const order = best ? compareScores(score, best.score) : 1;
    if (order > 0) best = { score, pool: [each] };
    else if (order === 0) best?.pool.push(each);
  }
  return best?.pool ?? [];
}

/** The sites of nodes that have replicas which stay. */
export function sitesAt(
  board: PlacementBoard,
  { subject }: DiskNeed,
  nodes: readonly NodeId[],
): Site[] {
  return nodes.map((nodeId) => {
    const node = board.state.nodes.get(nodeId)?.value;
    return node && subject ? siteOf(board, subject, node) : noSite;
  });
}

/** Whether a replica may go to this node, and to which of its disks; else why not. */
export function placeOn(
  from: ClusterState | PlacementBoard,
  nodeId: NodeId,
  avoid: AvoidedDisks = new Map(),
  need: DiskNeed = anyNeed,
  fixed: readonly NodeId[] = [],
): Place | { reason: string; noSpace: boolean } {
  const board = PlacementBoard.of(from);
  const node = board.state.nodes.get(nodeId)?.value;
  if (!node) return { reason: 'is not known', noSpace: false };
  const ranking = rankNode(board, node, need, { ...anySite, avoid, fixed });
  const best = bestOf(ranking.candidates);
  if (best) return { nodeId, diskId: best.diskId };
  const [refused] = nodeRefusals(ranking);
  return refused ?? { reason: 'has no disk', noSpace: false };
}

/** Why the volume's rules forbid a replica on that node; null when they do not. */
export function ruleRefusalOn(
  board: PlacementBoard,
  nodeId: NodeId,
  { subject }: DiskNeed,
  fixed: readonly NodeId[],
): string | null {
  const node = board.state.nodes.get(nodeId)?.value;
  if (!node || !subject) return null;
  const refusal = nodeRefusal(board, subject, node) ?? domainRefusal(board, subject, node, fixed);
  return refusal?.reason ?? null;
}

export function refusalText(
  board: PlacementBoard,
  { nodeId, reason }: Refusal & { nodeId: NodeId },
): string {
  return `${board.state.nodes.get(nodeId)?.value.name ?? nodeId} ${reason}`;
}

interface Lack {
  board: PlacementBoard;
  need: DiskNeed;
  replicas: number;
  ranking: Ranking;
  /** nodes that qualify */
  fit: number;
}

function tooFewNodes({ board, replicas, ranking, fit }: Lack): StorError {
  const nodes = board.nodes.length;
  const wanted = `${replicas} ${replicas === 1 ? 'replica needs a node' : 'replicas need as many nodes'}`;
  if (replicas > nodes) {
    const count = `the cluster has ${nodes} ${nodes === 1 ? 'node' : 'nodes'}`;
    const advice = nodes > 0 ? `: ask for at most ${nodes}, or add nodes` : '';
    return new StorError('FAILED_PRECONDITION', `${wanted}, and ${count}${advice}`);
  }
  const refused = nodeRefusals(ranking);
  const tight = refused.filter(({ noSpace }) => noSpace).length;
  // room is the one thing that lacks when the nodes without room would have been enough
  const code = fit + tight >= replicas ? 'NO_SPACE' : 'FAILED_PRECONDITION';
  const are = fit === 1 ? '1 node qualifies' : `${fit} nodes qualify`;
  const reasons = refused.map((each) => refusalText(board, each)).join('; ');
  return new StorError(
    code,
    `${wanted} that are up and have a disk with room; ${are}: ${reasons}${advice(code)}`,
  );
}

function tooFewDomains(
  lack: Lack,
  { most, isExact }: { most: number; isExact: boolean },
): StorError {
  const { board, need, replicas, ranking } = lack;
  const keys = need.subject?.rules.required ?? [];
  const pool = bestOfEach(ranking.candidates);
  const domains = keys.map((key) => domainsText(board, key, pool)).join('; ');
  const refused = nodeRefusals(ranking);
  const others = refused.map((each) => refusalText(board, each)).join('; ');
  const allow = isExact ? `allow ${most}` : `were found to allow ${most}`;
  const code = wouldDoWithRoom(lack) ? 'NO_SPACE' : 'FAILED_PRECONDITION';
  return new StorError(
    code,
    `${replicas} replicas must be apart by ${keys.join(' and ')}, and the nodes that qualify ${allow}: ${domains}${others === '' ? '' : `; ${others}`}${advice(code)}`,
  );
}

/** `zone a (n1, n2), b (n3)` */
function domainsText(board: PlacementBoard, key: string, pool: readonly Candidate[]): string {
  const names = new Map<string, string[]>();
  for (const { nodeId } of pool) {
    const node = board.state.nodes.get(nodeId)?.value;
    if (!node) continue;
    const value = node.labels[key] ?? '';
    names.set(value, [...(names.get(value) ?? []), node.name]);
  }
  const shown = [...names].map(([value, nodes]) => `${value} (${nodes.join(', ')})`);
  return `${key} ${shown.join(', ')}`;
}

function wouldDoWithRoom({ board, need, replicas, ranking }: Lack): boolean {
  const tight = nodeRefusals(ranking).filter(({ noSpace }) => noSpace);
  if (tight.length === 0) return false;
  const nodes = [...bestOfEach(ranking.candidates), ...tight].map(({ nodeId }) => nodeId);
  const sites = sitesAt(board, need, nodes);
  const pool = nodes.map((nodeId, i) => ({ nodeId, site: sites[i] ?? noSite }));
  return chooseAmong(board, need, pool, replicas, (some) => some[0] ?? null).chosen.length > 0;
}

function advice(code: 'NO_SPACE' | 'FAILED_PRECONDITION'): string {
  if (code !== 'NO_SPACE') return '';
  return '; delete volumes, add a disk ("storctl disk add"), or change the limits ("storctl pool set")';
}
