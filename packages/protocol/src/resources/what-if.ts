import type { NodeId, VolumeId } from '../ids.ts';
import type { NodePlan } from './node-plan.ts';

/** What the loss of nodes and disks would mean: `storctl simulate`. Nothing is changed. */
export interface LossSimulation {
  /** what is taken as lost, by names */
  nodes: string[];
  disks: string[];
  /** how all volumes would be */
  counts: {
    readWrite: number;
    degraded: number;
    suspended: number;
    unavailable: number;
    lost: number;
  };
  /** those that have something there, the worst first; read-write: as many copies as are wanted */
  volumes: {
    volume: string;
    volumeId: VolumeId;
    becomes: 'read-write' | 'degraded' | 'suspended' | 'unavailable' | 'lost';
    inSync: number;
    wanted: number;
    text: string;
  }[];
  /** what is copied until all have as many copies again as they can have, and who finds no room */
  recovery: {
    replicas: number;
    bytes: number;
    rate: NodePlan['rate'];
    etaMs: number;
    blocked: NodePlan['blocked'];
  };
  /** null: the cluster store is not kept by the nodes */
  raft: { voters: number; left: number; needed: number; hasQuorum: boolean } | null;
}

/** In which order agents may be restarted, and what is in the way: `storctl upgrade plan`. */
export interface UpgradePlan {
  versions: { version: string; nodes: string[] }[];
  steps: {
    node: string;
    nodeId: NodeId;
    version: string;
    raftRole: string;
    /** volumes attached there, whose clients are cut off unless they are moved before */
    attachments: number;
    effects: NodePlan['effects'];
    /** why it must not be restarted now; empty when it may */
    reasons: string[];
  }[];
  safe: boolean;
  reasons: string[];
}
