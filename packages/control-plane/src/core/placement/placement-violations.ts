import type {
  PlacementViolation,
  SegmentStatus,
  ViolationKind,
  VolumeReplica,
} from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { sitesOf } from '../controllers/replica-sites.ts';
import { cordonOf } from '../node/node-intent.ts';
import { subjectOf } from './placement-board.ts';
import type { PlacementBoard } from './placement-board.ts';
import { needOf, placeAnother } from './place-replicas.ts';
import { domainRefusal, nodeRefusal, preferredDomains } from './placement-rules.ts';
import type { Place } from './rank.ts';

/** A rule that a segment breaks, and the replica that breaks it (none: all of them together). */
export interface BrokenRule {
  kind: ViolationKind;
  required: boolean;
  segment: SegmentStatus;
  replica: VolumeReplica | null;
  message: string;
}

/** Those that are to stay, and exist. */
function stayingReplicas(segment: SegmentStatus): VolumeReplica[] {
  return segment.replicas.filter((r) => r.leaving !== true && r.state !== 'failed');
}

/** Every rule that the replicas of a volume break now; none of a volume that is being made. */
export function brokenRules(board: PlacementBoard, volume: StoredVolume): BrokenRule[] {
  if (volume.status.phase !== 'ready') return [];
  return volume.status.segments.flatMap((segment) => [
    ...brokenByNodes(board, volume, segment),
    ...brokenTogether(board, volume, segment),
    ...brokenGuarantees(board, volume, segment),
  ]);
}

function brokenByNodes(
  board: PlacementBoard,
  volume: StoredVolume,
  segment: SegmentStatus,
): BrokenRule[] {
  const subject = subjectOf(volume);
  const stay = stayingReplicas(segment);
  return stay.flatMap((replica, i): BrokenRule[] => {
    const node = board.state.nodes.get(replica.nodeId)?.value;
    if (!node) return [];
    const broken = { required: true, segment, replica };
    // each pair that shares a domain is told once
    const before = stay.slice(0, i).map(({ nodeId }) => nodeId);
    const refusal =
      nodeRefusal(board, subject, node) ?? domainRefusal(board, subject, node, before);
    if (refusal) {
      const kind = refusal.code === 'no-label' ? 'domain' : refusal.code;
      return [{ ...broken, kind, message: `node ${node.name} ${refusal.reason}` }];
    }
    const tag = volume.spec.diskTag ?? '';
    const disk = board.state.disks.get(replica.diskId)?.value;
    if (tag === '' || !disk || disk.tag === tag) return [];
    const message = `disk ${disk.path} of node ${node.name} has no tag ${tag}`;
    return [{ ...broken, kind: 'tag', message }];
  });
}

/** A copy was put where guarantees are spoken for already, or the disk was given less since. */
function brokenGuarantees(
  board: PlacementBoard,
  volume: StoredVolume,
  segment: SegmentStatus,
): BrokenRule[] {
  return stayingReplicas(segment).flatMap((replica): BrokenRule[] => {
    const disk = board.state.disks.get(replica.diskId)?.value;
    const lack = disk ? board.guaranteeLack(disk, subjectOf(volume)) : null;
    if (lack === null) return [];
    const message = `node ${nodeName(board.state, replica.nodeId)} ${lack}`;
    return [{ kind: 'guarantee', required: false, segment, replica, message }];
  });
}

function brokenTogether(
  board: PlacementBoard,
  volume: StoredVolume,
  segment: SegmentStatus,
): BrokenRule[] {
  const rules: BrokenRule[] = [];
  const stay = stayingReplicas(segment);
  const nodes = [...new Set(stay.map(({ nodeId }) => nodeId))];
  const wanted = volume.spec.replicas;
  if (nodes.length < wanted) {
    const message = `segment ${segment.index} has ${nodes.length} of ${wanted} replicas`;
    rules.push({ kind: 'replicas', required: true, segment, replica: null, message });
  }
  const [key] = preferredDomains(board, volume.spec.placement ?? {});
  if (key === undefined) return rules;
  const values = new Set(nodes.map((id) => board.state.nodes.get(id)?.value.labels[key]));
  values.delete(undefined);
  const possible = Math.min(nodes.length, domainsWithRoom(board, volume, key).size);
  if (values.size >= possible) return rules;
  const message = `segment ${segment.index} lies in ${values.size} of ${possible} possible values of ${key} (on ${nodes.map((id) => nodeName(board.state, id)).join(', ')})`;
  return [...rules, { kind: 'spread', required: false, segment, replica: null, message }];
}

