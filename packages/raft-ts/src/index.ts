export { RaftError, type RaftErrorCode } from './errors.ts';
export type * from './core/types.ts';
export {
  defaultLimits,
  maxFrameBytes,
  maxFrameMessages,
  maxPeerIdBytes,
  maxProposalBytes,
  maxSnapshotBytes,
  maxVoters,
  maxWholeSnapshotBytes,
  type RaftLimits,
} from './core/limits.ts';
export {
  describeMembership,
  membershipOf,
  type MemberChange,
  type Membership,
} from './core/membership.ts';
export { encodeMessages, decodeMessages } from './core/codec.ts';
export { inOnePiece } from './core/whole-snapshot.ts';
export {
  batchOf,
  RawNode,
  type OwnSnapshot,
  type Ready,
  type RaftStatus,
  type PeerProgress,
} from './core/raw-node.ts';
export type { CoreConfig } from './core/raft-state.ts';
export type { RaftStorage, SaveBatch, StoredState } from './core/storage.ts';
export { MemoryRaftStorage } from './memory-storage.ts';
export { LevelRaftStorage } from './level-storage.ts';
export type * from './key-value-log.ts';
export { maxMarkBytes } from './key-value-log.ts';
export { openLevelLog } from './level-log.ts';
export { RaftNode } from './raft-node.ts';
export type {
  RaftClock,
  RaftLogger,
  RaftNodeOptions,
  RaftStateMachine,
  RaftTransport,
} from './raft-options.ts';
export type { Proposed } from './proposals.ts';
