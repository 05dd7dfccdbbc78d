import type { StorError } from '@stor/protocol';
import type { Clock, Files, Logger, Random } from '@stor/runtime';
import { RaftNode, encodeMessages, type RaftStateMachine, type RaftStorage } from 'raft-ts';
import type { RpcServer, RpcTransport } from '../rpc/rpc-transport.ts';
import { fromRaftStorage } from './raft-errors.ts';
import type { MemberAddress } from './member-book.ts';
import type { PeerConnections } from './peer-connections.ts';
import type { RaftLogs } from './raft-logs.ts';

export interface EmbeddedStoreOptions {
  clusterId: string;
  /** of this member */
  id: string;
  /**
   * Members whose address (host:port of their server) the configuration says. Without `voters` they
   * are the first voters, the same on each member, and this one is among them.
   */
  members: MemberAddress[];
  /**
   * The voters of a store that is made now: this member alone; none for a member that joins, or that
   * goes on with the log it has.
   */
  voters?: string[];
  /** Where this member is called back by others; learned by them. @default only `members` says so */
  address?: string;
  /** addresses that were learned when this member joined */
  known?: MemberAddress[];
  /** The store that this member has joined; '' is the first one. @default that of the folder */
  storeId?: string;
  /** a folder of this store's own; made when it is not there */
  dataPath: string;
  /** The store adds its service; the caller makes the server listen, before or after. */
  server: RpcServer;
  /** to the other members @default gRPC */
  rpc?: RpcTransport;
  /** where `dataPath` lies @default the host's */
  files?: Files;
  /** where the Raft log is kept @default LevelDB */
  logs?: RaftLogs;
  clock: Clock;
  random: Random;
  logger: Logger;
  /** Raft's unit of time; an election takes 10 to 20 (ms, default 100) */
  tickMs?: number;
  /** applied entries between two snapshots of the log (default 10,000) */
  snapshotEntries?: number;
  /** This member has stopped for good, for example because its disk failed. Called once. */
  onFatal?: (error: StorError) => void;
}

/** Why this member has stopped for good, and who wants to know. */
export interface Failure {
  error: StorError | null;
  listener: () => void;
}

/** Starts the Raft node of this member. Errors: those of raft-ts. */
export function openNode(
  options: EmbeddedStoreOptions,
  parts: {
    machine: RaftStateMachine;
    storage: RaftStorage;
    connections: PeerConnections;
    failure: Failure;
  },
): Promise<RaftNode> {
  const { tickMs, snapshotEntries } = options;
  const { failure } = parts;
  return RaftNode.open({
    id: options.id,
    initialVoters: options.voters ?? options.members.map((member) => member.id),
    storage: parts.storage,
    stateMachine: parts.machine,
    transport: {
      send: (to, messages) => {
        parts.connections.send(to, encodeMessages(messages));
      },
    },
    clock: options.clock,
    random: () => options.random.next(),
    logger: options.logger,
    onFatal: (error) => {
      failure.error = fromRaftStorage(error, options.dataPath);
      failure.listener();
      options.onFatal?.(failure.error);
    },
    ...(tickMs === undefined ? {} : { tickMs }),
    ...(snapshotEntries === undefined ? {} : { snapshotEntries }),
  });
}
