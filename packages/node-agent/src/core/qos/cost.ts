const kib = 1024;

/**
 * What a request takes of a lane besides its bytes, in bytes: on the machines that were measured a
 * 1 MiB write costs about 65 times what a 4 KiB one does.
 */
const requestCost = 12 * kib;
/** A range that is freed or zeroed carries no bytes; beyond this it costs no more (bytes). */
const maxRangeCost = 64 * kib;

/** The cost of the smallest request there usually is. */
export const smallRequestCost = requestCost + 4 * kib;

/** What a request takes of a lane, to weigh requests of all sizes against each other (bytes). */
export function costOf(length: number, hasPayload: boolean): number {
  return requestCost + (hasPayload ? length : Math.min(length, maxRangeCost));
}
