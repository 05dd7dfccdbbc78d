import type { DiskId, NodeId, VolumeId } from '../ids.ts';

/** Which volumes a rule speaks of: all that have these labels; the volume itself never counts. */
export interface AffinityRule {
  labels: Record<string, string>;
  /** true: a node that breaks it takes no replica; false: it is only taken after others */
  required: boolean;
  /** of `antiAffinity` only: a node label key whose members count as one; '' or absent: the node */
  domain?: string;
}

/** Where the replicas of a volume may lie. What is absent or empty has its default. */
export interface PlacementRules {
  /** node label keys: of each segment at most one replica lies in each of their values */
  required?: string[];
  /**
   * Node label keys over which replicas are spread as far as it goes, the first one first (nested:
   * zone, then rack). Empty: `zone` when any node has that label. `['none']`: over none.
   */
  preferred?: string[];
  /** only nodes that have all these labels */
  nodeSelector?: Record<string, string>;
  /** volumes beside which its replicas should lie */
  affinity?: AffinityRule[];
  /** volumes from which its replicas should keep away */
  antiAffinity?: AffinityRule[];
}

/** A part of a candidate's score, for people. */
export interface ScorePart {
  name: 'spread' | 'local' | 'affinity' | 'apart' | 'space';
  points: number;
  text: string;
}

/** A disk that could take a replica. */
export interface PlacementCandidate {
  nodeId: NodeId;
  node: string;
  diskId: DiskId;
  disk: string;
  score: number;
  parts: ScorePart[];
  /** which of the wanted replicas would go there, from 1; 0: none */
  chosen: number;
}

/** A node or disk that can take none. */
export interface PlacementRefusal {
  nodeId: NodeId;
  node: string;
  /** '' when it is about the whole node */
  diskId: DiskId;
  disk: string;
  /** one sentence that follows the node's name */
  reason: string;
  /** for programs: down, taken, selector, no-label, domain, affinity, anti-affinity, no-space, ... */
  code: string;
}

export type ViolationKind =
  | 'domain'
  | 'selector'
  | 'affinity'
  | 'anti-affinity'
  | 'tag'
  | 'replicas'
  | 'spread'
  | 'guarantee';

/** A rule that the replicas of a volume break at present. */
export interface PlacementViolation {
  volume: string;
  volumeId: VolumeId;
  segment: number;
  kind: ViolationKind;
  /** false: the rule is one that is kept when it is possible */
  required: boolean;
  /** one sentence */
  message: string;
  /** what becomes of it by itself, or why nothing does */
  next: string;
}

/** `storctl placement explain`. */
export interface PlacementExplanation {
  /** '' for a volume that does not exist */
  volume: string;
  volumeId: VolumeId;
  /** index of the segment that is spoken of */
  segment: number;
  /** how many replicas are to be placed; 0: it has all that are wanted */
  replicas: number;
  /** nodes that have a replica which stays */
  placed: string[];
  rules: PlacementRules;
  /** best first */
  candidates: PlacementCandidate[];
  refused: PlacementRefusal[];
  violations: PlacementViolation[];
  /** why there are not places enough; '' when there are */
  problem: string;
}
