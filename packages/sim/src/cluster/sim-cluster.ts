import type { StorError } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { SimNetwork } from '../world/network.ts';
import type { SimScheduler } from '../world/scheduler.ts';
import type { SimNode } from './sim-node.ts';

/** Where nodes listen for their peers. */
export const peersPort = 2;
/** by lane; where there is one lane, nobody listens on the second */
export const peersPorts = [peersPort, 4];
/** Where orders of an operator come from. */
export const operatorHost = 'operator';

export interface SimVolume {
  readonly name: string;
  /** it may grow */
  sizeBytes: number;
  /** wanted replicas */
  readonly replicas: number;
  /** until a replica that is away is replaced; @default the product's (ms) */
  readonly replacementWaitMs?: number;
}

export type IoKind = 'read' | 'write' | 'zero' | 'trim' | 'flush';

export interface Io {
  kind: IoKind;
  offset: number;
  length: number;
  /** payload of a write, target of a read */
  bytes: Buffer | null;
  fua: boolean;
  noHole: boolean;
}

/** `error` is the server's; `lost`: the connection ended, and nobody knows. */
export type IoOutcome = 'done' | 'lost' | { error: string };

/** A client's connection to one node for one volume. */
export interface ClientLink {
  readonly isOpen: boolean;
  /** of the volume when it was opened */
  readonly sizeBytes: number;
  /** false: a change that was lost must not be sent again, as nobody knows when it takes effect */
  readonly mayResend: boolean;
  submit(io: Io): Promise<IoOutcome>;
  close(): void;
}

/** What the control plane has committed of one volume. */
export interface CommittedSet {
  volume: string;
  epoch: number;
  setRevision: number;
  /** replica ids */
  inSync: readonly string[];
  /** those that must have every acknowledged write: of the set before too, until this one is confirmed */
  whole: readonly string[];
}

/** What the control plane has committed of one snapshot. */
export interface KnownSnapshot {
  id: string;
  volume: string;
  /** '' when it is a hidden one */
  name: string;
  /** gone: there is no record of it any more */
  state: 'creating' | 'ready' | 'deleting' | 'gone';
  sizeBytes: number;
  groupId: string;
}

/** Every byte of an image, and which blocks match their checksum (1: it does). */
export interface ImageContent {
  bytes: Buffer;
  valid: Uint8Array;
}

/** One replica where it lies, for the checkers. */
export interface ReplicaView {
  replicaId: string;
  node: number;
  failed: string | null;
  marks: number[];
  highestEpoch: number;
  /** of the last set that it recorded; 0: none */
  setRevision: number;
  keptMemory: boolean;
  /** Null when it cannot be read now. */
  content(): Promise<ImageContent | null>;
  /** in the order in which they were taken */
  snapshots: readonly { id: string; state: 'prepared' | 'ready' | 'incomplete' }[];
  /** Null when it cannot be read now, or is not there. */
  snapshot(id: string): Promise<ImageContent | null>;
}

/** What an operator keeps of the control plane; at most one copy. */
export interface ControlBackups {
  /** Keeps what is committed now instead of the older copy; false when nobody leads. */
  take(): Promise<boolean>;
  /** There is a copy, and it names the replicas that there are now. */
  isUsable(): boolean;
  /** While no process runs: what was committed since the copy is forgotten, and epochs are raised. */
  putBack(): Promise<void>;
}

/** A whole cluster as the workload, the faults and the checkers see it. */
export interface SimCluster {
  readonly scheduler: SimScheduler;
  readonly network: SimNetwork;
  readonly random: Random;
  readonly nodes: readonly SimNode[];
  readonly volumes: readonly SimVolume[];
  /** cut these links, and the node is without the control plane while replicas still hear it */
  controlLinks(node: number): [string, string][];
  /** ... and these, and the replicas of two nodes do not hear each other: one direction, the other */
  dataLinks(a: number, b: number): [string, string][];
  readonly backups: ControlBackups;
  /** the directory of each node's disk */
  readonly diskPath: string;
  /** Loads what must be read from real files, before any virtual time runs. */
  prepare(): Promise<void>;
  /** Starts all nodes and creates the volumes; resolves when all are healthy. */
  create(): Promise<void>;
  /**
   * Connects from `host` to a node and opens the volume there. Rejects when that is refused. One that
   * `reconnects` finds other nodes by itself.
   */
  connect(host: string, node: number, volume: SimVolume, reconnects: boolean): Promise<ClientLink>;
  committed(volume: SimVolume): CommittedSet;
  /** Called at each commit of a set, in order. */
  onCommitted: (set: CommittedSet) => void;
  /** as far as any node has applied it; in the order in which they were made */
  snapshotsOf(volume: SimVolume): KnownSnapshot[];
  /** Called when a snapshot is in another state, in the event in which the first node applies it. */
  onSnapshot: (snapshot: KnownSnapshot) => void;
  /** Called when a primary begins to serve under a grant of the time `grantedMs`. */
  onServing: (volume: string, epoch: number, grantedMs: number) => void;
  /** Called when the processes of a node have ended. */
  onEnded: (node: number, how: 'kill' | 'power') => void;
  /** where the volume is attached, as the control plane has it; -1: nowhere */
  holderOf(volume: SimVolume): number;
  /** leader of the control plane; -1 when nobody knows */
  leader(): number;
  /** replicas that exist now and can be looked at */
  replicasOf(volume: SimVolume): ReplicaView[];
  /** node of each replica that the control plane knows */
  nodeOfReplica(replicaId: string): number;
  /**
   * One order of an operator, asked of each node once, of `first` before the others; false when it
   * was not carried out.
   */
  order(method: string, request: object, first?: number): Promise<boolean>;
  /** As `order`, with what came of it: null when it was carried out. */
  tryOrder(method: string, request: object): Promise<StorError | null>;
  /** as the control plane has it */
  sizeOf(volume: SimVolume): number;
  /** null when the volume is healthy, else why not */
  unhealthy(volume: SimVolume): Promise<string | null>;
  /** Gives the volume back wherever it is attached; false when that did not work. */
  detach(volume: SimVolume): Promise<boolean>;
}
