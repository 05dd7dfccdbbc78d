import type { ClusterId, NodeId } from '../ids.ts';
import type { Metadata } from './metadata.ts';
import type { NodeSpec } from './node-intent.ts';

export interface NodeAddresses {
  /** host:port of the gRPC API */
  api: string;
  /** host:port of HTTP: /metrics, /healthz, /readyz */
  http: string;
  /** host:port of the replication listener of each lane */
  peers: string[];
  /** host:port of the NBD listener of each lane */
  nbd: string[];
  /** path of the NBD UNIX socket of each lane */
  nbdUnix: string[];
  /** of NBD over TCP: a client may ask for TLS, or must; absent or empty: there is none */
  nbdTls?: string;
}

export interface Node {
  metadata: Metadata;
  spec: NodeSpec;
  status: {
    /** up: holds its node lease */
    state: 'up' | 'down';
    addresses: NodeAddresses;
    /** changes at each start of the agent process */
    agentInstance: string;
    bootId: string;
    version: string;
    /** in the embedded cluster store; none: it is down, or the store is another one */
    raftRole: 'leader' | 'voter' | 'learner' | 'none';
    /** it has no disk: it attaches and serves volumes whose replicas are on other nodes */
    computeOnly: boolean;
  };
}

export interface ClusterStatus {
  clusterId: ClusterId;
  name: string;
  version: string;
  leader: { nodeId: NodeId; node: string } | null;
  term: number;
  quorum: boolean;
  nodes: { total: number; up: number };
  disks: { total: number; online: number; capacityBytes: number; usedBytes: number };
  volumes: {
    total: number;
    healthy: number;
    degraded: number;
    suspended: number;
    unavailable: number;
  };
}
