import { command, errnoName } from 'nbd-client-js';

export const nbdOperations = ['read', 'write', 'trim', 'flush'] as const;
/** WRITE_ZEROES counts as a write. BLOCK_STATUS and CACHE are not counted. */
export type NbdOperation = (typeof nbdOperations)[number];

/** Upper bounds of the latency histogram (seconds); one more bucket takes what is above. */
export const latencyBucketsSeconds: readonly number[] = [
  0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2,
  5, 10, 30,
];
const boundsMs = latencyBucketsSeconds.map((seconds) => seconds * 1000);

/** Answered requests of one kind, from the arrival of the whole request to its reply's turn. */
export class OperationStats {
  /** answered, errors included */
  ops = 0;
  /** of those answered without an error */
  bytes = 0;
  errors = 0;
  latencySumMs = 0;
  /** not cumulative; as many as `latencyBucketsSeconds` and one more */
  readonly latencyCounts: number[] = new Array<number>(boundsMs.length + 1).fill(0);

  record(latencyMs: number, bytes: number, isError: boolean): void {
    this.ops += 1;
    if (isError) this.errors += 1;
    else this.bytes += bytes;
    this.latencySumMs += latencyMs;
    let bucket = 0;
    while (bucket < boundsMs.length && latencyMs > boundsMs[bucket]!) bucket += 1;
    this.latencyCounts[bucket]! += 1;
  }
}

/** Since the server started; kept when the last connection goes. */
export class ExportStats {
  readonly volumeId: string;
  /** last name under which it was opened */
  name: string;
  connections = 0;
  inFlight = 0;
  readonly read = new OperationStats();
  readonly write = new OperationStats();
  readonly trim = new OperationStats();
  readonly flush = new OperationStats();

  constructor(volumeId: string, name: string) {
    this.volumeId = volumeId;
    this.name = name;
  }

  /** Where a request of this `command` of the protocol counts; null for one that is not counted. */
  operation(type: number): OperationStats | null {
    switch (type) {
      case command.read:
        return this.read;
      case command.write:
      case command.writeZeroes:
        return this.write;
      case command.trim:
        return this.trim;
      case command.flush:
        return this.flush;
      default:
        return null;
    }
  }
}

/**
 * `connections`: too many in all. `connections-per-peer`: too many from one address or over one UNIX
 * socket. `handshake-timeout`: it took too long. `tls`: no TLS could be agreed on, or the client was not
 * let in. `half-open`: it left its handshake unfinished, and another client needed the place. `stalled`:
 * it took no replies. `unfinished`: it left a request unfinished.
 */
export const refusalReasons = [
  'connections',
  'connections-per-peer',
  'handshake-timeout',
  'tls',
  'half-open',
  'stalled',
  'unfinished',
] as const;
export type RefusalReason = (typeof refusalReasons)[number];

/** Plain counters of one server, read by whoever serves metrics. */
export class NbdStats {
  /** by volume id */
  readonly exports = new Map<string, ExportStats>();
  /** error replies by errno name */
  readonly errors = new Map<string, number>();
  /** connections that the server has turned away or cut off, by reason */
  readonly refused = new Map<RefusalReason, number>(refusalReasons.map((reason) => [reason, 0]));
  /** how long the lane has waited awake for a client (see BusyPoll) */
  busyPollMs = 0;

  ofExport(volumeId: string, name: string): ExportStats {
    let stats = this.exports.get(volumeId);
    if (!stats) {
      stats = new ExportStats(volumeId, name);
      this.exports.set(volumeId, stats);
    }
    stats.name = name;
    return stats;
  }

  /** Forgets a volume that was deleted, so that the map does not grow for ever. */
  forget(volumeId: string): void {
    if (this.exports.get(volumeId)?.connections === 0) this.exports.delete(volumeId);
  }

  countRefused(reason: RefusalReason): void {
    this.refused.set(reason, (this.refused.get(reason) ?? 0) + 1);
  }

  countError(errno: number): void {
    const name = errnoName(errno);
    this.errors.set(name, (this.errors.get(name) ?? 0) + 1);
  }
}
