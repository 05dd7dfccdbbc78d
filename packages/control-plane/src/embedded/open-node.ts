import type { StorError } from '@stor/protocol';
import type { Clock, Files, Logger, Random } from '@stor/runtime';
import { RaftNode, encodeMessages, type RaftStateMachine, type RaftStorage } from 'raft-ts';
import type { RpcServer, RpcTransport } from '../rpc/rpc-transport.ts';
import { PeerLink } from './peer-link.ts';
import { fromRaftStorage } from './raft-errors.ts';
import type { RaftLogs } from './raft-logs.ts';
import { callMetadata } from './raft-rpc.ts';

export interface EmbeddedStoreOptions {
  clusterId: string;
  /** of this member; must be among `members` */
  id: string;
  /** all voters, the same on each member; address is host:port of their server */
  members: { id: string; address: string }[];
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

/** One link to each other member; nothing is connected yet. */
export function openLinks(
  options: EmbeddedStoreOptions,
  transport: RpcTransport,
): Map<string, PeerLink> {
  const { clock, random, logger, clusterId, id } = options;
  const peers = options.members.filter((member) => member.id !== id);
  return new Map(
    peers.map((peer) => {
      const metadata = callMetadata(clusterId, id, peer.id);
      const { address } = peer;
      return [peer.id, new PeerLink({ address, metadata, clock, random, logger, transport })];
    }),
  );
}

/** Starts the Raft node of this member. Errors: those of raft-ts. */
export function openNode(
  options: EmbeddedStoreOptions,
  parts: {
    machine: RaftStateMachine;
    storage: RaftStorage;
    links: Map<string, PeerLink>;
    failure: Failure;
  },
): Promise<RaftNode> {
  const { tickMs, snapshotEntries } = options;
  const { failure } = parts;
  return RaftNode.open({
    id: options.id,
    initialVoters: options.members.map((member) => member.id),
    storage: parts.storage,
    stateMachine: parts.machine,
    transport: {
      send: (to, messages) => {
        parts.links.get(to)?.send(encodeMessages(messages));
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
