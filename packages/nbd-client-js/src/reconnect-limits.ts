import { NbdError } from './nbd-error.ts';

/** Bounds of a reconnecting client; the defaults are below, with their reasons. */
export interface ReconnectLimits {
  /** from connecting to the server's first bytes (ms) */
  greetingTimeoutMs: number;
  /** from connecting to the grant of the export (ms) */
  grantTimeoutMs: number;
  /** pause after the first round of failed tries (ms); it doubles with each */
  backoffMinMs: number;
  backoffMaxMs: number;
  /** an address that did not greet is left out for so long, when there are others (ms) */
  avoidSilentMs: number;
  /** time without a connection that the oldest request has waited, after which every request fails (ms) */
  giveUpMs: number;
  /** the same for `connect` (ms); servers that all refuse end it at once */
  firstGiveUpMs: number;
  /** when requests are out and no byte comes for so long, the server is probed (ms) */
  silenceMs: number;
  /** requests on the wire at once */
  maxInFlight: number;
  /** requests that are not answered, sent or not; above it they are refused with OVERLOADED */
  maxUnanswered: number;
  /** their payload, read or written (bytes) */
  maxUnansweredBytes: number;
}

export const defaultReconnectLimits: Readonly<ReconnectLimits> = {
  // A live server greets at once. A host that is gone answers nothing, and TCP would try for minutes.
  greetingTimeoutMs: 3_000,
  // Taking an export over may mean to fence, to wait out leases and to settle: that is not silence.
  grantTimeoutMs: 30_000,
  // A server that restarts is back in a fraction of a second; many clients must not drown it.
  backoffMinMs: 100,
  // The pause adds to the outage that a user sees, so it stays short.
  backoffMaxMs: 500,
  // Waiting for a dead host in each round would make every round as long as that wait.
  avoidSilentMs: 5_000,
  // Several times what a cluster needs to move an export (leases of some seconds), and short enough
  // that a person at a terminal learns that nothing comes back.
  giveUpMs: 60_000,
  // A server that died a moment ago must not fail a client that starts now.
  firstGiveUpMs: 15_000,
  // A busy server may be silent; probing it costs one connection.
  silenceMs: 2_000,
  maxInFlight: 64,
  // Each new request is compared with all of them.
  maxUnanswered: 4_096,
  maxUnansweredBytes: 256 * 1024 * 1024,
};

/** Throws INVALID_ARGUMENT for a limit that is not a positive whole number. */
export function completeLimits(given: Partial<ReconnectLimits>): ReconnectLimits {
  const limits = { ...defaultReconnectLimits };
  for (const name of Object.keys(limits) as (keyof ReconnectLimits)[]) {
    const value = given[name] ?? limits[name];
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new NbdError('INVALID_ARGUMENT', `${name} ${value} is not a positive whole number`);
    }
    limits[name] = value;
  }
  return limits;
}
