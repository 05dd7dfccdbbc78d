import type { ReplicaId, VolumeId } from '../ids.ts';
import type { Node } from './node.ts';
import type { Attachment } from './volume.ts';

export type NodeVerb =
  'cordon' | 'uncordon' | 'drain' | 'evacuate' | 'maintenance' | 'decommission' | 'forget';

/** What a verb asked of a node does, or what is left of it; `--plan` prints it. */
export interface NodePlan {
  verb: NodeVerb;
  node: Node;
  /** volumes whose primary moves, live */
  attachments: {
    volume: string;
    volumeId: VolumeId;
    mode: Attachment['mode'];
    toNode: string;
  }[];
  /** replicas that move: a new one is filled before the old one leaves */
  moves: {
    volume: string;
    volumeId: VolumeId;
    segment: number;
    replicaId: ReplicaId;
    toNode: string;
    toDisk: string;
    bytes: number;
  }[];
  /** to be copied */
  bytes: number;
  /** at which `etaMs` is counted: of rebuilds that run now, or what is assumed without any */
  rate: { bytesPerSecond: number; source: 'measured' | 'assumed' };
  etaMs: number;
  /** volumes that are not as they are now while, or after, it is done; the worst first */
  effects: {
    volume: string;
    volumeId: VolumeId;
    /** lost: no copy of some part is left */
    becomes: 'degraded' | 'suspended' | 'unavailable' | 'lost';
    /** in-sync replicas of the segment that has fewest, at the lowest; and how many are wanted */
    inSync: number;
    wanted: number;
    text: string;
  }[];
  /** what can go nowhere at present; `replicaId` '': the attachment */
  blocked: {
    volume: string;
    volumeId: VolumeId;
    segment: number;
    replicaId: ReplicaId;
    reason: string;
  }[];
  /** what the node has at this moment, of what this verb moves away */
  remaining: { attachments: number; replicas: number };
  safe: boolean;
  /** why it is not safe, the most important first; empty when it is */
  reasons: string[];
  /** what is good to know although it is safe */
  notes: string[];
}
