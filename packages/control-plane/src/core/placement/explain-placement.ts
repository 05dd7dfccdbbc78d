import type {
  NodeId,
  PlacementCandidate,
  PlacementExplanation,
  PlacementRefusal,
  ScorePart,
} from '@stor/protocol';
import { formatByteSize } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { DiskNeed } from './disk-room.ts';
import type { PlacementBoard } from './placement-board.ts';
import { preferredDomains } from './placement-rules.ts';
import { chooseAmong, sitesAt } from './place-replicas.ts';
import { bestOf, bestOfEach, rank } from './rank.ts';
import type { AllowedSites, Candidate } from './rank.ts';
import { chosenOf, withSite } from './spread.ts';
import type { Chosen } from './spread.ts';

/** So that each part outweighs all that come after it: see "the order of choice". */
const domainPoints = 10_000;
const localPoints = 5_000;
const affinityPoints = 300;
const spacePoints = 100;

export type PlacementFacts = Pick<
  PlacementExplanation,
  'candidates' | 'refused' | 'placed' | 'replicas' | 'problem'
>;

/** Every disk with its score or the reason why not, and which would be taken for `count` more. */
export function explainPlaces(
  board: PlacementBoard,
  need: DiskNeed,
  sites: AllowedSites,
  count: number,
): PlacementFacts {
  const { fixed = [] } = sites;
  const ranking = rank(board, need, sites);
  const pool = bestOfEach(ranking.candidates);
  const choice = chooseAmong(board, need, pool, count, bestOf, fixed);
  const levels = need.subject ? preferredDomains(board, need.subject.rules).length : 0;
  const there = chosenOf(sitesAt(board, need, fixed), { required: 0, levels });
  const freest = Math.max(1, ...ranking.candidates.map((each) => Math.abs(each.spareBytes)));
  const candidates = ranking.candidates.map((each) => {
    const parts = partsOf(each, { need, there, freest });
    return described(board, each, parts, choice.chosen.indexOf(each) + 1);
  });
  candidates.sort(
    (a, b) => (a.chosen || Infinity) - (b.chosen || Infinity) || b.score - a.score || byName(a, b),
  );
  const lacking = count - choice.chosen.length;
  const problem =
    lacking <= 0
      ? ''
      : `${count} ${count === 1 ? 'replica is' : 'replicas are'} to be placed, and there ${choice.most === 1 ? 'is a place' : 'are places'} for ${Math.min(choice.most, pool.length)}`;
  return {
    replicas: count,
    placed: fixed.map((nodeId) => nodeName(board.state, nodeId)),
    candidates,
    refused: ranking.refused.map((each) => refusedOf(board, each)),
    problem,
  };
}

function byName(a: PlacementCandidate, b: PlacementCandidate): number {
  return a.node < b.node ? -1 : a.node > b.node ? 1 : a.disk < b.disk ? -1 : 1;
}

function partsOf(
  { nodeId, site, spareBytes, use }: Candidate,
  { need, there, freest }: { need: DiskNeed; there: Chosen; freest: number },
): ScorePart[] {
  const parts: ScorePart[] = [];
  const after = withSite(there, site);
  const fresh = site.path.filter(
    (_, level) => (after.covered[level]?.size ?? 0) > (there.covered[level]?.size ?? 0),
  );
  if (there.covered.length > 0) {
    const text =
      fresh.length > 0 ? `new: ${fresh.join(', ')}` : `nothing new: ${site.path.join(', ') || '-'}`;
    parts.push({ name: 'spread', points: domainPoints * fresh.length, text });
  }
  if (nodeId === need.subject?.local) {
    parts.push({ name: 'local', points: localPoints, text: 'its user is on this node' });
  }
  if (site.points !== 0) {
    const text = `${Math.abs(site.points)} rules speak ${site.points > 0 ? 'for' : 'against'} it`;
    parts.push({ name: 'affinity', points: affinityPoints * site.points, text });
  }
  const free = spareBytes + use.comingBytes + use.provisionedBytes;
  const text = `${formatByteSize(free)} free, ${formatByteSize(use.provisionedBytes)} promised`;
  parts.push({ name: 'space', points: Math.round((spacePoints * spareBytes) / freest), text });
  return parts;
}

function described(
  board: PlacementBoard,
  { nodeId, diskId }: Candidate,
  parts: ScorePart[],
  chosen: number,
): PlacementCandidate {
  const score = parts.reduce((sum, { points }) => sum + points, 0);
  return { ...placeOf(board, nodeId, diskId), score, parts, chosen };
}

function refusedOf(
  board: PlacementBoard,
  { nodeId, diskId = '', reason, code }: ReturnType<typeof rank>['refused'][number],
): PlacementRefusal {
  return { ...placeOf(board, nodeId, diskId), reason, code };
}

function placeOf({ state }: PlacementBoard, nodeId: NodeId, diskId: string) {
  const disk = state.disks.get(diskId)?.value.path ?? '';
  return { nodeId, node: nodeName(state, nodeId), diskId, disk };
}
