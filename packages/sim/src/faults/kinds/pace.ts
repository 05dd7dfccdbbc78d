/** A slow disk takes up to this much more for each step of a call (ms). */
export const slowDiskMs = [20, 200, 3_000];
/** Clients hurry for so long before and after the moment of a fault (ms). */
export const burstMs = 25;
