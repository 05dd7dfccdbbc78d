import type { DiskId, NodeId } from '@stor/protocol';
import { isUp } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { DiskRecord, NodeRecord } from '../../resources/records.ts';
import { cordonOf } from '../node/node-intent.ts';
import { refusalOf } from './disk-room.ts';
import type { DiskNeed, Refusal } from './disk-room.ts';
import type { DiskUse } from './disk-use.ts';
import { PlacementBoard } from './placement-board.ts';
import { domainRefusal, nodeRefusal, preferredDomains, siteOf } from './placement-rules.ts';
import { makeSite } from './spread.ts';
import type { Site } from './spread.ts';

export interface Place {
  nodeId: NodeId;
  diskId: DiskId;
}

/** A disk that could take the replica. */
export interface Candidate extends Place {
  site: Site;
  /** free space of the disk without what is promised already (bytes) */
  spareBytes: number;
  capacityBytes: number;
  use: DiskUse;
  /** it would lie on the node of one whose place it takes */
  beside: boolean;
  /** the disk cannot keep what the volume is guaranteed: it is taken only to keep a copy */
  isShort: boolean;
}

export interface RefusedPlace extends Refusal {
  nodeId: NodeId;
  /** absent: it is about the whole node */
  diskId?: DiskId;
}

/** Disks that are not to be taken, and what to say of a node that has no other. */
export type AvoidedDisks = ReadonlyMap<DiskId, string>;

/** Where a replica may go, as far as the segment's other replicas decide it; see `sitesOf`. */
export interface AllowedSites {
  /** nodes that are out of the question, and why */
  taken: ReadonlyMap<NodeId, string>;
  /** nodes where it would take the place of one that is to go */
  beside: ReadonlySet<NodeId>;
  avoid: AvoidedDisks;
  /** nodes of the replicas that stay: required domains are kept from them @default `taken` is all */
  fixed?: readonly NodeId[];
}

export const anySite: AllowedSites = { taken: new Map(), beside: new Set(), avoid: new Map() };

export interface Ranking {
  /** by the names of their nodes; see `bestOf` and `chooseSites` for the order of choice */
  candidates: Candidate[];
  /** by the names of their nodes: whole nodes, and disks of nodes that have others */
  refused: RefusedPlace[];
}

/**
 * Disks whose free space differs by less than this share of the smaller one count as equally free. What
 * disks report is some seconds old, and several may lie on one file system, whose free space changes
 * between their reports: small volumes would all go to the disk that reported last.
 */
const nearShare = 0.01;

/** Nothing depends on the volume when none is named. */
export const noSite: Site = makeSite({ required: [], path: [], points: 0 });

/**
 * Every disk of the cluster, as far as it could take one more replica or not: the one engine behind
 * creation, repair, moves, plans and explanations.
 */
export function rank(
  from: ClusterState | PlacementBoard,
  need: DiskNeed,
  sites: AllowedSites = anySite,
): Ranking {
  const board = PlacementBoard.of(from);
  const ranking: Ranking = { candidates: [], refused: [] };
  const judging = { need, domains: domainsOf(board, need), sites, ranking };
  for (const node of board.nodes) judgeNode(board, node, judging);
  return ranking;
}

/** As `rank`, of one node only. */
export function rankNode(
  board: PlacementBoard,
  node: NodeRecord,
  need: DiskNeed,
  sites: AllowedSites,
): Ranking {
  const ranking: Ranking = { candidates: [], refused: [] };
  judgeNode(board, node, { need, domains: domainsOf(board, need), sites, ranking });
  return ranking;
}

interface Judging {
  need: DiskNeed;
  /** label keys to spread over */
  domains: readonly string[];
  sites: AllowedSites;
  ranking: Ranking;
}

function domainsOf(board: PlacementBoard, { subject }: DiskNeed): readonly string[] {
  return subject ? preferredDomains(board, subject.rules) : [];
}