/** Values of a label that nodes have which could hold a replica, whatever is free on their disks. */
function domainsWithRoom(board: PlacementBoard, volume: StoredVolume, key: string): Set<string> {
  const subject = subjectOf(volume);
  const { nodeSelector = {} } = subject.rules;
  const about = JSON.stringify([key, nodeSelector]);
  return board.remember(about, () => {
    const values = new Set<string>();
    for (const node of board.nodes) {
      const value = node.labels[key];
      if (value === undefined || !isUp(board.state, node.id) || cordonOf(node) !== null) continue;
      if (board.disksOf(node.id).length === 0) continue;
      const isWanted = Object.entries(nodeSelector).every(([name, v]) => node.labels[name] === v);
      if (isWanted) values.add(value);
    }
    return values;
  });
}

/** A move that mends a required rule without breaking another one. */
export interface Mend {
  broken: BrokenRule;
  from: VolumeReplica;
  place: Place;
}

/** Where a replica that breaks a required rule could go; null and why when it can go nowhere. */
export function mendOf(
  board: PlacementBoard,
  volume: StoredVolume,
  { segment, replica, required }: BrokenRule,
  avoid: ReadonlyMap<string, string> = new Map(),
): { from: VolumeReplica; place: Place } | { from: null; reason: string } {
  if (!required || !replica) return { from: null, reason: '' };
  const { state } = board;
  // of two that share a domain either may go; the one that its user reads from stays if it can
  const { local } = subjectOf(volume);
  const subject = subjectOf(volume);
  const own = state.nodes.get(replica.nodeId)?.value;
  const partners = stayingReplicas(segment).filter(
    ({ nodeId }) => own && domainRefusal(board, subject, own, [nodeId]) !== null,
  );
  const movable = [replica, ...partners].sort(
    (a, b) =>
      Number(a.nodeId === local) - Number(b.nodeId === local) ||
      (b.placedAtMs ?? 0) - (a.placedAtMs ?? 0),
  );
  let reason = '';
  for (const from of movable) {
    const sites = sitesOf(segment, state, (each) => each === from);
    for (const [diskId, why] of avoid) sites.avoid.set(diskId, why);
    const need = needOf(state, volume, segment, 'repair');
    const found = placeAnother(board, sites, need, 'move');
    if (found.place) return { from, place: found.place };
    reason = found.refusals.join('; ');
  }
  return { from: null, reason };
}

/** For people: what is broken, and what becomes of it. */
export function describeViolations(
  board: PlacementBoard,
  volume: StoredVolume,
): PlacementViolation[] {
  const { id, name } = volume.metadata;
  return brokenRules(board, volume).map((broken) => ({
    volume: name,
    volumeId: id,
    segment: broken.segment.index,
    kind: broken.kind,
    required: broken.required,
    message: broken.message,
    next: nextOf(board, volume, broken),
  }));
}

function nextOf(board: PlacementBoard, volume: StoredVolume, broken: BrokenRule): string {
  const { name } = volume.metadata;
  if (broken.kind === 'replicas') {
    const need = needOf(board.state, volume, broken.segment, 'repair');
    const found = placeAnother(board, sitesOf(broken.segment, board.state), need, 'update');
    if (found.place)
      return `one is about to be placed on node ${nodeName(board.state, found.place.nodeId)}`;
    return `no node can take one: ${found.refusals.join('; ')}`;
  }
  if (!broken.required) {
    return `nothing moves for a rule that is preferred: "storctl volume move ${name}" does it`;
  }
  if (volume.spec.policy.rebuildPaused) return 'nothing moves while rebuilds of it are paused';
  if (broken.segment.replicas.some(({ leaving }) => leaving === true)) return 'a replica is moving';
  const mend = mendOf(board, volume, broken);
  if (!mend.from) return `it cannot be mended: no single move keeps the rules: ${mend.reason}`;
  const from = nodeName(board.state, mend.from.nodeId);
  return `the replica on node ${from} moves to node ${nodeName(board.state, mend.place.nodeId)} once all replicas are in sync`;
}

/** How many rules of each kind are broken in the cluster, for the metric: kinds that are none too. */
export function countViolations(board: PlacementBoard): Record<ViolationKind, number> {
  const counts: Record<ViolationKind, number> = {
    domain: 0,
    selector: 0,
    affinity: 0,
    'anti-affinity': 0,
    tag: 0,
    replicas: 0,
    spread: 0,
    guarantee: 0,
  };
  for (const { value } of board.state.volumes.values()) {
    for (const { kind } of brokenRules(board, value)) counts[kind] += 1;
  }
  return counts;
}
