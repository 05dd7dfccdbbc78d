/** Sizes that the design fixes (docs/glossary.md): unit of I/O, of allocation, of marking. */
export const blockBytes = 4096;
export const chunkBytes = 256 * 1024;
export const regionBytes = 4 * 1024 * 1024;
export const blocksPerChunk = chunkBytes / blockBytes;
export const chunksPerRegion = regionBytes / chunkBytes;

/** Largest payload of one NBD or peer request: what NBD clients expect a server to take (2^25). */
export const maxPayloadBytes = 32 * 1024 * 1024;

/**
 * A volume is at least one block. The upper bound is what its segments can have: more of them would
 * make its record too large for one value of the cluster store.
 */
export const minVolumeBytes = blockBytes;
export const maxVolumeBytes = 64 * 2 ** 40;
export const maxSegments = 256;
/**
 * A segment is placed on its own. It is made of whole regions; the upper bound keeps the flat chunk
 * map of its replicas at 256 MiB.
 */
export const minSegmentBytes = regionBytes;
export const defaultSegmentBytes = 64 * 2 ** 30;
export const maxSegmentBytes = 16 * 2 ** 40;

/** More copies than this cost writes more than they add safety. */
export const maxReplicas = 5;

/** Snapshots of one volume, and of all: each is a record of some 600 bytes in the control plane. */
export const maxSnapshotsPerVolume = 4_096;
export const maxSnapshots = 16_384;
/** Volumes in one group snapshot: all of them are held, so that one slow one stops all. */
export const maxSnapshotGroup = 64;
/** The longest pause of I/O for a snapshot (ms): when it would take longer it is given up. */
export const snapshotHoldMs = 100;

/** Policies of a cluster: each change of one is told to all its volumes. */
export const maxPolicies = 256;
/** Tenants of a cluster. */
export const maxTenants = 1_024;
/** Characters of a description. */
export const maxDescriptionLength = 256;

/** A deleted volume stays in the trash for this long (ms), and at most a year. */
export const defaultTrashKeepMs = 24 * 3_600_000;
export const maxTrashKeepMs = 366 * 24 * 3_600_000;

/** Time after which a silent node loses its lease, and how often it renews (ms). */
export const nodeLeaseMs = 6_000;
export const nodeLeaseRenewMs = 1_000;

/** A secondary's word to the primary that it knows no newer epoch (I6), by the primary's clock. */
export const replicaLeaseMs = 3_000;
/** Added to a full replica lease before a new primary serves: clocks of two hosts drift apart. */
export const replicaLeaseDriftMs = 150;
/** Pings between agents; four fit into `peerSilenceMs`. */
export const peerPingMs = 500;
/** Silence of a peer after which it leaves the in-sync set. */
export const peerSilenceMs = 2_000;

/** A replica that is away for longer is replaced on another node (ms): reboots take less. */
export const replacementWaitMs = 10 * 60_000;
/** The longest waits that a volume's policy may ask for (ms): a day, and a month. */
export const maxIoTimeoutMs = 24 * 3_600_000;
export const maxReplacementWaitMs = 30 * 24 * 3_600_000;

/** An `auto` attachment is released this long after its last connection closed. */
export const autoDetachMs = 30_000;

/** Scrubs: how often and how fast by default, and the bounds of both (ms, bytes per second). */
export const scrubEveryMs = 7 * 24 * 3_600_000;
export const minScrubEveryMs = 60_000;
export const maxScrubEveryMs = 365 * 24 * 3_600_000;
export const scrubRateBytes = 64 * 1024 * 1024;
export const minScrubRateBytes = 1024 * 1024;
export const maxScrubRateBytes = 16 * 1024 * 1024 * 1024;

/** NBD limits. An option larger than this is answered with TOO_BIG (export names are <= 4096). */
export const maxNbdOptionBytes = 16 * 1024;
export const nbdHandshakeTimeoutMs = 30_000;
export const maxNbdConnectionsPerLane = 1_024;

/** Bound of a peer's JSON frame body (channel open, marks): checked before allocation. */
export const maxPeerControlBytes = 16 * 1024 * 1024;
