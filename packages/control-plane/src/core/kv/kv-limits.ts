/**
 * Limits of the cluster store. They are checked where a request enters, and those that bound the
 * state also where it is applied, so every member must have the same values: raising one is a
 * change of format.
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
  /** all keys and values: a Raft snapshot of them must fit into one message of 64 MiB (bytes) */
  maxStateBytes: 32 * 1024 * 1024,
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
