import type { NbdError } from '../nbd-error.ts';
import type { BlockSizes } from './client-handshake.ts';
import { errno, optionReplyType, transmissionFlag } from './constants.ts';

/**
 * What one try to connect came to. `unknown`: there is no such export. `refused`: there is, but not
 * here or not for us (attached elsewhere), or what answers is no NBD server, or not the right one. `unreachable`: nobody there, or not now.
 */
export type TryOutcome = 'unknown' | 'refused' | 'unreachable';

export function tryOutcome(error: NbdError): TryOutcome {
  if (error.code === 'PROTOCOL' || error.code === 'TLS') return 'refused';
  if (error.code !== 'REFUSED') return 'unreachable';
  if (error.optionReply === optionReplyType.errUnknown) return 'unknown';
  return error.optionReply === optionReplyType.errShutdown ? 'unreachable' : 'refused';
}

/**
 * Whether a round of tries at all addresses ends the search. When connecting for the first time,
 * it does when every server has said no. After that a refusal may pass (the volume moves to another
 * server as soon as the lost one is known to be dead), and only an export that nobody knows is final.
 */
export function isFinalRound(outcomes: readonly TryOutcome[], isFirst: boolean): boolean {
  return outcomes.every((outcome) => outcome === 'unknown' || (isFirst && outcome === 'refused'));
}

/**
 * Pause before the next round (ms) after `failures` (>= 1) in a row: doubling, and by `chance`
 * (0 to 1) shortened to no less than half, so that the clients of one server do not come together.
 */
export function backoffMs(failures: number, minMs: number, maxMs: number, chance: number): number {
  const fullMs = Math.min(maxMs, minMs * 2 ** Math.min(failures - 1, 30));
  return fullMs / 2 + (fullMs / 2) * chance;
}

/** True when a request that failed with this counts as not answered, and is sent again. */
export function isUnanswered(error: NbdError): boolean {
  return error.code === 'DISCONNECTED' || (error.code === 'IO' && error.errno === errno.ESHUTDOWN);
}

export interface ExportFacts {
  readonly sizeBytes: number;
  readonly flags: number;
  readonly blockSizes: Readonly<BlockSizes>;
  readonly metaContexts: readonly string[];
}

/**
 * What requests that wait were made for. The other flags may come and go, as when servers are upgraded
 * one by one: they are hints, or a request that needs one is refused by itself.
 */
const reliedOn =
  transmissionFlag.hasFlags |
  transmissionFlag.readOnly |
  transmissionFlag.sendFlush |
  transmissionFlag.sendFua |
  transmissionFlag.sendTrim |
  transmissionFlag.sendWriteZeroes |
  transmissionFlag.canMultiConn;

/** How an export differs from what it was, in words; null when requests made for it still fit. */
export function exportDifference(was: ExportFacts, is: ExportFacts): string | null {
  // one that has grown has everything that it had
  if (is.sizeBytes < was.sizeBytes) {
    return `its size changed from ${was.sizeBytes} to ${is.sizeBytes} bytes`;
  }
  if ((is.flags & reliedOn) !== (was.flags & reliedOn)) {
    return `its flags changed from ${flagNames(was.flags)} to ${flagNames(is.flags)}`;
  }
  for (const key of ['minimum', 'preferred', 'maximum'] as const) {
    if (is.blockSizes[key] === was.blockSizes[key]) continue;
    return `its ${key} block size changed from ${was.blockSizes[key]} to ${is.blockSizes[key]} bytes`;
  }
  const missing = was.metaContexts.find((name) => !is.metaContexts.includes(name));
  return missing === undefined ? null : `it has no metadata context ${missing} any more`;
}

function flagNames(flags: number): string {
  const names = Object.entries(transmissionFlag)
    .filter(([, bit]) => (flags & bit) !== 0)
    .map(([name]) => name);
  return `0x${flags.toString(16)} (${names.join(', ')})`;
}
