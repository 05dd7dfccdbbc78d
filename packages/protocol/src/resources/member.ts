import type { ClusterId, NodeId } from '../ids.ts';

/** A node as a member of the embedded cluster store. */
export interface Member {
  nodeId: NodeId;
  /** its name; the id while it has not registered yet */
  name: string;
  /** learner: it has the log and no vote */
  role: 'leader' | 'voter' | 'learner';
  /** host:port of its API, by which the others reach it */
  address: string;
  up: boolean;
  /** when it became a member (ms since 1970) */
  sinceMs: number;
  /** what the leader knows it to have of the log; null: no leader was reached */
  matchIndex: number | null;
  /** entries of the log that it lacks; null: no leader was reached */
  lagEntries: number | null;
  /** wanted, never: what an operator has said about its vote; auto: nothing */
  vote: 'auto' | 'wanted' | 'never';
}

export interface MemberSettings {
  /** 1, 3, 5 or 7; 0: 3, or as many as the configuration names */
  voters: number;
  /** a voter that is down for so long is replaced by another node (ms) */
  replacementWaitMs: number;
}

/** Lets nodes join. The secret is told once, when the token is made. */
export interface JoinToken {
  id: string;
  createdAtMs: number;
  expiresAtMs: number;
  usesLeft: number;
  /** ids of the nodes that have joined with it */
  usedBy: NodeId[];
}

/** What a node learns that joins. */
export interface JoinAnswer {
  clusterId: ClusterId;
  clusterName: string;
  /** '' is the cluster's first store; another one after a restore */
  storeId: string;
  members: { id: NodeId; address: string }[];
  /** of the etcd that the cluster's state is in; '' (absent from older nodes): the nodes keep it */
  store?: string;
}
