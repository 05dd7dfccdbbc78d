import {
  maxNbdConnectionsPerLane,
  maxNbdOptionBytes,
  maxPayloadBytes,
  nbdHandshakeTimeoutMs,
} from '@stor/protocol';

/** Every bound of the NBD server, so that no client can make it use more than this. */
export interface NbdLimits {
  /** data of one option; a larger one is answered TOO_BIG (bytes) */
  optionBytes: number;
  /** data of a too large option that is skipped; beyond it the connection ends (bytes) */
  skippedOptionBytes: number;
  /** options in one handshake: listing asks two questions about each export */
  options: number;
  /** metadata contexts of one connection: each makes every block status longer */
  metaContexts: number;
  /** from accept to the last option, TLS too, time that the server itself takes not counted (ms) */
  handshakeMs: number;
  /** answers of the handshake that the client has not taken; above it no option is read (bytes) */
  handshakeOutputBytes: number;
  /**
   * of a client's time in the handshake: where there is no place for a newcomer, one that has used so
   * much of it and still owes an answer gives up its place (ms)
   */
  halfOpenMs: number;
  /** on all listeners together */
  connections: number;
  /** of those from one address, or over one UNIX socket: one client must not take the place of all */
  connectionsPerPeer: number;
  /**
   * replies wait and the client has taken nothing of them for so long: it has vanished without a word,
   * or hangs; it is cut off (ms). The kernel ends TCP when so long nothing is acknowledged. One that has
   * nothing to take is found out by TCP keepalive
   */
  stalledMs: number;
  /**
   * a request has begun to arrive and nothing more of it comes for so long: the connection ends (ms). All
   * of it may take so long and the time that `requestBytesPerMs` gives it
   */
  requestMs: number;
  /** the slowest client that is waited for: 32 MiB in nine minutes (bytes per ms) */
  requestBytesPerMs: number;
  /** payload of one READ or WRITE (bytes) */
  payloadBytes: number;
  /** payload of a too large WRITE that is skipped; beyond it the connection ends (bytes) */
  skippedPayloadBytes: number;
  /** requests of one connection that the device has not finished */
  inFlightRequests: number;
  /** payload of those (bytes); one request is always let in */
  inFlightBytes: number;
  /** payload of all connections: arriving, in the device, and not taken; above it requests wait (bytes) */
  memoryBytes: number;
  /** replies that the client has not taken; above it no request is read (bytes) */
  outputBytes: number;
  /** READ up to this is tried at once, straight into the reply (bytes) */
  inlineReadBytes: number;
  /** parts with data and holes in the answer to one READ; at least 3 */
  readPieces: number;
  /** descriptors in one answer to BLOCK_STATUS */
  statusDescriptors: number;
  /** of a longer TRIM or WRITE_ZEROES so much is given to the device at a time (bytes) */
  effectBytes: number;
  /** of a CACHE so much is read; the rest is left out (bytes) */
  cacheBytes: number;
  /** range that one BLOCK_STATUS is answered for at most: looking at it takes time (bytes) */
  statusBytes: number;
  /** free read buffers kept for reuse by all connections (bytes) */
  pooledBytes: number;
  /** how long `close` lets started requests finish before it cuts the connections (ms) */
  closeDrainMs: number;
  /** how long a client in its handshake is told that the server stops, before it is closed (ms) */
  stopGraceMs: number;
}

const mebibyte = 1024 * 1024;

export const defaultNbdLimits: NbdLimits = {
  optionBytes: maxNbdOptionBytes,
  skippedOptionBytes: mebibyte,
  options: 32_768,
  metaContexts: 16,
  handshakeMs: nbdHandshakeTimeoutMs,
  handshakeOutputBytes: mebibyte,
  halfOpenMs: 1_000,
  connections: maxNbdConnectionsPerLane,
  connectionsPerPeer: (maxNbdConnectionsPerLane * 3) / 4,
  stalledMs: 60_000,
  requestMs: 60_000,
  requestBytesPerMs: 64,
  payloadBytes: maxPayloadBytes,
  skippedPayloadBytes: 2 * maxPayloadBytes,
  inFlightRequests: 256,
  inFlightBytes: 64 * mebibyte,
  memoryBytes: 512 * mebibyte,
  outputBytes: 4 * mebibyte,
  inlineReadBytes: 64 * 1024,
  readPieces: 64,
  statusDescriptors: 1_024,
  effectBytes: 1024 * mebibyte,
  cacheBytes: 64 * mebibyte,
  statusBytes: 64 * 1024 * mebibyte,
  pooledBytes: 64 * mebibyte,
  closeDrainMs: 10_000,
  stopGraceMs: 500,
};
