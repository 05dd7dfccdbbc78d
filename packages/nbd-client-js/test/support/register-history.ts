/** One operation on one block; times are places in one sequence of events. */
export interface RegisterOperation {
  kind: 'write' | 'read';
  /** unique among writes; 0 is what the block held at first */
  value: number;
  invokedAt: number;
  /** Infinity: never answered, so it may have happened at any time since, or not at all */
  answeredAt: number;
}

/**
 * Why a history of one block is not linearizable; null when it is. All writes are of different
 * values, so that each read names the write that it saw, and the test is exact (Gibbons and Korach,
 * "Testing Shared Memories", 1997): the operations of one value span a zone from their first answer
 * to their last call; two zones that run forward may not meet, nor may one hold a whole backward one.
 */
export function historyFault(history: readonly RegisterOperation[]): string | null {
  const zones = new Map<
    number,
    { invokedAt: number; first: number; last: number; read: boolean }
  >();
  zones.set(0, { invokedAt: -1, first: -1, last: -1, read: true });
  for (const { kind, value, invokedAt, answeredAt } of history) {
    if (kind === 'write') {
      zones.set(value, { invokedAt, first: answeredAt, last: invokedAt, read: false });
    }
  }
  for (const { kind, value, invokedAt, answeredAt } of history) {
    if (kind !== 'read') continue;
    const zone = zones.get(value);
    if (!zone) return `a read of ${value}, which nobody wrote`;
    if (answeredAt < zone.invokedAt) return `a read of ${value} before it was written`;
    zone.first = Math.min(zone.first, answeredAt);
    zone.last = Math.max(zone.last, invokedAt);
    zone.read = true;
  }
  // what was neither answered nor seen need not have happened
  const all = [...zones].filter(([, zone]) => zone.read || zone.first < Infinity);
  for (const [value, zone] of all) {
    if (zone.first >= zone.last) continue;
    for (const [other, { first, last }] of all) {
      if (other === value) continue;
      const [from, to] = first < last ? [first, last] : [last, first];
      if (
        first < last ? from < zone.last && zone.first < to : zone.first < from && to < zone.last
      ) {
        return `${value} was there from ${zone.first} to ${zone.last}, and ${other} from ${from} to ${to}`;
      }
    }
  }
  return null;
}
