/**
 * What this program can apply. The state itself has a level, 1 at first, by which all members apply a
 * command alike: it rises by a command, when all of them know the new one (`LevelKeeper`). A program that
 * does not know it stops at that command, and at a snapshot of such a state.
 */
export const kvLevel = 2;

/**
 * Limits of the cluster store. They are checked where a request enters, and those that bound the
 * state also where it is applied, so every member must have the same values: raising one takes a new
 * level.
 */
export const kvLimits = {
  /** etcd's users stay far below this; it keeps a listing of all keys in memory cheap (bytes) */
  maxKeyBytes: 512,
  /** a record of ours has a few KiB; a value is one piece of one gRPC message (bytes) */
  maxValueBytes: 1024 * 1024,
  /** of compares, and of operations, in one transaction */
  maxTransactionItems: 256,
  /** keys and values of one transaction: with framing it stays below gRPC's default of 4 MiB */
  maxTransactionBytes: 2 * 1024 * 1024,
  /** all keys and values: up to level 1 a Raft snapshot had to fit into one message of 64 MiB (bytes) */
  maxStateBytes: 32 * 1024 * 1024,
  /**
   * The same from level 2 on. Every member has all of it in memory, twice with what is decoded from it, and
   * reads it at its start: 10,000 volumes with long scrub histories take 54 MiB (bytes)
   */
  maxStateBytesOfLevel2: 128 * 1024 * 1024,
  /** what a key costs besides its bytes: revisions and ids in a snapshot (bytes) */
  keyOverheadBytes: 128,
  maxLeases: 10_000,
  minLeaseMs: 10,
  maxLeaseMs: 24 * 60 * 60 * 1000,
  /** ids of leases and requests (characters) */
  maxIdLength: 64,
  /** changes kept for watches that start in the past or are slow */
  maxHistoryChanges: 10_000,
  maxHistoryBytes: 16 * 1024 * 1024,
  /** requests whose outcome is remembered, so that a retry is applied once */
  maxRememberedRequests: 10_000,
} as const;
