/**
 * dockerd waits two minutes for Create and Mount and one for everything else, and then says no more than
 * that a deadline has passed. Ours end a little earlier, with what is waited for (ms).
 */
export const longCallMs = 110_000;
export const callMs = 50_000;
/**
 * dockerd sends a call whose connection broke again for up to 30 s. So long an answer that did not
 * arrive is kept for it (ms), with some room for a slow machine.
 */
export const repeatMs = 60_000;
/**
 * A node that was killed holds what is published to it until its lease is over. One that still has it
 * after that, and a little for the control plane to see it, is alive (ms, added to the node lease).
 */
export const takeOverExtraMs = 2_000;
/** How often a volume is looked at, or asked for, that something else is still done with (ms). */
export const lookAgainMs = 250;
/** How often it is tried to unmount what somebody outside of Docker had files open on (ms). */
export const leftoverRetryMs = 10_000;

/** A request is a name, an id and a few options (bytes). */
export const maxBodyBytes = 256 * 1024;
/** dockerd opens one connection for each call: more at a time than a host starts containers. */
export const maxConnections = 1_024;
/** A client that sends its request slower than this is cut off (ms). */
export const requestTimeoutMs = 10_000;
/** Calls that wait for an earlier one for the same volume; more are refused at once. */
export const maxCallsPerVolume = 512;
/** Mounts that are counted, of all volumes of a host: each container has one for each volume. */
export const maxMounts = 16_384;
/** Characters of a caller's id; dockerd's have 64. */
export const maxCallerIdLength = 256;

/** What `docker run -v name:/data` gets, which has no options. Space is taken as it is written. */
export const defaultSizeBytes = 10 * 2 ** 30;
/** mkfs refuses what is smaller, in words that do not name the volume (bytes). */
export const minFileSystemBytes = { ext4: 8 * 2 ** 20, xfs: 300 * 2 ** 20 } as const;