function judgeNode(board: PlacementBoard, node: NodeRecord, judging: Judging): void {
  const { need, sites, ranking } = judging;
  const nodeId = node.id;
  const refuse = (reason: string, code: string): void => {
    ranking.refused.push({ nodeId, reason, code, noSpace: false });
  };
  const taken = sites.taken.get(nodeId);
  if (taken !== undefined) {
    refuse(taken, 'taken');
    return;
  }
  if (!isUp(board.state, nodeId)) {
    refuse('is down', 'down');
    return;
  }
  const cordon = cordonOf(node);
  if (cordon !== null) {
    refuse(cordon, 'cordoned');
    return;
  }
  const { subject } = need;
  const rule = subject && nodeRefusal(board, subject, node);
  if (rule) {
    refuse(rule.reason, rule.code);
    return;
  }
  const shared = subject && domainRefusal(board, subject, node, sites.fixed ?? []);
  if (shared) {
    refuse(shared.reason, shared.code);
    return;
  }
  const disks = board.disksOf(nodeId);
  const firstBad = disks[0];
  if (!firstBad) {
    refuse('has no disk', 'no-disk');
    return;
  }
  const online = disks.filter((disk) => disk.state === 'online');
  if (online.length === 0) {
    const why = firstBad.message === '' ? '' : ` (${firstBad.message})`;
    refuse(`has no disk that is online${why}`, 'disk-offline');
    return;
  }
  const site = subject ? siteOf(board, subject, node, judging.domains) : noSite;
  judgeDisks(board, online, site, judging);
}

function judgeDisks(
  board: PlacementBoard,
  online: readonly DiskRecord[],
  site: Site,
  { need, sites, ranking }: Judging,
): void {
  for (const disk of online) {
    const { nodeId, id: diskId, freeBytes, capacityBytes } = disk;
    const use = board.useOf(diskId);
    const avoided = sites.avoid.get(diskId);
    const lack = board.guaranteeLack(disk, need.subject);
    const refusal =
      avoided === undefined
        ? (refusalOf(disk, use, need, board.settings) ?? shortRefusal(need, lack))
        : { reason: avoided, noSpace: false, code: 'avoided' };
    if (refusal) {
      ranking.refused.push({ nodeId, diskId, ...refusal });
      continue;
    }
    const spareBytes = freeBytes - use.comingBytes - use.provisionedBytes;
    const beside = sites.beside.has(nodeId);
    const isShort = lack !== null;
    const facts = { site, spareBytes, capacityBytes, use, beside, isShort };
    ranking.candidates.push({ nodeId, diskId, ...facts });
  }
}

/** A copy that is lost counts more than a guarantee. */
function shortRefusal({ kind }: DiskNeed, lack: string | null): Refusal | null {
  return lack === null || kind === 'repair'
    ? null
    : { reason: lack, noSpace: false, code: 'guarantee' };
}

/**
 * One reason for each node that has no candidate. A disk that would do but for its space says most;
 * then one that is to be left alone.
 */
export function nodeRefusals({ candidates, refused }: Ranking): RefusedPlace[] {
  const able = new Set(candidates.map(({ nodeId }) => nodeId));
  const weight = ({ noSpace, code }: RefusedPlace): number =>
    noSpace ? 3 : code === 'guarantee' ? 2 : code === 'avoided' ? 1 : 0;
  const reasons = new Map<NodeId, RefusedPlace>();
  for (const each of refused) {
    if (able.has(each.nodeId)) continue;
    const known = reasons.get(each.nodeId);
    if (!known || weight(each) > weight(known)) reasons.set(each.nodeId, each);
  }
  return [...reasons.values()];
}

/** It has more free, or about as much. */
export function isAsFree({ spareBytes, capacityBytes }: Candidate, other: Candidate): boolean {
  return other.spareBytes - spareBytes <= nearShare * Math.min(capacityBytes, other.capacityBytes);
}

/** Of those that keep what is guaranteed, when there are some: the freest disk; of those that are about as free the one with the least promised. */
export function bestOf(all: readonly Candidate[]): Candidate | null {
  const able = all.filter(({ isShort }) => !isShort);
  const candidates = able.length > 0 ? able : all;
  let freest: Candidate | null = null;
  for (const each of candidates) {
    if (!freest || each.spareBytes > freest.spareBytes) freest = each;
  }
  if (!freest) return null;
  let best = freest;
  for (const each of candidates) {
    if (isAsFree(each, freest) && isBefore(each, best)) best = each;
  }
  return best;
}

function isBefore(a: Candidate, b: Candidate): boolean {
  const difference =
    a.use.provisionedBytes - b.use.provisionedBytes ||
    a.use.replicas - b.use.replicas ||
    b.spareBytes - a.spareBytes;
  if (difference !== 0) return difference < 0;
  return a.nodeId < b.nodeId || (a.nodeId === b.nodeId && a.diskId < b.diskId);
}

/** The best disk of each node. */
export function bestOfEach(candidates: readonly Candidate[]): Candidate[] {
  const byNode = new Map<NodeId, Candidate[]>();
  for (const each of candidates) {
    const known = byNode.get(each.nodeId);
    if (known) known.push(each);
    else byNode.set(each.nodeId, [each]);
  }
  return [...byNode.values()]
    .map((disks) => bestOf(disks) ?? disks[0])
    .filter((c) => c !== undefined);
}
